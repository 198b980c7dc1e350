"""Which of 77 queues does a customer's question belong to? Learned again every Monday from what agents decided."""

import mainspring as ms

tickets = ms.Project("tickets", owner="support-ml", oncall="#support-tools")

questions = tickets.dataset("data/questions.csv", schedule="0 5 * * 1", zone="Europe/Amsterdam", on_bad="quarantine")

questions.expect(
    ms.check.not_null("text", "category"),
    ms.check.unique("text"),
    ms.check.matches("text", r"(?s).{5,2000}"),  # a bare "hi" teaches nothing; it is set aside with the reason
    ms.check.matches("category", r"[A-Za-z_?]+"),
)


@tickets.model(
    predicts=questions["category"],
    uses=questions["text"],
    metric="macro_f1",  # every queue counts the same, the small ones too
    split=ms.by_chance(test=0.2, seed=3, together="text"),
    schedule="0 6 * * 1",  # Monday, before the first shift
    zone="Europe/Amsterdam",
)
def router(X, y, alpha=2e-5):
    from sklearn.compose import make_column_transformer
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import SGDClassifier
    from sklearn.pipeline import make_pipeline

    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    linear = SGDClassifier(
        loss="log_loss", alpha=alpha, random_state=0
    )  # a probability for each of 77 queues, in a blink
    return make_pipeline(make_column_transformer((words, "text")), linear).fit(X, y)


router.must(
    ms.gate.beats_baseline(),
    ms.gate.at_least("macro_f1", 0.75, confidence=0.95),
    ms.gate.at_least("top3", 0.90),  # agents see three suggestions
    ms.gate.parity(),
    ms.gate.latency(p99="100ms"),
    ms.gate.not_worse_than_live(margin=0.01),
)
router.serve()
router.watch(every="1d", alert_if=["error_rate > 1%", "p99 > 500ms"])
