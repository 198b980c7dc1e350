"""Whatever a person can write, call or meet has an entry in the reference."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import mainspring as ms
from docs.pages import ROOT
from mainspring.api.operations import OPERATIONS
from mainspring.api.server import route_table
from mainspring.cli import main as program
from mainspring.core import errors
from mainspring.core.errors import Invalid, MainspringError
from mainspring.core.settings import load_settings
from mainspring.data.dialect import ReadOptions
from mainspring.evaluation.metrics import METRICS
from mainspring.features.expressions import AGGREGATES
from mainspring.features.expressions import OPERATIONS as FEATURE_OPERATIONS
from mainspring.governance.access import MATRIX, PERMISSIONS
from mainspring.monitoring.monitors import DRIFT_MEASURES, ENDPOINT_FIGURES
from mainspring.project.handles import HEALING, Dataset, Model
from mainspring.project.project import Project
from mainspring.serving.metrics import Metrics
from mainspring.serving.openapi import ROUTES

SOURCE = ROOT / "src" / "mainspring"


def _reference(name: str) -> str:
    return (ROOT / "docs" / "reference" / f"{name}.md").read_text(encoding="utf-8")


def _missing(page: str, names: Any) -> list[str]:
    """Return the names that stand nowhere in the page's code."""
    code = " ".join(re.findall(r"`([^`\n]+)`|```.*?```", _reference(page), flags=re.DOTALL))
    code += " " + " ".join(re.findall(r"```(.*?)```", _reference(page), flags=re.DOTALL))
    return [name for name in names if not re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", code)]


def _commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    for name, part in getattr(command, "commands", {}).items():
        yield from _commands(part, (*path, name))
    if not hasattr(command, "commands"):
        yield "mainspring " + " ".join(path), command


COMMANDS = dict(_commands(typer.main.get_command(program.app)))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_option_is_in_the_reference(command: str) -> None:
    rows = [row for row in _reference("cli").splitlines() if re.search(rf"`{re.escape(command)}[` ]", row)]
    assert rows, f"docs/reference/cli.md has no line for {command}"
    for parameter in COMMANDS[command].params:
        if parameter.param_type_name == "option" and not parameter.hidden:
            for option in parameter.opts:
                assert option == "--help" or re.search(rf"{option}(?![\w-])", rows[0]), f"{command} {option}"


def test_every_command_in_the_documentation_is_there() -> None:
    shown = re.findall(r"^\| `(mainspring [a-z ]+?)(?: [\[A-Z].*?)?` \|", _reference("cli"), flags=re.MULTILINE)
    assert set(shown) == set(COMMANDS)


def test_every_global_option_is_in_the_reference() -> None:
    options = [option for parameter in typer.main.get_command(program.app).params for option in parameter.opts]
    assert not [option for option in options if f"`{option}" not in _reference("cli")]


def test_every_setting_is_in_the_reference(tmp_path: Path) -> None:
    def known(document: str) -> list[str]:
        (tmp_path / "mainspring.toml").write_text(document, encoding="utf-8")
        with pytest.raises(Invalid) as refused:
            load_settings(tmp_path, environment={})
        return refused.value.hint.removeprefix("settings here: ").split(", ")

    keys = [f"targets.NAME.{key}" for key in known("[targets.local]\nnothing = 1")]
    sections = ("serving", "api", "alerts")
    keys = [key for key in keys if key.rpartition(".")[2] not in sections]
    keys += [
        f"targets.NAME.{section}.{key}"
        for section in sections
        for key in known(f"[targets.local.{section}]\nnothing = 1")
    ]
    keys += [f"project.{key}" for key in known("[project]\nnothing = 1")]
    assert len(keys) > 20
    assert not _missing("settings", keys)


def test_every_environment_variable_is_in_the_reference() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py"))
    names = set(re.findall(r"\bMAINSPRING_[A-Z_]+\b", text))
    assert not _missing("settings", names)


def test_every_error_code_and_exit_code_is_in_the_reference() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, MainspringError)]
    assert not _missing("errors", [kind.code for kind in kinds] + [kind.__name__ for kind in kinds])
    codes = (program.OK, program.SAID_NO, program.MISTAKE, program.UNAVAILABLE, program.BUG)
    assert not [code for code in codes if f"\n| {code} | " not in _reference("errors")]


def test_every_public_name_is_in_the_reference() -> None:
    names = [name if name.startswith("__") else f"ms.{name}" for name in ms.__all__]
    pages = {"check": "checks", "gate": "gates", "where": "features", "minimum": "features", "maximum": "features"}
    missing = [name for name in names if _missing(pages.get(name.removeprefix("ms."), "declaration"), [name])]
    assert not [name for name in missing if _missing("declaration", [name.replace("__version__", "ms.__version__")])]


