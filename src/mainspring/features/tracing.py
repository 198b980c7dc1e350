"""Turn a user's plain function into an expression by calling it once with symbols."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mainspring.core.errors import Invalid, MainspringError, Where, nearest
from mainspring.features.expressions import AGGREGATES, Node, literal, make

_UFUNCS = {
    "add": "add", "subtract": "sub", "multiply": "mul", "divide": "div", "floor_divide": "floordiv",
    "remainder": "mod", "power": "pow", "minimum": "minimum", "maximum": "maximum", "negative": "neg",
    "absolute": "abs", "log": "log", "log1p": "log1p", "exp": "exp", "sqrt": "sqrt", "floor": "floor", "ceil": "ceil",
    "sign": "sign", "sin": "sin", "cos": "cos", "isnan": "is_null", "equal": "eq", "not_equal": "ne", "less": "lt",
    "less_equal": "le", "greater": "gt", "greater_equal": "ge", "logical_and": "and", "logical_or": "or",
    "logical_not": "not", "bitwise_and": "and", "bitwise_or": "or", "invert": "not",
}  # fmt: skip


def trace(function: Callable[..., Any], symbols: Mapping[str, Expr | Rows]) -> Node:
    """Return what `function` computes, as an expression.

    Args:
        function: A function of the symbols, by parameter name; further parameters must have defaults.
        symbols: What each parameter stands for.

    Raises:
        Invalid: the function does what cannot be written down (a branch, a loop, another library), or gives another
            result the second time; the error names the line and the form that works.
    """
    nodes = [_trace_once(function, symbols) for _ in range(2)]
    if nodes[0] != nodes[1]:
        raise Invalid(
            f"feature {function.__name__!r} is different each time it is read: {nodes[0]} and {nodes[1]}",
            hint="a clock or a random number would be frozen at its first value; take it from a column instead",
            where=place_of(function),
        )
    return nodes[0]


def _trace_once(function: Callable[..., Any], symbols: Mapping[str, Expr | Rows]) -> Node:
    try:
        result = function(**symbols)
        if not isinstance(result, Expr):
            raise Invalid(*_wrong_result(result))
        return result.node
    except MainspringError as error:
        raise Invalid(
            f"feature {function.__name__!r}: {error.message}", hint=error.hint, where=_line(function, error)
        ) from None
    except Exception as error:
        raise Invalid(
            f"feature {function.__name__!r} cannot be traced: {type(error).__name__}: {error}",
            hint="use the operators and methods of columns only; any other work belongs in the dataset function",
            where=_line(function, error),
        ) from error


def _wrong_result(result: object) -> tuple[str]:
    if result is None:
        return ("it returns None; add a return statement",)
    if isinstance(result, Rows):
        return (f"it returns the whole of {result.name!r}; return one column or a figure of one",)
    return (f"it returns {result!r}, the same {type(result).__name__} for every row; use the columns it is given",)


def place_of(function: Callable[..., Any]) -> Where:
    """Return the file and line where `function` is defined."""
    code = inspect.unwrap(function).__code__
    return Where(code.co_filename, code.co_firstlineno)


def _line(function: Callable[..., Any], error: BaseException) -> Where:
    place = place_of(function)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == place.file]
    return Where(place.file, lines[-1]) if lines and lines[-1] else place


class Rows:
    """What a table parameter stands for: columns by attribute or, for any name, by `[...]`."""

    __slots__ = ("is_window", "name")

    def __init__(self, name: str, *, is_window: bool) -> None:
        self.name = name
        self.is_window = is_window

    def __getattr__(self, column: str) -> Expr:
        if column.startswith("__"):
            raise AttributeError(column)
        return Expr(Node("column", value=column))

    def __getitem__(self, column: str) -> Expr:
        if not isinstance(column, str):
            raise Invalid(f"{self.name}[...] takes the name of a column, not a {type(column).__name__}",
                          hint="keep some rows with column.only(condition)")  # fmt: skip
        return Expr(Node("column", value=column))

    def count(self) -> Expr:
        """Return how many rows the window holds."""
        return Expr(Node("count"))

    def __iter__(self) -> Any:
        raise Invalid(f"{self.name} cannot be looped over: a feature says what to compute, not row by row",
                      hint="use whole columns: payments.amount.mean(), request.amount * 2")  # fmt: skip

    def __len__(self) -> int:
        raise Invalid(f"len({self.name}) is not known when a feature is read", hint=f"{self.name}.count()")


def _node(value: Any) -> Node:
    return value.node if isinstance(value, Expr) else literal(value)


def _unary(op: str, doc: str = "") -> Callable[[Expr], Expr]:
    def method(self: Expr) -> Expr:
        return Expr(make(op, self.node))

    method.__doc__ = doc
    return method


def _binary(op: str, *, swapped: bool = False, doc: str = "") -> Callable[[Expr, Any], Expr]:
    def method(self: Expr, other: Any) -> Expr:
        pair = (_node(other), self.node) if swapped else (self.node, _node(other))
        return Expr(make(op, *pair))

    method.__doc__ = doc
    return method


class Expr:
    """A column, or what is computed from columns, while a feature is being read; operators build the expression."""

    __slots__ = ("node",)

    def __init__(self, node: Node) -> None:
        self.node = node

    __add__, __radd__ = _binary("add"), _binary("add", swapped=True)
    __sub__, __rsub__ = _binary("sub"), _binary("sub", swapped=True)
    __mul__, __rmul__ = _binary("mul"), _binary("mul", swapped=True)
    __truediv__, __rtruediv__ = _binary("div"), _binary("div", swapped=True)
    __floordiv__, __rfloordiv__ = _binary("floordiv"), _binary("floordiv", swapped=True)
    __mod__, __rmod__ = _binary("mod"), _binary("mod", swapped=True)
    __pow__, __rpow__ = _binary("pow"), _binary("pow", swapped=True)
    __and__, __rand__ = _binary("and"), _binary("and", swapped=True)
    __or__, __ror__ = _binary("or"), _binary("or", swapped=True)
    __lt__, __le__, __gt__, __ge__ = _binary("lt"), _binary("le"), _binary("gt"), _binary("ge")
    __neg__, __abs__, __invert__ = _unary("neg"), _unary("abs"), _unary("not")

    def __eq__(self, other: object) -> Any:
        return Expr(make("eq", self.node, _node(other)))

    def __ne__(self, other: object) -> Any:
        return Expr(make("ne", self.node, _node(other)))

    def __round__(self, digits: int = 0) -> Expr:
        return self.round(digits)

    abs, log, log1p = _unary("abs"), _unary("log", "The natural logarithm."), _unary("log1p")
    exp, sqrt, floor, ceil = _unary("exp"), _unary("sqrt"), _unary("floor"), _unary("ceil")
    sign, sin, cos = _unary("sign"), _unary("sin"), _unary("cos")
    is_null = _unary("is_null", "1 where the value is missing, else 0.")
    fill_null = _binary("fill_null", doc="The value, or the other where it is missing.")
    lower, upper, strip, length = _unary("lower"), _unary("upper"), _unary("strip"), _unary("length")
    number = _unary("to_number", "The number a text spells, or missing.")
    text = _unary("to_text", "The value as text; 3.0 is written 3.")
    concat, contains = _binary("concat"), _binary("contains")
    starts_with, ends_with = _binary("starts_with"), _binary("ends_with")
    year, month, day, day_of_year = _unary("year"), _unary("month"), _unary("day"), _unary("day_of_year")
    weekday = _unary("weekday", "The day of the week in UTC, Monday 0.")
    hour, minute = _unary("hour", "The hour in UTC."), _unary("minute")
    epoch = _unary("epoch", "Seconds since 1970.")
    mean, sum, min, max = _unary("mean"), _unary("sum"), _unary("min"), _unary("max")
    count = _unary("count", "How many values in the window are present.")
    std = _unary("std", "The sample standard deviation; missing for fewer than two values.")
    first, last = _unary("first"), _unary("last", "The latest value in the window that is present.")

    def clip(self, low: float, high: float) -> Expr:
        """Return the value, held between `low` and `high`."""
        return Expr(make("minimum", make("maximum", self.node, _node(low)), _node(high)))

    def round(self, digits: int = 0) -> Expr:
        """Return the value to so many decimals; halves go up."""
        return Expr(make("round", self.node, literal(digits)))

    def is_in(self, values: Iterable[Any]) -> Expr:
        """Return 1 where the value is one of `values`, else 0."""
        return Expr(make("is_in", self.node, *(_node(value) for value in values)))

    def replace(self, old: str, new: str) -> Expr:
        """Return the text with every `old` replaced by `new`."""
        return Expr(make("replace", self.node, _node(old), _node(new)))

    def part(self, separator: str, index: int) -> Expr:
        """Return one part of a text cut at `separator`; missing when there are fewer parts."""
        return Expr(make("part", self.node, _node(separator), _node(index)))

    def only(self, condition: Expr) -> Expr:
        """Return the value where `condition` holds, else missing: `payments.amount.only(payments.country == "DE")`."""
        return Expr(make("where", _node(condition), self.node, literal(None)))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        methods = [key for key in vars(Expr) if not key.startswith("_") and key != "node"]
        raise Invalid(f"a column has no method {name!r}{nearest(name, methods)}", hint=f"methods: {', '.join(methods)}")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Expr:
        if method != "__call__" or options or ufunc.__name__ not in _UFUNCS:
            raise Invalid(f"numpy.{ufunc.__name__} is not part of the feature language",
                          hint=f"of numpy, use {', '.join(sorted(_UFUNCS))}")  # fmt: skip
        return Expr(make(_UFUNCS[ufunc.__name__], *(_node(value) for value in inputs)))

    def __array_function__(self, function: Any, types: Any, args: Any, options: Any) -> Any:
        if function.__name__ == "where" and len(args) == 3:
            return where(*args)
        if function.__name__ == "clip" and len(args) == 3 and isinstance(args[0], Expr):
            return args[0].clip(*args[1:])
        raise Invalid(f"numpy.{function.__name__} is not part of the feature language",
                      hint=f"of numpy, use where, clip, {', '.join(sorted(_UFUNCS))}")  # fmt: skip

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise Invalid("a column has no values when a feature is read, so functions of arrays cannot take it",
                      hint="use the methods of columns, ms.where(condition, a, b), ms.minimum(a, b)")  # fmt: skip

    def __bool__(self) -> bool:
        raise Invalid(
            "a column has no truth value when a feature is read, so if, and, or, not, in, min and max cannot see it",
            hint="use ms.where(condition, a, b), &, |, ~, column.is_in([...]), ms.minimum(a, b), ms.maximum(a, b), "
            "and a < x & x < b as (a < x) & (x < b)",
        )

    def __float__(self) -> float:
        raise Invalid("a column has no value when a feature is read, so float(), int() and math.* cannot take it",
                      hint="use the methods of columns: x.log(), x.sqrt(), x.floor(), text.number()")  # fmt: skip

    def __int__(self) -> int:
        return int(float(self))

    def __index__(self) -> int:
        return int(float(self))

    def __iter__(self) -> Any:
        raise Invalid("a column cannot be looped over when a feature is read", hint="x.sum(), x.mean()")

    def __len__(self) -> int:
        raise Invalid(
            "a column has no length when a feature is read", hint="x.count() of a window, x.length() of a text"
        )

    def __contains__(self, _: object) -> bool:
        raise Invalid('"in" cannot see into a column when a feature is read', hint='text.contains("abc")')

    def __getitem__(self, _: object) -> Expr:
        raise Invalid("a column has no positions when a feature is read",
                      hint="x.only(condition) keeps some rows; text.part(\" \", 0) takes a part")  # fmt: skip

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise Invalid(f"{self.node} is a column, not a method", hint='a column named like a method is table["name"]')

    def __str__(self) -> str:
        raise Invalid("a column cannot be written into a text when a feature is read", hint="x.text(), a.concat(b)")

    def __format__(self, _: str) -> str:
        return str(self)

    def __repr__(self) -> str:
        return f"<feature expression {self.node}>"


def where(condition: Any, then: Any, otherwise: Any) -> Any:
    """Return `then` where the condition holds, else `otherwise`; missing where the condition is missing.

    On plain values it gives a plain value, so a feature function can be called and tested as it stands.
    """
    if not any(isinstance(value, Expr) for value in (condition, then, otherwise)):
        return None if condition is None else then if condition else otherwise
    return Expr(make("where", _node(condition), _node(then), _node(otherwise)))


def minimum(a: Any, b: Any) -> Any:
    """Return the smaller of two values, row by row; missing if either is."""
    return _pair("minimum", a, b, min)


def maximum(a: Any, b: Any) -> Any:
    """Return the larger of two values, row by row; missing if either is."""
    return _pair("maximum", a, b, max)


def _pair(op: str, a: Any, b: Any, plain: Callable[[Any, Any], Any]) -> Any:
    if isinstance(a, Expr) or isinstance(b, Expr):
        return Expr(make(op, _node(a), _node(b)))
    return None if a is None or b is None else plain(a, b)


def aggregates_of(node: Node, *, inside: bool = False) -> list[Node]:
    """Return the window aggregates of an expression.

    Raises:
        Invalid: an aggregate stands inside another.
    """
    if node.op in AGGREGATES:
        if inside:
            raise Invalid(f"{node} is inside another figure of the window", hint="take one figure at a time")
        for arg in node.args:
            aggregates_of(arg, inside=True)
        return [node]
    return [found for arg in node.args for found in aggregates_of(arg, inside=inside)]
