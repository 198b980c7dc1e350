"""A bundle as an MLflow model: `mlflow.pyfunc.load_model` finds this loader in the bundle's MLmodel file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mainspring.data.frames import to_columns
from mainspring.serving.runtime import Scorer

if TYPE_CHECKING:
    import pandas as pd


class BundleModel:
    """What MLflow calls a Python model."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer

    def predict(self, frame: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Return the answers in the frame's order: columns `label` and `probability`, or `prediction`.

        Raises:
            NotFound: a column of the signature is absent.
            Invalid: a column is of another kind.
        """
        import pandas as pd
        import polars as pl

        inputs = self._scorer.signature.inputs
        table = pl.from_pandas(frame[[name for name in inputs.names if name in frame]])
        for column in inputs:
            # pandas has whole numbers with some missing as floats.
            if column.dtype == "int64" and table.schema.get(column.name) == pl.Float64:
                values = table[column.name]
                if (values.drop_nulls() == values.drop_nulls().floor()).all():
                    table = table.with_columns(values.cast(pl.Int64))
        columns = to_columns(table, inputs)
        answers = self._scorer.render(self._scorer.score(columns, len(frame)))
        if self._scorer.signature.classes:
            return pd.DataFrame(answers, index=frame.index, columns=["label", "probability"])
        return pd.DataFrame({"prediction": answers}, index=frame.index)


def _load_pyfunc(path: str) -> BundleModel:
    """Load the bundle in a folder; called by MLflow."""
    return BundleModel(Scorer.load(Path(path)))
