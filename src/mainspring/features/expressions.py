"""The feature language: an expression as data, with one evaluator for training and serving.

Every value is a NumPy array of one of four kinds, and missing has one spelling in each:

| kind | array | missing |
| --- | --- | --- |
| number | float64 | NaN |
| flag | float64 holding 0 and 1 | NaN |
| text | object holding str | None |
| instant | datetime64[us], UTC | NaT |

What cannot be computed is missing, never a made-up number: a result that is not finite (division by zero, the
logarithm of 0, overflow) is missing, missing in gives missing out, and -0.0 is 0.0. Whole numbers above 2**53 are
compared as floats.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mainspring.core.errors import Invalid, nearest
from mainspring.core.schema import DType

Array = npt.NDArray[Any]
Kind = Literal["number", "flag", "text", "instant", "null"]

AGGREGATES = ("count", "sum", "mean", "min", "max", "std", "first", "last")
# A definition is data that may come from a bundle: shared subtrees could otherwise grow without bound.
_MAX_SIZE, _MAX_DEPTH = 2_000, 64
_KIND_OF_DTYPE: dict[str, Kind] = {
    "int64": "number", "float64": "number", "bool": "flag", "string": "text", "datetime": "instant", "date": "instant",
}  # fmt: skip
_DTYPE_OF_KIND: dict[Kind, DType] = {
    "number": "float64", "flag": "float64", "text": "string", "instant": "datetime", "null": "float64",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Node:
    """One operation of an expression; law: `from_json(node.to_json()) == node`.

    Args:
        op: `column`, `feature`, `literal`, a name of the operation table, or one of `AGGREGATES`.
        args: The operands.
        value: The name of a column or feature, or the value of a literal.
    """

    op: str
    args: tuple[Node, ...] = ()
    value: str | float | bool | datetime | None = None
    size: int = field(init=False, compare=False, repr=False)
    depth: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.op not in ("column", "feature", "literal", *AGGREGATES, *OPERATIONS):
            raise Invalid(f"{self.op!r} is not an operation of the feature language{nearest(self.op, OPERATIONS)}")
        object.__setattr__(self, "size", 1 + sum(arg.size for arg in self.args))
        object.__setattr__(self, "depth", 1 + max((arg.depth for arg in self.args), default=0))
        if self.size > _MAX_SIZE or self.depth > _MAX_DEPTH:
            raise Invalid(
                f"the expression has more than {_MAX_SIZE} operations or {_MAX_DEPTH} levels",
                hint="split it into several features; one feature can take another as a parameter",
            )

    def __str__(self) -> str:
        if self.op in ("column", "feature"):
            return str(self.value)
        return repr(self.value) if self.op == "literal" else f"{self.op}({', '.join(map(str, self.args))})"

    def walk(self) -> Iterator[Node]:
        """Yield this node and every node below it."""
        yield self
        for arg in self.args:
            yield from arg.walk()

    def names(self, op: Literal["column", "feature"]) -> tuple[str, ...]:
        """Return the columns or features that the expression reads, each once, in order of first use."""
        return tuple(dict.fromkeys(str(node.value) for node in self.walk() if node.op == op))

    def to_json(self) -> Any:
        """Return the node as JSON: a literal is itself, a name is an object, an operation is a list."""
        if self.op == "literal":
            return {"instant": self.value.isoformat()} if isinstance(self.value, datetime) else self.value
        if self.op in ("column", "feature"):
            return {self.op: self.value}
        return [self.op, *(arg.to_json() for arg in self.args)]


def from_json(data: Any, *, _depth: int = 0) -> Node:
    """Return the node that `to_json` wrote.

    Raises:
        Invalid: an unknown operation, a wrong number of operands, or an expression too large.
    """
    if _depth > _MAX_DEPTH:
        raise Invalid(f"the expression has more than {_MAX_DEPTH} levels")
    match data:
        case {"column": str(name)}:
            return Node("column", value=name)
        case {"feature": str(name)}:
            return Node("feature", value=name)
        case {"instant": str(text)}:
            return literal(datetime.fromisoformat(text))
        case [str(op), *args]:
            return make(op, *(from_json(arg, _depth=_depth + 1) for arg in args))
        case None | bool() | int() | float() | str():
            return literal(data)
    raise Invalid(f"{type(data).__name__} is not part of the feature language")


def literal(value: Any) -> Node:
    """Return a constant: a number, a flag, a text, an instant, or None for missing."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise Invalid(f"{value!r} has no time zone", hint="datetime(2026, 1, 1, tzinfo=UTC)")
        return Node("literal", value=value.astimezone(UTC))
    if value is not None and not isinstance(value, bool | int | float | str):
        raise Invalid(
            f"a {type(value).__name__} cannot stand in a feature expression",
            hint="use numbers, texts, booleans, None, datetimes with a zone, and columns",
        )
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = float(value)
        if not np.isfinite(value):
            raise Invalid(f"{value} cannot stand in a feature expression", hint="use None for a missing value")
    return Node("literal", value=value)


