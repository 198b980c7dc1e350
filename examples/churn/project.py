"""Which customers are about to leave? Contract, features, proof, an approval, and an endpoint in one file."""

import mainspring as ms

churn = ms.Project("churn", owner="retention", oncall="#retention-oncall")

# customers -----------------------------------------------------------------------------------------------------------

customers = churn.dataset("data/customers.csv.gz", key="customerID")

customers.expect(
    ms.check.unique("customerID"),
    ms.check.not_null(
        "tenure", "MonthlyCharges", "Contract"
    ),  # TotalCharges is blank for customers of less than a month
    ms.check.between("tenure", 0, 100),
    ms.check.between("MonthlyCharges", 0, 500),
    ms.check.one_of("Contract", ["Month-to-month", "One year", "Two year"]),
    ms.check.one_of("Churn", ["Yes", "No"]),
    ms.check.rows(at_least=1_000),
    ms.check.stable("MonthlyCharges", psi=0.2),  # a currency mix-up moves this long before it moves a metric
)

# features: of the request alone, so training and the endpoint compute them with the same function --------------------


@churn.feature
def paid_per_month(request):
    """What an average month has cost so far, whatever the customer pays now."""
    return request.TotalCharges / (request.tenure + 1.0)


@churn.feature
def price_rise(request, paid_per_month):
    """How far the present bill is above the usual one: people leave after a price rise."""
    return request.MonthlyCharges - paid_per_month.fill_null(0)


@churn.feature
def is_new(request):
    return request.tenure < 6


# model ---------------------------------------------------------------------------------------------------------------


@churn.model(
    predicts=customers["Churn"],
    uses=[customers.without("gender"), paid_per_month, price_rise, is_new],
    metric="roc_auc",
    split=ms.by_chance(test=0.25, seed=7),
)
def leaver(X, y, C=0.3):
    from sklearn.compose import make_column_selector, make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    words, numbers = make_column_selector(dtype_exclude="number"), make_column_selector(dtype_include="number")
    encode = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), words),
        (make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), numbers),
    )
    return make_pipeline(encode, LogisticRegression(C=C, max_iter=2_000)).fit(X, y)


# proof, then a second pair of eyes, then production ------------------------------------------------------------------

leaver.must(
    ms.gate.beats_baseline(by=0.25, baseline="majority"),
    ms.gate.at_least("roc_auc", 0.80, confidence=0.95),
    ms.gate.slices("Contract", at_least=0.65),
    ms.gate.slices("SeniorCitizen", at_least=0.75),
    ms.gate.no_leakage(),
    ms.gate.parity(),
    ms.gate.latency(p99="50ms"),
    ms.gate.not_worse_than_live(margin=0.005),
    ms.gate.approved(by="approver"),
)
leaver.serve()
