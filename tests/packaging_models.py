"""Tables and fitted models that the packaging tests share; also run as a script, to pack in another process."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from mainspring.core.schema import Schema, Signature
from mainspring.core.settings import load_settings
from mainspring.data.frames import schema_of, to_pandas
from mainspring.packaging.bundle import Packed, pack
from mainspring.store.workspace import Workspace, open_workspace

LOCK = "lightgbm==4.7.0\nmainspring==0.1.0\nnumpy==2.4.6\nonnxruntime==1.31.1\nscikit-learn==1.9.1\nskops==0.16.0\n"


def table(n: int = 600, seed: int = 0) -> pl.DataFrame:
    """Return rows with every type of column, missing values in some, and three targets."""
    rng = np.random.default_rng(seed)
    amount, age = rng.lognormal(3, 1, n), rng.integers(18, 90, n)
    plan = rng.choice(["free", "basic", "gold"], n, p=[0.5, 0.3, 0.2])
    score = 0.02 * amount - 0.01 * age + (plan == "gold") + rng.normal(0, 0.5, n)
    columns = {
        "amount": amount, "rate": np.where(rng.random(n) < 0.1, None, rng.normal(size=n)), "age": age,
        "plan": plan, "region": [None if x < 0.1 else "north" if x < 0.6 else "süd" for x in rng.random(n)],
        "active": rng.random(n) < 0.7, "churn": np.where(score > np.median(score), "yes", "no"),
        "tier": np.digitize(score, np.quantile(score, [0.33, 0.66])), "spend": amount * (1 + (plan == "gold")) + age,
    }  # fmt: skip
    types = {"rate": pl.Float64, "region": pl.String}
    return pl.DataFrame({name: pl.Series(list(values), dtype=types.get(name)) for name, values in columns.items()})


TARGETS = ("churn", "tier", "spend")
TEXTS, NUMBERS = ["plan", "region"], ["amount", "rate", "age", "active"]


def inputs_of(frame: pl.DataFrame) -> Schema:
    return schema_of(frame.drop(TARGETS))


def signature_of(target: str, inputs: Schema) -> Signature:
    if target == "churn":
        return Signature(inputs, "binary", ("no", "yes"), "yes")
    return Signature(inputs, "multiclass", (0, 1, 2)) if target == "tier" else Signature(inputs, "regression")


def fitted(estimator: Any, frame: pl.DataFrame, target: str) -> Any:
    y = frame[target].to_numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return estimator.fit(to_pandas(frame, inputs_of(frame)), y.astype(object) if target == "churn" else y)


def split_columns(numbers: Any, texts: Any) -> Any:
    from sklearn.compose import ColumnTransformer

    return ColumnTransformer([("numbers", numbers, NUMBERS), ("texts", texts, TEXTS)])


def packed(ws: Workspace, estimator: Any, frame: pl.DataFrame, target: str, **options: Any) -> Packed:
    inputs = inputs_of(frame)
    return pack(
        ws, estimator=estimator, signature=signature_of(target, inputs), model_inputs=inputs, features_json=[],
        sample=frame[:400], test=frame[400:], environment_lock=LOCK, data={"customers": "sha256:00"}, code="sha256:11",
        params={"depth": 3}, seed=7, **options,
    )  # fmt: skip


def some_models() -> dict[str, Any]:
    """Return unfitted models of which one comes out in each safe format."""
    from lightgbm import LGBMClassifier
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    return {
        "onnx": make_pipeline(
            split_columns(SimpleImputer(), OneHotEncoder(handle_unknown="ignore")), LogisticRegression(max_iter=2000)
        ),
        "skops": make_pipeline(
            ColumnTransformer([
                ("text", TfidfVectorizer(stop_words=["the", "a", "of"]), "plan"), ("numbers", SimpleImputer(), NUMBERS),
            ]),
            RandomForestClassifier(5, random_state=0),
        ),
        "lightgbm": LGBMClassifier(n_estimators=5, verbose=-1, n_jobs=1, zero_as_missing=True),
    }  # fmt: skip


def main(home: Path) -> None:
    """Print the digest of a bundle of each format, made in this process."""
    ws = open_workspace(load_settings(home, environment={}))
    for format, model in some_models().items():
        frame = table() if format != "lightgbm" else table().drop(TEXTS)
        print(format, packed(ws, fitted(model, frame, "churn"), frame, "churn").digest)
    ws.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