@pytest.mark.parametrize(
    ("heading", "function"),
    [("project.dataset", Project.dataset), ("project.labels", Project.labels), ("project.model", Project.model),
     ("Promises of a model", Model.serve), ("Promises of a model", Model.batch),
     ("Promises of a model", Model.watch), ("project.dataset", Dataset.without), ("Project", Project.__init__),
     ("Splits", ms.by_time), ("Splits", ms.by_group), ("Splits", ms.by_chance)],
    ids=lambda value: getattr(value, "__qualname__", ""),
)  # fmt: skip
def test_every_option_of_a_declaration_is_in_its_section(heading: str, function: Any) -> None:
    level = re.search(rf"^(#+) {re.escape(heading)}$", _reference("declaration"), flags=re.MULTILINE)
    assert level is not None, f"no section {heading}"
    section = re.split(rf"^#{{1,{len(level[1])}}} ", _reference("declaration")[level.end() :], flags=re.MULTILINE)[0]
    names = [name for name in inspect.signature(function).parameters if name not in ("self", "function", "columns")]
    assert not [name for name in names if not re.search(rf"`[^`]*\b{name}\b[^`]*`", section)]


def test_every_reading_option_and_healing_action_is_in_the_reference() -> None:
    assert not _missing("declaration", [*ReadOptions.__dataclass_fields__, *HEALING])


@pytest.mark.parametrize(("page", "module"), [("checks", ms.check), ("gates", ms.gate)], ids=["checks", "gates"])
def test_every_check_and_gate_is_in_the_reference_with_its_options(page: str, module: Any) -> None:
    record = "Check" if page == "checks" else "Gate"
    for name, function in vars(module).items():
        if (
            inspect.isfunction(function)
            and not name.startswith("_")
            and function.__annotations__.get("return") == record
        ):
            entry = re.search(rf"`{name}\(([^`]*)\)`", _reference(page))
            assert entry is not None, f"{page}: {name}"
            shown = [part.partition("=")[0].strip("* ") for part in entry[1].split(",") if part]
            assert shown == list(inspect.signature(function).parameters), name


def test_every_metric_measure_and_series_is_in_the_reference() -> None:
    metrics = Metrics()
    metrics.model("m").meter("1").count(200, 0.1, 1)
    series = re.findall(r"^# HELP (\S+)", metrics.render().decode(), flags=re.MULTILINE)
    ours = [name for name in series if not name.startswith("process_")]
    assert not _missing("metrics", [*METRICS, *DRIFT_MEASURES, *ENDPOINT_FIGURES, *ours])


def test_every_metric_says_which_way_is_better_as_the_code_does() -> None:
    for name, metric in METRICS.items():
        row = re.search(rf"^\| `{name}` \| (\S+)", _reference("metrics"), flags=re.MULTILINE)
        assert row is not None, name
        assert row[1] == {"zero": "nearer"}.get(metric.direction, metric.direction), name


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_is_in_the_reference_with_its_permission_effect_and_arguments(name: str) -> None:
    operation = OPERATIONS[name]
    arguments = ", ".join(f"`{argument}`" for argument in operation.input_schema().get("properties", {}))
    row = f"| `{name}` | {operation.permission} | {operation.effect} | {arguments}".rstrip() + " |"
    assert row in _reference("http")


def test_every_route_is_in_the_reference() -> None:
    fixed = [route["path"] for route in route_table() if not route["permission"]]
    assert not _missing("http", [path for _, path, _ in ROUTES] + fixed)


def test_every_role_is_in_the_reference_with_what_it_may() -> None:
    rows = dict(re.findall(r"^\| `([a-z]+)` \| (.*) \|$", _reference("http"), flags=re.MULTILINE))

    def may(role: str) -> set[str]:
        inherited = re.match(r"what an? ([a-z]+) may", rows[role])
        own = set(re.findall(r"[a-z]+\.[a-z]+", rows[role]))
        return own | (may(inherited[1]) if inherited else set())

    for role, permissions in MATRIX.items():
        assert role == "admin" or may(role) == permissions, role
    assert may("admin") | may("operator") == PERMISSIONS


def test_every_event_is_in_the_reference() -> None:
    types = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "event" and node.args:
                types |= {
                    value.value
                    for value in ast.walk(node.args[0])
                    if isinstance(value, ast.Constant) and re.fullmatch(r"[a-z]+\.[a-z_]+", str(value.value))
                }
    assert len(types) > 10
    assert not _missing("events", types)


def test_every_operation_of_the_feature_language_is_in_the_reference() -> None:
    assert not _missing("features", [*FEATURE_OPERATIONS, *AGGREGATES])
