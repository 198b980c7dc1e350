"""What an operation is: a plain function, the permission it needs, and the JSON Schemas of what it takes and gives."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import sys
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from types import ModuleType
from typing import Any, Literal

import msgspec

from mainspring.core.errors import Invalid, nearest
from mainspring.core.ref import check_name
from mainspring.governance.access import PERMISSIONS

Effect = Literal["read", "write", "run", "local"]
# Arguments that the caller's surroundings provide, never the request.
PROVIDED = ("actor", "on_event")


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing a person or a program can do.

    Args:
        name: `noun.verb`; the URL and the client spell it alike.
        permission: What the actor's role must hold.
        effect: `read` changes nothing; `write` changes state; `run` starts work that goes on; `local` acts on this
            machine's files or processes and is on no network.
        function: Takes the `Workspace` first; its other parameters are what a request may hold.
        shown_once: Whether the result holds a secret, and so is kept nowhere.
    """

    name: str
    permission: str
    effect: Effect
    function: Callable[..., Any]
    shown_once: bool = False

    @property
    def summary(self) -> str:
        """The first line of the function's docstring."""
        return (inspect.getdoc(self.function) or "").split("\n")[0]

    @property
    def methods(self) -> tuple[str, ...]:
        """The HTTP methods: what reads can be asked with its arguments in the query, too."""
        return ("GET", "POST") if self.effect == "read" else ("POST",)

    @property
    def path(self) -> str:
        """The HTTP path."""
        return "/api/v1/" + self.name.replace(".", "/")

    @property
    def takes_project(self) -> bool:
        """Whether the operation acts inside one project; the others concern the whole installation."""
        return "project" in _parameters(self.function)

    @property
    def provided(self) -> tuple[str, ...]:
        """The arguments that the caller's surroundings provide."""
        return tuple(name for name in PROVIDED if name in inspect.signature(self.function).parameters)

    def read_arguments(self, arguments: Mapping[str, Any], *, from_text: bool = False) -> dict[str, Any]:
        """Return the arguments as the function's types.

        Args:
            arguments: By name, as JSON has them.
            from_text: Whether values are text from a query string, to be read as the type that is wanted.

        Raises:
            Invalid: one is unknown, missing or of another type; the value is not repeated.
        """
        known = _parameters(self.function)
        for name in arguments:
            if name not in known:
                raise Invalid(
                    f"{self.name} takes no argument {name[:64]!r}{nearest(name, known)}",
                    hint=f"arguments: {', '.join(known) or 'none'}",
                )
        try:
            read = msgspec.convert(dict(arguments), _input(self.function), strict=not from_text)
        except msgspec.ValidationError as error:
            raise Invalid(f"{self.name}: {error}", hint=f"mainspring routes --json describes {self.name}") from error
        values = {name: getattr(read, name) for name in known}
        if "project" in values:
            check_name(values["project"], "project")
        return values

    def input_schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the arguments."""
        return _schema(_input(self.function))

    def output_schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the result, with the records it names written out.

        A record with a type that JSON Schema cannot say, or that is known to type checkers only, is just an object.
        """
        try:
            return _schema(_result(self.function))
        except (NameError, TypeError):
            return {"type": "object"}


def operation(
    name: str, permission: str, effect: Effect, *, shown_once: bool = False
) -> Callable[[Callable[..., Any]], Operation]:
    """Make a plain function an `Operation`.

    Raises:
        Invalid: the permission is in no role.
    """

    def make(function: Callable[..., Any]) -> Operation:
        if permission not in PERMISSIONS:
            raise Invalid(f"operation {name} asks for {permission!r}, which no role holds", hint="see access.MATRIX")
        return Operation(name, permission, effect, function, shown_once)

    return make


def as_data(value: Any) -> Any:
    """Return a result as JSON data: records become objects, instants ISO text, NaN null."""
    return msgspec.json.decode(to_json(value))


def to_json(value: Any) -> bytes:
    """Return a result as JSON text."""
    return msgspec.json.encode(value, enc_hook=_encode)


def _encode(value: Any) -> Any:
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "tolist"):  # numpy, without importing it
        return value.tolist()
    return str(value)


@functools.cache
def _parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    found = inspect.signature(function).parameters
    return {name: found[name] for name in list(found)[1:] if name not in PROVIDED}


def _resolve(annotations: dict[str, Any], names: dict[str, Any]) -> dict[str, Any]:
    return typing.get_type_hints(type("annotations", (), {"__annotations__": annotations}), globalns=names)


def _result(function: Callable[..., Any]) -> Any:
    """Return the type of the result, importing what its module names for type checkers only."""
    module = sys.modules[function.__module__]
    names = {**vars(module), **_checked_names(module)}
    return _resolve({"return": function.__annotations__["return"]}, names)["return"]


@functools.cache
def _checked_names(module: ModuleType) -> dict[str, Any]:
    names: dict[str, Any] = {}
    for block in ast.parse(inspect.getsource(module)).body:
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING":
            for statement in block.body:
                if isinstance(statement, ast.ImportFrom) and statement.module:
                    source = importlib.import_module(statement.module)
                    names |= {alias.asname or alias.name: getattr(source, alias.name) for alias in statement.names}
    return names


@functools.cache
def _input(function: Callable[..., Any]) -> type[msgspec.Struct]:
    # The workspace and the provided arguments are not data; their types need not be cheap to import.
    plain = {name: function.__annotations__[name] for name in _parameters(function)}
    types = _resolve(plain, vars(sys.modules[function.__module__]))
    fields: list[Any] = []
    for name, parameter in _parameters(function).items():
        if parameter.default is inspect.Parameter.empty:
            fields.append((name, types[name]))
        else:
            fields.append((name, types[name], parameter.default))
    return msgspec.defstruct(function.__name__, fields, kw_only=True, forbid_unknown_fields=True)


def _schema(kind: Any) -> dict[str, Any]:
    (schema,), components = msgspec.json.schema_components([kind])
    written: dict[str, Any] = _inline(schema, components)
    return written


def _inline(schema: Any, components: dict[str, Any], depth: int = 0) -> Any:
    if isinstance(schema, list):
        return [_inline(item, components, depth) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        target = schema["$ref"].rsplit("/", 1)[1]
        return _inline(components[target], components, depth + 1) if depth < 8 else {}
    return {key: _inline(value, components, depth) for key, value in schema.items()}
