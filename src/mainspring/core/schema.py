"""Typed columns: what a table holds and what a model takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from mainspring.core.errors import Invalid, NotFound, nearest

DType = Literal["int64", "float64", "bool", "string", "datetime", "date"]
Task = Literal["binary", "multiclass", "regression", "forecast"]
Label = str | int | bool | float


@dataclass(frozen=True, slots=True)
class Column:
    """One column; `nullable` says whether a value may be missing."""

    name: str
    dtype: DType
    nullable: bool = True
    description: str = ""
    unit: str = ""

    def __post_init__(self) -> None:
        if self.dtype not in get_args(DType):
            raise Invalid(f"{self.dtype!r} is not a column type", hint=f"use one of {', '.join(get_args(DType))}")


@dataclass(frozen=True, slots=True)
class SchemaDiff:
    """What changed from one schema to another; `retyped` holds (name, before, after)."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    retyped: tuple[tuple[str, str, str], ...]

    @property
    def is_empty(self) -> bool:
        return not (self.added or self.removed or self.retyped)

    @property
    def is_additive(self) -> bool:
        return not (self.removed or self.retyped)


@dataclass(frozen=True, slots=True)
class Schema:
    """Columns in order; law: `Schema.from_json(s.to_json()) == s`."""

    columns: tuple[Column, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    def __iter__(self) -> Iterator[Column]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __getitem__(self, name: str) -> Column:
        for column in self.columns:
            if column.name == name:
                return column
        raise NotFound(f"no column {name!r}{nearest(name, self.names)}", hint=f"columns: {', '.join(self.names)}")

    def only(self, names: tuple[str, ...]) -> Schema:
        """Return the schema of the named columns, in the order of the names."""
        return Schema(tuple(self[name] for name in names))

    def diff(self, after: Schema) -> SchemaDiff:
        """Return what changed from this schema to `after`."""
        return SchemaDiff(
            added=tuple(name for name in after.names if name not in self),
            removed=tuple(name for name in self.names if name not in after),
            retyped=tuple(
                (c.name, c.dtype, after[c.name].dtype)
                for c in self
                if c.name in after and after[c.name].dtype != c.dtype
            ),
        )

    def to_json(self) -> list[dict[str, Any]]:
        return [asdict(column) for column in self.columns]

    @classmethod
    def from_json(cls, data: list[dict[str, Any]]) -> Schema:
        return cls(tuple(Column(**column) for column in data))


@dataclass(frozen=True, slots=True)
class Signature:
    """What a model takes and gives.

    Scores have one shape per task: binary (n,), the probability of `positive`; multiclass (n, k) in the order of
    `classes`; regression and forecast (n,). For binary, `classes` is (negative, positive).

    Args:
        inputs: Columns that a request must carry.
        task: What kind of answer the model gives.
        classes: The labels a classifier can answer.
        positive: The label whose probability a binary score is.
        extras: Columns a request may carry (keys, entity, time): logged, never shown to the model.
    """

    inputs: Schema
    task: Task
    classes: tuple[Label, ...] = ()
    positive: Label | None = None
    extras: Schema = Schema()

    def to_json(self) -> dict[str, Any]:
        return {
            "inputs": self.inputs.to_json(),
            "task": self.task,
            "classes": list(self.classes),
            "positive": self.positive,
            "extras": self.extras.to_json(),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Signature:
        return cls(
            inputs=Schema.from_json(data["inputs"]),
            task=data["task"],
            classes=tuple(data["classes"]),
            positive=data["positive"],
            extras=Schema.from_json(data["extras"]),
        )
