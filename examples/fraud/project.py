"""Card fraud: payments by day, outcomes that come late, an endpoint, and a loop that notices when fraud changes."""

import polars as pl

import mainspring as ms

fraud = ms.Project("fraud", owner="risk-ml", oncall="#risk-oncall")

# data: one window a day, kept for 400; the card number never reaches a table as it is ----------------------------------


@fraud.dataset(key="tx_id", time="at", pii={"card": "hash"}, start="2026-03-01", schedule="0 2 * * *", retain="400d")
def payments(day: ms.Day) -> pl.DataFrame:
    return pl.read_parquet(f"raw/payments/{day}.parquet")


payments.expect(
    ms.check.unique("tx_id"),
    ms.check.not_null("at", "country", "merchant"),
    ms.check.between("amount", 0, 50_000),
    ms.check.between("hour", 0, 24),
    ms.check.matches("country", "[A-Z]{2}"),
    ms.check.rows(at_least=50),  # a day with fewer is a broken delivery, not a quiet day
)

# A payment is fraud when it is charged back, and settled when it was not: either is known a day and a half later. Rows
# younger than two days are not learned from, and their predictions are not judged yet.
chargebacks = fraud.labels("raw/chargebacks.parquet", key="tx_id", time="reported_at", value="is_fraud", matures="2d")

# features ---------------------------------------------------------------------------------------------------------------


@fraud.feature
def amount_ratio(request):
    """How unusual the amount is for this card."""
    return request.amount / (request.usual_amount + 1.0)


# model ------------------------------------------------------------------------------------------------------------------


@fraud.model(
    predicts=chargebacks,
    uses=[payments[["amount", "usual_amount", "hour", "country", "merchant", "device_days"]], amount_ratio],
    metric="roc_auc",
    split=ms.by_time(test="2d"),
)
def scorer(X, y, learning_rate=0.08, trees=120):
    from lightgbm import LGBMClassifier
    from sklearn.compose import make_column_transformer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OrdinalEncoder

    words = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    encode = make_column_transformer((words, ["country", "merchant"]), remainder="passthrough")
    model = LGBMClassifier(learning_rate=learning_rate, n_estimators=trees, num_leaves=15, random_state=0, verbose=-1)
    return make_pipeline(encode, model).fit(X, y)


scorer.must(
    ms.gate.beats_baseline(by=0.2, baseline="majority"),
    ms.gate.at_least("roc_auc", 0.70),
    ms.gate.not_worse_than_live(margin=0.01),
    ms.gate.no_leakage(),
    ms.gate.parity(),
    ms.gate.latency(p99="50ms"),
)
scorer.serve()

# Fraud answers back. Each day is judged when it is over, and again when its outcomes are in; a model that has fallen
# behind is trained again, goes through the gates above, and replaces the old one only where it is better.
scorer.watch(score="roc_auc >= 0.70", every="1d", alert_if="p99 > 100ms", heal="retrain | rollback", cooldown="2d")
