"""Encoders of categories as lookup tables, filled by asking the fitted encoder itself."""

from __future__ import annotations

from typing import Any

import numpy as np

from mainspring.packaging.graph import MISSING, Array, Block, Graph, Slot, Untranslatable, slots

_UNKNOWN = "\ue000unknown"
_NUMBER_FOR_MISSING = -1.7e308


def encode(graph: Graph, encoder: Any, block: Block) -> Block:
    """Add a OneHotEncoder, OrdinalEncoder or TargetEncoder: one table row per category, one for missing, one for new.

    What the encoder refuses (a category it never saw, when told to) becomes NaN, and the graph's scores with it.
    """
    if len(encoder.categories_) != len(block):
        raise Untranslatable(f"{type(encoder).__name__} over several targets")
    if getattr(encoder, "classes_", None) is not None and len(encoder.classes_) > 2:
        raise Untranslatable("TargetEncoder of several classes")
    probe = _Probe(encoder, block)
    out: list[Slot] = []
    for index, slot in enumerate(block):
        known = [value for value in encoder.categories_[index] if not _is_missing(value)]
        if slot.text and not all(isinstance(value, str) for value in known):
            raise Untranslatable("an encoder of categories that are not text in a text column")
        rows = probe.rows(index, known)
        missing, refuses_missing = probe.row_or_refusal(index, None if slot.text else np.nan)
        unseen, refuses_unseen = probe.row_or_refusal(index, _UNKNOWN if slot.text else _beyond(known))
        table = np.vstack([rows, missing, unseen])
        row = _text_row(graph, slot, known) if slot.text else _number_row(graph, slot, known)
        tensor = graph.add("Gather", table, row, axis=0)
        if refuses_missing or refuses_unseen:
            flags = np.zeros(len(table))
            flags[-2:][[refuses_missing, refuses_unseen]] = np.nan
            graph.refusals.append(graph.add("Gather", flags[:, None], row, axis=0))
        out += slots(tensor, table.shape[1])
    return tuple(out)


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float | np.floating) and bool(np.isnan(value)))


def _beyond(known: list[Any]) -> float:
    return float(max([0.0, *(abs(float(value)) for value in known)])) + 1.5


def _text_row(graph: Graph, slot: Slot, known: list[str]) -> str:
    keys = [*known, MISSING]
    return graph.add(
        "LabelEncoder", graph.vector(slot), domain="ai.onnx.ml", keys_strings=keys,
        values_int64s=list(range(len(keys))), default_int64=len(keys),
    )  # fmt: skip


def _number_row(graph: Graph, slot: Slot, known: list[Any]) -> str:
    """Return the table row of a number: the position of the first equal category, or the last row when none is."""
    keys = np.array([*(float(value) for value in known), _NUMBER_FOR_MISSING])[None, :]
    value = graph.gather((slot,))
    value = graph.add("Where", graph.add("IsNaN", value), np.array([[_NUMBER_FOR_MISSING]]), value)
    hits = graph.add("Cast", graph.add("Equal", value, keys), to="float64")
    # A last column of 0.5, as long as the value's, wins only where nothing matches.
    half = graph.add("Where", graph.add("IsNaN", value), np.array([[0.5]]), np.array([[0.5]]))
    return graph.add("ArgMax", graph.add("Concat", hits, half, axis=1), axis=1, keepdims=0)


class _Probe:
    """Asks a fitted encoder for one column's output at chosen values, the other columns at their first category."""

    def __init__(self, encoder: Any, block: Block) -> None:
        self.encoder = encoder
        self.block = block
        # A category that is missing cannot stand in for the others: it may itself be refused.
        self.rest = [next((v for v in values if not _is_missing(v)), None) for values in encoder.categories_]
        widths = getattr(encoder, "_n_features_outs", [1] * len(block))
        self.ends = np.cumsum(widths)
        self.starts = self.ends - widths

    def rows(self, index: int, values: list[Any]) -> Array:
        """Return the encoder's output for each value of column `index`, shape (len(values), width)."""
        width = int(self.ends[index] - self.starts[index])
        if not values:
            return np.empty((0, width))
        found = self.encoder.transform(self._frame(index, values))
        dense = np.asarray(found.toarray() if hasattr(found, "toarray") else found, np.float64)
        return dense[:, self.starts[index] : self.ends[index]]

    def row_or_refusal(self, index: int, value: Any) -> tuple[Array, bool]:
        """Return the output for one value and False, or a row of NaN and True when the encoder refuses it."""
        try:
            return self.rows(index, [value]), False
        except (ValueError, TypeError):
            return np.full((1, int(self.ends[index] - self.starts[index])), np.nan), True

    def _frame(self, index: int, values: list[Any]) -> Any:
        import pandas as pd

        columns = [values if i == index else [rest] * len(values) for i, rest in enumerate(self.rest)]
        texts = [slot.text for slot in self.block]
        if not hasattr(self.encoder, "feature_names_in_"):
            kind = object if any(known.dtype == object for known in self.encoder.categories_) else np.float64
            return np.array(list(zip(*columns, strict=True)), dtype=kind).reshape(len(values), len(columns))
        return pd.DataFrame({
            name: pd.Series(column, dtype=object if text else None)
            for name, column, text in zip(self.encoder.feature_names_in_, columns, texts, strict=True)
        })  # fmt: skip
