"""The comparison finds what formats are known to get wrong, and passes what is right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import lightgbm
import numpy as np
import pytest
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from mainspring.core.errors import Invalid
from mainspring.core.schema import Column, Schema
from mainspring.data.frames import to_columns
from mainspring.packaging.parity import ParityReport, compare, edge_rows, judged, ordinary_rows
from mainspring.packaging.predictor import EstimatorPredictor, answer_of
from packaging_models import fitted, inputs_of, signature_of, split_columns, table


@dataclass
class Altered:
    """A predictor that is wrong in one way."""

    inner: EstimatorPredictor
    how: str
    format: str = "altered"

    def predict(self, columns: Mapping[str, Any], n: int) -> Any:
        if self.how == "float32":
            columns = {k: v.astype(np.float32).astype(float) if v.dtype.kind == "f" else v for k, v in columns.items()}
        if self.how == "unknown is free":
            known = {"free", "basic", "gold"}
            columns = {**columns, "plan": np.array([v if v in known else "free" for v in columns["plan"]], object)}
        if self.how == "nan is zero":
            columns = {**columns, "rate": np.nan_to_num(columns["rate"])}
        scores = self.inner.predict(columns, n)
        return scores + 1e-3 if self.how == "shifted" else scores


def report_of(model: Any, how: str) -> ParityReport:
    frame = table()
    inputs = inputs_of(frame)
    reference = EstimatorPredictor(model, inputs, answer_of(model, signature_of("churn", inputs)))
    tested, sample = to_columns(frame[400:], inputs), to_columns(frame[:400], inputs)
    return compare(
        Altered(reference, how),
        ordinary_rows(reference.predict, tested, 200),
        edge_rows(reference.predict, sample, 400, inputs),
    )


def boosted(encoder: Any) -> Any:
    return fitted(
        make_pipeline(split_columns(StandardScaler(), encoder), lightgbm.LGBMClassifier(verbose=-1, n_jobs=1)),
        table()[:400], "churn",
    )  # fmt: skip


@pytest.mark.parametrize("how", ["float32", "nan is zero", "shifted"])
def test_a_packed_model_that_is_wrong_somewhere_is_found_out(how: str) -> None:
    report = report_of(boosted(OneHotEncoder(handle_unknown="ignore")), how)
    assert not report.agrees
    assert report.largest > 1e-4


def test_rounding_to_float32_shows_on_edge_rows_though_not_on_test_rows() -> None:
    assert "edge row" in report_of(boosted(OneHotEncoder(handle_unknown="ignore")), "float32").note


def test_an_unchanged_model_agrees_exactly() -> None:
    report = report_of(boosted(OneHotEncoder(handle_unknown="ignore")), "not at all")
    assert report.agrees
    assert report.largest == 0
    assert report.rows == 200 + report.edge_rows
    assert report.edge_rows > 50


def test_a_number_for_a_row_that_the_model_refuses_is_found_out() -> None:
    report = report_of(boosted(OneHotEncoder()), "unknown is free")
    assert not report.agrees
    assert "refuses get a score" in report.note
    assert report.refused_rows > 0


def test_the_search_for_jumps_ends_beside_the_threshold() -> None:
    threshold = 0.1234567890123
    inputs = Schema((Column("x", "float64"),))
    rows = edge_rows(lambda c, n: (c["x"] > threshold).astype(float), {"x": np.linspace(-3, 3, 50)}, 50, inputs)
    nearest = np.sort(np.abs(rows.columns["x"] - threshold))
    assert nearest[0] <= np.spacing(np.float32(threshold)) / 8
    assert set(rows.scores) == {0.0, 1.0}


def test_the_search_for_jumps_keeps_whole_numbers_whole() -> None:
    inputs = Schema((Column("at", "int64", nullable=False),))
    sample = {"at": 1_700_000_000_000 + np.arange(0, 100_000, 1000)}
    rows = edge_rows(lambda c, n: (c["at"] > 1_700_000_012_345).astype(float), sample, 100, inputs)
    assert rows.columns["at"].dtype == np.int64
    assert {1_700_000_012_345, 1_700_000_012_346} <= set(rows.columns["at"].tolist())


def test_rows_that_a_model_refuses_are_told_from_those_it_takes() -> None:
    def picky(columns: Mapping[str, Any], n: int) -> Any:
        if (columns["x"] < 0).any():
            raise ValueError("negative")
        return columns["x"] * 2

    rows = judged(picky, {"x": np.array([1.0, -1.0, 2.0, np.nan])}, 4)

    assert rows.refused.tolist() == [False, True, False, True]
    assert rows.scores[[0, 2]].tolist() == [2.0, 4.0]


def test_a_model_that_refuses_every_test_row_is_an_error_of_its_own() -> None:
    model = fitted(make_pipeline(split_columns(SimpleImputer(), OneHotEncoder()), LogisticRegression(max_iter=2000)),
                   table(), "churn")  # fmt: skip
    frame = table()
    inputs = inputs_of(frame)
    reference = EstimatorPredictor(model, inputs, answer_of(model, signature_of("churn", inputs)))
    columns = to_columns(frame, inputs) | {"plan": np.array(["new"] * 600, object)}
    with pytest.raises(Invalid, match="refuses every test row"):
        ordinary_rows(reference.predict, columns, 600)