def make(op: str, *args: Node) -> Node:
    """Return `op` applied to `args`, after checking that it takes so many."""
    if op in AGGREGATES:
        low, high = (0 if op == "count" else 1), 1
    elif op in OPERATIONS:
        takes = OPERATIONS[op].takes
        low, high = (2, _MAX_SIZE) if op == "is_in" else (len(takes), len(takes))
    else:
        raise Invalid(f"{op!r} is not an operation of the feature language{nearest(op, [*OPERATIONS, *AGGREGATES])}")
    if not low <= len(args) <= high:
        raise Invalid(f"{op} takes {low} operands, not {len(args)}")
    return Node(op, args)


def evaluate(node: Node, columns: Mapping[str, Array], n: int) -> Array:
    """Return the value of `node` for each row, shape (n,), in one of the four kinds of this module.

    Args:
        node: An expression without aggregates.
        columns: The columns and features it reads, each of shape (n,).
        n: How many rows.

    Raises:
        Invalid: a column is absent, or an operand is of the wrong kind.
    """
    # Numeric faults become missing values by rule; NumPy must not print about them.
    with np.errstate(all="ignore"):
        value = _evaluate(node, columns)
    return np.array(np.broadcast_to(value, (n,))) if value.shape != (n,) else value


def _evaluate(node: Node, columns: Mapping[str, Array]) -> Array:
    if node.op == "literal":
        return _literal_array(node.value)
    if node.op in ("column", "feature"):
        name = str(node.value)
        if name not in columns:
            raise Invalid(f"there is no {node.op} {name!r}{nearest(name, columns)}")
        return canonical(columns[name], name)
    if node.op not in OPERATIONS:
        raise Invalid(f"{node.op} over a window cannot be computed from one request")
    operation = OPERATIONS[node.op]
    try:
        return operation.run(*(_evaluate(arg, columns) for arg in node.args))
    except TypeError as error:
        raise Invalid(f"{node} does not take operands of these kinds", hint=operation.describe(node.op)) from error


def result_kind(node: Node, dtypes: Mapping[str, DType]) -> Kind:
    """Return the kind of value that `node` gives on columns of these types.

    Raises:
        Invalid: a column is absent, or an operand is of the wrong kind; the message names both.
    """
    if node.op in ("column", "feature"):
        name = str(node.value)
        if name not in dtypes:
            raise Invalid(
                f"there is no {node.op} {name!r}{nearest(name, dtypes)}", hint=f"columns: {', '.join(dtypes)}"
            )
        return _KIND_OF_DTYPE[dtypes[name]]
    if node.op == "literal":
        return _literal_kind(node.value)
    kinds = [result_kind(arg, dtypes) for arg in node.args]
    if node.op in AGGREGATES:
        if node.op in ("sum", "mean", "std", "min", "max") and kinds[0] not in ("number", "flag", "null"):
            raise Invalid(f"{node.op} takes a number; {node.args[0]} is a {kinds[0]}")
        return kinds[0] if node.op in ("first", "last") else "number"
    operation = OPERATIONS[node.op]
    if node.op == "sub" and set(kinds) <= {"instant", "null"}:
        return "number"
    takes = operation.takes if node.op != "is_in" else "a" * len(kinds)
    for want, kind, arg in zip(takes, kinds, node.args, strict=True):
        if kind != "null" and kind not in _ACCEPTS[want]:
            raise Invalid(f"{node.op} takes {_NAMED[want]}; {arg} is a {kind}", hint=operation.describe(node.op))
    alike = {("number" if kind == "flag" else kind) for want, kind in zip(takes, kinds, strict=True) if want == "a"}
    if len(alike - {"null"}) > 1:
        raise Invalid(f"{node} mixes {' and '.join(sorted(alike))}", hint="convert with .number() or .text()")
    present: list[Kind] = [kind for want, kind in zip(takes, kinds, strict=True) if want == "a" and kind != "null"]
    return operation.gives or (present or ["null"])[0]


