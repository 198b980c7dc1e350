"""A cold `mainspring run` beside a plain script that fits, measures and stores the same model; prints the difference.

Run: python benchmarks/cold_run.py [CSV TARGET KEY]; by default the telco churn file of MAINSPRING_TEST_DATA. The budget is
four seconds more than the script, for a tracked, proven, registered and released version instead of a file.
"""

from __future__ import annotations

import gzip
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BUDGET_S = 4.0
REPEATS = 5

FIT = """
def fit(X, y):
    from lightgbm import LGBMClassifier
    from sklearn.compose import make_column_selector, make_column_transformer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OrdinalEncoder

    words = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    encode = make_column_transformer((words, make_column_selector(dtype_include=["object", "str"])), remainder="passthrough")
    return make_pipeline(encode, LGBMClassifier(verbose=-1, n_jobs=1, random_state=0)).fit(X, y)
"""
PLAIN = (
    FIT
    + """
import joblib
import pandas as pd
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score
from sklearn.model_selection import train_test_split

frame = pd.read_csv("{csv}", na_values=[" "])
y, X = frame.pop("{target}").to_numpy(), frame.drop(columns="{key}")
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.2, random_state=0, stratify=y)
model = fit(X_train, y_train)
scores = model.predict_proba(X_test)[:, 1]
print(roc_auc_score(y_test == model.classes_[1], scores), log_loss(y_test, scores), accuracy_score(y_test, model.predict(X_test)))
dummy = DummyClassifier().fit(X_train, y_train)
numbers = X_train.select_dtypes("number").fillna(0)
LogisticRegression(max_iter=500).fit(numbers, y_train)
joblib.dump(model, "model.joblib")
"""
)
PROJECT = (
    "import mainspring as ms\n\n"
    + FIT
    + """

telco = ms.Project("telco")
customers = telco.dataset("{csv}", key="{key}")


@telco.model(predicts=customers["{target}"])
def churn(X, y):
    return fit(X, y)


churn.must(ms.gate.at_least("roc_auc", 0.7), ms.gate.parity())
"""
)


def _seconds(command: list[str], folder: Path) -> float:
    began = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command} failed:\n{done.stdout}\n{done.stderr}")
    return time.perf_counter() - began


def main() -> int:
    """Run both in turn and return 1 when the difference is over the budget."""
    names = {"target": "Churn", "key": "customerID"} | dict(zip(("target", "key"), sys.argv[2:4], strict=False))
    default = (
        Path(os.environ.get("MAINSPRING_TEST_DATA", "../shared/data")) / "telco_churn" / "telco_customer_churn.csv.gz"
    )
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    plain, ours = [], []
    for _ in range(REPEATS):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            raw = gzip.decompress(source.read_bytes()) if source.suffix == ".gz" else source.read_bytes()
            (folder / "data.csv").write_bytes(raw)
            (folder / "plain.py").write_text(_fill(PLAIN, names))
            (folder / "project.py").write_text(_fill(PROJECT, names))
            plain.append(_seconds([sys.executable, "plain.py"], folder))
            ours.append(_seconds([sys.executable, "-m", "mainspring.cli.main", "run"], folder))
            shutil.rmtree(folder / ".mainspring")
    extra = statistics.median(ours) - statistics.median(plain)
    print(
        f"plain script   {statistics.median(plain):.2f} s (median of {REPEATS}, {min(plain):.2f} to {max(plain):.2f})"
    )
    print(f"mainspring run {statistics.median(ours):.2f} s (median of {REPEATS}, {min(ours):.2f} to {max(ours):.2f})")
    print(f"more           {extra:.2f} s (budget {BUDGET_S:.0f} s)")
    return int(extra > BUDGET_S)


def _fill(text: str, names: dict[str, str]) -> str:
    for name, value in {**names, "csv": "data.csv"}.items():
        text = text.replace("{" + name + "}", value)
    return text


if __name__ == "__main__":
    sys.exit(main())
