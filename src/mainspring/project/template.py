"""Write a project that runs on the first try, every guess about its data a comment."""

from __future__ import annotations

import json
import keyword
import os
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from mainspring.core.errors import Conflict, Invalid, MainspringError
from mainspring.core.ref import check_name
from mainspring.data.reader import ReadOptions, TableReport, inspect_table
from mainspring.data.values import AS_TEXT
from mainspring.project.infer import Inferred, infer

_TYPED = (b"PAR1", b"ARROW1")
_WIDTH = 118


def create_project(
    directory: Path | str,
    *,
    name: str,
    data: Path | str | None = None,
    target: str | None = None,
    columns: Sequence[str] | None = None,
    time: str | None = None,
    read: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write project.py, mainspring.toml, a test, .gitignore and README.md, and return their paths.

    Args:
        directory: Where to; made when absent.
        name: The project's name.
        data: The file to learn from; without one, a small example is written with the project.
        target: The column to predict.
        columns: Names of the columns, for a file without a header.
        time: The column of the event time, when the one found is not it.
        read: What is known about how the file is written, as `ReadOptions`.

    Raises:
        Conflict: there is a project already.
        Invalid: the file cannot be read, or the target is missing or cannot be predicted.
    """
    check_name(name, "project")
    folder = Path(directory)
    for file in ("project.py", "mainspring.toml"):
        if (folder / file).exists():
            raise Conflict(f"{folder / file} is there already", hint="choose another name, or delete it first")
    options = ReadOptions.from_json(read or {})
    if data is not None:
        files = _from_table(name, folder, Path(data), target, columns, time, options)
    else:  # the example is read where it leaves nothing behind when the target is wrong
        with tempfile.TemporaryDirectory() as scratch:
            example = Path(scratch) / "customers.csv"
            example.write_text(_example(), encoding="utf-8")
            files = _from_table(name, Path(scratch), example, target or "churned", columns, time, options)
            files = {example.name: example.read_text(encoding="utf-8"), **files}
    written = []
    for place, text in files.items():
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return written


def _from_table(
    name: str, folder: Path, source: Path, target: str | None, columns: Sequence[str] | None, time: str | None,
    options: ReadOptions,
) -> dict[str, str]:  # fmt: skip
    """Return the texts of the project's files by their place in `folder`; writes nothing."""
    report = inspect_table(source, columns=columns, options=options)
    if target is None:
        raise Invalid("which column is to be predicted?", hint=f"--target, one of: {', '.join(report.frame.columns)}")
    try:
        as_text = {guess.column: guess.why for guess in report.guesses if guess.what == AS_TEXT}
        found = infer(report.frame, target, time=time, as_text=as_text)
    except MainspringError as error:
        raise type(error)(f"{source.name}: {error.message}", hint=error.hint) from None
    return _render(name, _path_from(folder.resolve(), source.resolve()), source, report, found)


def _path_from(folder: Path, source: Path) -> str:
    """Return the path to write: relative, so that both can move together, unless only the root is common to them."""
    common = os.path.commonpath([folder, source])
    return source.as_posix() if len(Path(common).parts) < 2 else Path(os.path.relpath(source, folder)).as_posix()


def _render(name: str, path: str, source: Path, report: TableReport, found: Inferred) -> dict[str, str]:
    table = _identifier(source.name.split(".")[0], "rows")
    model = _identifier(f"{found.target}_model", "model")
    project = _identifier(name, "project")
    if project in (table, model, "ms", "model"):
        project += "_project"
    parts = [
        _heading(name, source, found),
        "import mainspring as ms",
        f"{project} = ms.Project({json.dumps(name)})",
        _dataset(project, table, path, source, report, found),
        _contract(table, found),
        *_features(project, found),
        _model(project, table, model, found),
        _promises(model, found),
    ]
    return {
        "project.py": "\n\n".join(parts[:4]) + "\n\n" + "\n\n\n".join(_spaced(parts[4:])) + "\n",
        "mainspring.toml": _SETTINGS,
        "tests/test_project.py": _TEST.format(model=model, table=table),
        ".gitignore": ".mainspring/\n__pycache__/\n",
        "README.md": _README.format(name=name, model=model, target=found.target, task=found.task, table=table),
    }


def _spaced(parts: list[str]) -> Iterable[str]:
    """Join what belongs together by one blank line; functions stand apart by two."""
    contract, *functions, promises = parts
    yield contract
    yield from functions
    yield promises


def _heading(name: str, source: Path, found: Inferred) -> str:
    what = f"the probability of {found.classes[1]!r} in" if found.task == "binary" else ""
    text = f"{name}: predict {f'{what} ' if what else ''}{found.target} from {source.name}."
    return f'"""{text}\n\nWritten by `mainspring init`; comments say what was guessed from {found.rows:,} rows, and why.\n"""'


def _dataset(project: str, table: str, path: str, source: Path, report: TableReport, found: Inferred) -> str:
    comments = [f"{f'{g.column}: ' if g.column else ''}{g.what} ({g.why})" for g in report.guesses]
    comments.append(f"key: {found.key or 'none'} ({found.why['key']})")
    comments.append(f"time: {found.time or 'none'} ({found.why['time']})")
    options = [f"    {_text(path)},"]
    if source.name.split(".")[0] != table:
        options.append(f"    name={_text(table)},")
    if found.key:
        options.append(f"    key={_text(found.key)},")
    if found.time:
        options.append(f"    time={_text(found.time)},")
    if found.personal:
        options.append(f"    pii={_text(found.personal)},  # personal data is not stored")
    reading = {} if _is_typed(source) else _reading(report.options)
    if report.options.columns:
        options.append(_wrapped("columns=[", [_text(n) for n in report.options.columns], "],", 4))
    if reading:
        types = reading.pop("types", {})
        options.append("    read={")
        options += [f"        {_text(key)}: {_text(value)}," for key, value in reading.items()]
        if types:
            options.append(
                "        # A file whose values do not fit these types is refused with the line that does not."
            )
            options.append(_wrapped('"types": {', [f"{_text(k)}: {_text(v)}" for k, v in types.items()], "},", 8))
        options.append("    },")
    return _comment(comments) + f"{table} = {project}.dataset(\n" + "\n".join(options) + "\n)"


def _reading(options: ReadOptions) -> dict[str, Any]:
    """Return the options that differ from what a plain CSV file needs."""
    plain = {"separator": ",", "quote": '"', "header": True}
    return {k: v for k, v in options.to_json().items() if k != "columns" and plain.get(k, ...) != v}


def _is_typed(source: Path) -> bool:
    with source.open("rb") as file:
        return file.read(8).startswith(_TYPED)


def _contract(table: str, found: Inferred) -> str:
    dropped = set(found.personal)
    complete = [n for n in found.complete if n not in dropped]
    checks = [f"    ms.check.rows(at_least={max(1, found.rows // 2)}),  # half of what there is now"]
    if found.key:
        checks.append(f"    ms.check.unique({_text(found.key)}),")
    if complete:
        checks.append(_wrapped("ms.check.not_null(", [_text(n) for n in complete], "),", 4))
    if found.classes and len(found.classes) <= 20:
        checks.append(
            _wrapped(
                f"ms.check.one_of({_text(found.target)}, [",
                [_text(c) for c in sorted(found.classes, key=str)],
                "]),",
                4,
            )
        )
    if found.nonnegative:
        names = [_text(n) for n in found.nonnegative]
        checks.append(_wrapped("*(ms.check.between(name, 0) for name in [", names, "]),", 4))
    return f"# The contract: what held in every row so far.\n{table}.expect(\n" + "\n".join(checks) + "\n)"


def _features(project: str, found: Inferred) -> list[str]:
    made = []
    for number in found.calendar:
        made.append(
            f"@{project}.feature\ndef {number.name}(request):\n    return request[{_text(number.column)}].{number.part}()"
        )
    for text in found.filled:
        made.append(
            f"@{project}.feature\ndef {_identifier(text, 'text')}_filled(request):\n"
            f'    return request[{_text(text)}].fill_null("")'
        )
    return made


def _model(project: str, table: str, model: str, found: Inferred) -> str:
    choice = found.choice
    comments = [f"task: {found.task} ({found.why['task']})", f"split: {found.why['split']}"]
    if found.unlabelled:
        comments.append(f"rows: {found.unlabelled:,} of {found.rows:,} have no target; they are not learned from")
    comments += [f"left out: {name} ({reason})" for name, reason in found.left_out.items()]
    comments += [f"text: {name} ({found.why[name]})" for name in found.columns.texts]
    if choice.figures:
        comments.append(f"model: {choice.recipe.name}; {choice.metric} over {choice.how}, the test rows unseen:")
        comments += [f"  {figure:.4g}  {name}" for name, figure in choice.figures.items()]
    else:
        comments.append(f"model: {choice.recipe.name} ({choice.how})")
    comments += [f"  not measured: {name} ({reason})" for name, reason in choice.failed.items()]
    excluded = [*(n for n in found.left_out if n not in found.personal), *found.filled]
    uses = [f"{table}.without({', '.join(_text(n) for n in excluded)})" if excluded else f"{table}.without()"]
    uses += [n.name for n in found.calendar] + [f"{_identifier(n, 'text')}_filled" for n in found.filled]
    has_rest = any(n not in found.filled for n in (*found.columns.numbers, *found.columns.words, *found.columns.texts))
    uses = uses if has_rest else uses[1:]
    options = [f"    predicts={table}[{_text(found.target)}],"]
    if excluded or len(uses) > 1 or not has_rest:
        options.append(_wrapped("uses=[", uses, "],", 4))
    options.append(f'    task="{found.task}",')
    if found.task == "binary":
        options.append(f"    positive={_text(found.classes[1])},")
    options.append(f'    metric="{found.metric}",')
    options.append(f"    split=ms.{'by_time' if found.time else 'by_chance'}(test=0.2),")
    source = choice.recipe.source.replace("def model(", f"def {model}(", 1)
    for name in found.filled:
        source = source.replace(f'"{name}"', f'"{_identifier(name, "text")}_filled"')
    return _comment(comments) + f"@{project}.model(\n" + "\n".join(options) + f"\n)\n{source.rstrip()}"


def _promises(model: str, found: Inferred) -> str:
    simple = "majority" if found.classes else "mean"
    return f"""\
# Only a version that passes these goes live; `mainspring run` shows each verdict with its reason.
{model}.must(
    ms.gate.beats_baseline(baseline="{simple}"),
    ms.gate.no_leakage(),
    ms.gate.parity(),
    ms.gate.not_worse_than_live(),
)
{model}.serve()
{model}.watch(every="1h", heal="retrain | rollback", cooldown="1d")"""


def _comment(lines: Iterable[str]) -> str:
    return "".join(
        f"# {line if len(line) < 160 else line[:157] + '...'}\n" for line in (x.replace("\n", " ") for x in lines)
    )


def _wrapped(opening: str, items: Sequence[str], closing: str, margin: int) -> str:
    """Return `opening a, b, c closing`, over several lines when it is long."""
    space = " " * margin
    line = f"{space}{opening}{', '.join(items)}{closing}"
    if len(line) <= _WIDTH:
        return line
    lines, row = [f"{space}{opening}"], ""
    for item in items:
        if row and len(row) + len(item) + margin + 6 > _WIDTH:
            lines.append(f"{space}    {row}")
            row = ""
        row += f"{' ' if row else ''}{item},"
    return "\n".join([*lines, f"{space}    {row}", f"{space}{closing}"])


def _text(value: Any) -> str:
    """Return a value as Python source, texts in double quotes."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_text(k)}: {_text(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_text, value)) + "]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _identifier(text: str, otherwise: str) -> str:
    found = re.sub(r"\W+", "_", text, flags=re.ASCII).strip("_").lower()
    found = f"{otherwise}_{found}" if not found or found[0].isdigit() else found
    return f"{found}_" if keyword.iskeyword(found) else found


def _example() -> str:
    """Return a small table of customers, the same each time."""
    import numpy as np

    random = np.random.default_rng(0)
    months, fee = random.integers(1, 60, 600), random.normal(40, 12, 600).clip(5).round(2)
    plan = random.choice(["basic", "plus", "family"], 600, p=[0.5, 0.3, 0.2])
    calls = random.poisson(1.2, 600)
    risk = 1.2 * calls - 0.06 * months + 0.02 * fee + np.where(plan == "basic", 0.5, -0.3) - 1.4
    churned = np.where(random.random(600) < 1 / (1 + np.exp(-risk)), "yes", "no")
    table = pl.DataFrame({
        "customer_id": [f"C{i:04d}" for i in range(600)], "plan": plan, "months": months, "monthly_fee": fee,
        "support_calls": calls, "churned": churned,
    })  # fmt: skip
    return table.write_csv()


_SETTINGS = """\
# Where the project runs; what it is stands in project.py.
target = "local"

[targets.local]
database = "sqlite"  # or "postgresql://user@host/name"
"""

_TEST = '''\
"""The project loads, declares what it should, and its data keep the contract's types."""

from pathlib import Path

import mainspring as ms

PROJECT = ms.load_project(Path(__file__).parents[1] / "project.py")


def test_the_project_declares_one_model():
    assert list(PROJECT.models) == ["{model}"]


def test_the_data_can_be_read():
    assert PROJECT.dataset("{table}").source.read(None).height > 0
'''

_README = """\
# {name}

Predicts `{target}` ({task}). All of it stands in `project.py`; what was guessed from the data is a comment there.

    mainspring plan        # what would change
    mainspring run         # data, training, proof, release
    mainspring up          # endpoint, API, schedules and monitors on this machine
    pytest                 # the project's own tests

The endpoint answers at `POST /v1/models/{model}:predict`.
"""