def result_dtype(node: Node, dtypes: Mapping[str, DType]) -> DType:
    """Return the column type that `node` gives; a flag is a float64 of 0, 1 and missing."""
    return _DTYPE_OF_KIND[result_kind(node, dtypes)]


def canonical(values: Array, name: str = "column") -> Array:
    """Return a column in one of the four kinds, whatever NumPy type it arrived in."""
    kind = values.dtype.kind
    if kind == "f":
        return _finite(values.astype(np.float64, copy=False))
    if kind in "iub":
        return values.astype(np.float64)
    if kind == "M":
        return values.astype("datetime64[us]")
    if kind in "UT":
        return values.astype(object)
    if kind != "O":
        raise Invalid(f"{name} has the type {values.dtype}, which the feature language does not know")
    return _from_objects(values, name)


def _from_objects(values: Array, name: str) -> Array:
    """Tell texts, flags, numbers and dates in an object array apart by its first value that is present."""
    first = next((v for v in values.flat if v is not None and v == v), None)
    if first is None or isinstance(first, str):
        return np.frompyfunc(lambda v: v if isinstance(v, str) else None, 1, 1)(values) if values.size else values
    if isinstance(first, bool | int | float | np.number | np.bool_):
        return _finite(np.array([np.nan if v is None else v for v in values], dtype=np.float64))
    if isinstance(first, date | np.datetime64):
        naive = [v.astimezone(UTC).replace(tzinfo=None) if isinstance(v, datetime) and v.tzinfo else v for v in values]
        return np.array(naive, dtype="datetime64[us]")
    raise Invalid(f"{name} holds {type(first).__name__} values, which the feature language does not know")


def _literal_array(value: str | float | bool | datetime | None) -> Array:
    if isinstance(value, str):
        box = np.empty((), dtype=object)
        box[()] = value
        return box
    if isinstance(value, datetime):
        return np.array(value.replace(tzinfo=None), dtype="datetime64[us]")
    return np.array(np.nan if value is None else value, dtype=np.float64)


def _literal_kind(value: str | float | bool | datetime | None) -> Kind:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "flag"
    return "text" if isinstance(value, str) else "instant" if isinstance(value, datetime) else "number"


# --- the operations ------------------------------------------------------------------------------------------------

_NAMED = {"n": "a number", "f": "a flag", "t": "a text", "i": "an instant", "a": "any value"}
_ACCEPTS: dict[str, tuple[Kind, ...]] = {
    "n": ("number", "flag"), "f": ("flag", "number"), "t": ("text",), "i": ("instant",),
    "a": ("number", "flag", "text", "instant"),
}  # fmt: skip
_BLANK: dict[str, Array] = {"f": np.array(np.nan), "O": np.array(None), "M": np.array("NaT", "datetime64[us]")}


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation: the kinds it takes (a letter each), the kind it gives, and how; "a" operands are all alike."""

    takes: str
    gives: Kind | None
    run: Callable[..., Array]

    def describe(self, name: str) -> str:
        return f"{name} takes {', '.join(_NAMED[letter] for letter in self.takes)}"


def _finite(values: Array) -> Array:
    # Adding 0.0 turns -0.0 into 0.0: the two are one value in every engine.
    return np.where(np.isfinite(values), values, np.nan) + 0.0


def _numbers(function: Callable[..., Array]) -> Callable[..., Array]:
    def run(*args: Array) -> Array:
        return _finite(function(*(_as_number(arg) for arg in args)))

    return run


def _as_number(values: Array) -> Array:
    if values.dtype.kind == "f":
        return values
    if values.dtype.kind == "O" and all(v is None for v in values.flat):
        return np.full(values.shape, np.nan)
    raise TypeError("not a number")


def _texts(function: Callable[..., Any], count: int, gives: Literal["text", "number"] = "text") -> Callable[..., Array]:
    def one(*args: Any) -> Any:
        return None if any(arg is None for arg in args[:count]) else function(*args)

    def run(*args: Array) -> Array:
        whole = [_as_text(arg) for arg in args[:count]] + [_as_number(arg) for arg in args[count:]]
        found = np.asarray(np.frompyfunc(one, len(args), 1)(*whole), dtype=object)
        return found if gives == "text" else np.where(found == np.array(None), np.nan, found).astype(np.float64)

    return run


def _as_text(values: Array) -> Array:
    if values.dtype.kind == "O":
        return values
    if values.dtype.kind == "f" and np.isnan(values).all():
        return np.full(values.shape, None, dtype=object)
    raise TypeError("not a text")


def _is_missing(values: Array) -> Array:
    if values.dtype.kind == "O":
        return np.asarray(np.frompyfunc(lambda v: v is None, 1, 1)(values), dtype=bool)
    return np.isnan(values) if values.dtype.kind == "f" else np.isnat(values)


def _alike(*values: Array) -> list[Array]:
    """Return the values in one kind; a missing literal takes the kind of the others."""
    kinds = {v.dtype.kind for v in values if not _is_missing(v).all()}
    if len(kinds) > 1:
        raise TypeError("different kinds")
    kind = kinds.pop() if kinds else values[0].dtype.kind
    return [v if v.dtype.kind == kind else np.full(v.shape, _BLANK[kind], dtype=_BLANK[kind].dtype) for v in values]


def _comparison(compare: Callable[[Any, Any], Any]) -> Callable[[Array, Array], Array]:
    def run(left: Array, right: Array) -> Array:
        left, right = _alike(left, right)
        missing = _is_missing(left) | _is_missing(right)
        if left.dtype.kind == "O":
            found = np.frompyfunc(lambda a, b: a is not None and b is not None and compare(a, b), 2, 1)(left, right)
        else:
            found = compare(left, right)
        return np.where(missing, np.nan, np.asarray(found, dtype=np.float64))

    return run


def _fill_null(values: Array, other: Array) -> Array:
    values, other = _alike(values, other)
    return np.where(_is_missing(values), other, values)


def _where(condition: Array, then: Array, otherwise: Array) -> Array:
    condition, (then, otherwise) = _as_number(condition), _alike(then, otherwise)
    return np.where(np.isnan(condition), _BLANK[then.dtype.kind], np.where(condition != 0, then, otherwise))


def _is_in(values: Array, *members: Array) -> Array:
    equal = _comparison(operator.eq)
    found = np.zeros(values.shape, dtype=bool)
    for member in members:
        found |= equal(values, member) == 1
    return np.where(_is_missing(values), np.nan, found.astype(np.float64))


def _and(left: Array, right: Array) -> Array:
    # False and missing is False: three-valued logic, as in SQL.
    known = np.where((left == 0) | (right == 0), 0.0, 1.0)
    return np.where((known == 1) & (np.isnan(left) | np.isnan(right)), np.nan, known)


def _not(values: Array) -> Array:
    return np.where(np.isnan(values), np.nan, (values == 0).astype(np.float64))


def _minus(left: Array, right: Array) -> Array:
    if "M" not in (left.dtype.kind, right.dtype.kind):
        return _finite(_as_number(left) - _as_number(right))
    left, right = _alike(left, right)
    apart = left - right
    return np.where(np.isnat(apart), np.nan, apart.astype(np.int64) / 1e6)


def _calendar(part: Callable[[Array], Array]) -> Callable[[Array], Array]:
    def run(values: Array) -> Array:
        if values.dtype.kind != "M":
            values = _alike(values, np.array("2000-01-01", "datetime64[us]"))[0]
        # A missing instant is replaced before the arithmetic, so that its bit pattern never reaches a result.
        missing = np.isnat(values)
        safe = np.where(missing, np.array(0, "datetime64[us]"), values)
        return np.where(missing, np.nan, part(safe).astype(np.float64))

    return run


def _within(values: Array, outer: str, inner: str) -> Array:
    """Return how many whole `inner` units have passed since the start of the `outer` unit."""
    passed: Array = values.astype(f"datetime64[{inner}]") - values.astype(f"datetime64[{outer}]")
    return passed.astype(np.int64)


def _to_number(text: str) -> float | None:
    # float() also takes "nan", "inf" and "1_000", which are not numbers in a column.
    try:
        value = float(text) if "_" not in text else np.nan
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def _to_text(values: Array) -> Array:
    if values.dtype.kind == "O":
        return values
    missing = _is_missing(values)
    plain = values.astype(str) if values.dtype.kind == "M" else np.frompyfunc(_number_text, 1, 1)(values)
    return np.where(missing, np.array(None), np.asarray(plain, dtype=object))


def _number_text(value: float) -> str:
    return str(int(value)) if value == value and value == int(value) else repr(float(value))


def _part(text: str, separator: str, index: float) -> str | None:
    parts = text.split(separator) if separator and index == index else []
    return parts[int(index)] if -len(parts) <= index < len(parts) else None


OPERATIONS: dict[str, Operation] = {
    "add": Operation("nn", "number", _numbers(np.add)),
    "sub": Operation("nn", "number", _minus),
    "mul": Operation("nn", "number", _numbers(np.multiply)),
    "div": Operation("nn", "number", _numbers(np.divide)),
    "floordiv": Operation("nn", "number", _numbers(np.floor_divide)),
    "mod": Operation("nn", "number", _numbers(np.mod)),
    "pow": Operation("nn", "number", _numbers(np.power)),
    "minimum": Operation("nn", "number", _numbers(np.minimum)),
    "maximum": Operation("nn", "number", _numbers(np.maximum)),
    "round": Operation("nn", "number", _numbers(lambda x, d: np.floor(x * 10.0**d + 0.5) / 10.0**d)),
    "is_null": Operation("a", "flag", lambda x: _is_missing(x).astype(np.float64)),
    "fill_null": Operation("aa", None, _fill_null),
    "where": Operation("faa", None, _where),
    "is_in": Operation("aa", "flag", _is_in),
    "and": Operation("ff", "flag", _numbers(_and)),
    "or": Operation("ff", "flag", _numbers(lambda a, b: _not(_and(_not(a), _not(b))))),
    "not": Operation("f", "flag", _numbers(_not)),
    "lower": Operation("t", "text", _texts(str.lower, 1)),
    "upper": Operation("t", "text", _texts(str.upper, 1)),
    "strip": Operation("t", "text", _texts(str.strip, 1)),
    "concat": Operation("tt", "text", _texts(str.__add__, 2)),
    "replace": Operation("ttt", "text", _texts(str.replace, 3)),
    "part": Operation("ttn", "text", _texts(_part, 2)),
    "length": Operation("t", "number", _texts(len, 1, "number")),
    "contains": Operation("tt", "flag", _texts(operator.contains, 2, "number")),
    "starts_with": Operation("tt", "flag", _texts(str.startswith, 2, "number")),
    "ends_with": Operation("tt", "flag", _texts(str.endswith, 2, "number")),
    "to_number": Operation("t", "number", _texts(_to_number, 1, "number")),
    "to_text": Operation("a", "text", _to_text),
    "year": Operation("i", "number", _calendar(lambda t: t.astype("datetime64[Y]").astype(np.int64) + 1970)),
    "month": Operation("i", "number", _calendar(lambda t: _within(t, "Y", "M") + 1)),
    "day": Operation("i", "number", _calendar(lambda t: _within(t, "M", "D") + 1)),
    "day_of_year": Operation("i", "number", _calendar(lambda t: _within(t, "Y", "D") + 1)),
    # 1970-01-01 was a Thursday; Monday is 0, as in datetime.weekday().
    "weekday": Operation("i", "number", _calendar(lambda t: (t.astype("datetime64[D]").astype(np.int64) + 3) % 7)),
    "hour": Operation("i", "number", _calendar(lambda t: _within(t, "D", "h"))),
    "minute": Operation("i", "number", _calendar(lambda t: _within(t, "h", "m"))),
    "epoch": Operation("i", "number", _calendar(lambda t: t.astype(np.int64) / 1e6)),
    **{name: Operation("aa", "flag", _comparison(getattr(operator, name)))
       for name in ("eq", "ne", "lt", "le", "gt", "ge")},
    **{name: Operation("n", "number", _numbers(function))
       for name, function in (("neg", np.negative), ("abs", np.abs), ("log", np.log), ("log1p", np.log1p),
                              ("exp", np.exp), ("sqrt", np.sqrt), ("floor", np.floor), ("ceil", np.ceil),
                              ("sign", np.sign), ("sin", np.sin), ("cos", np.cos))},
}  # fmt: skip
