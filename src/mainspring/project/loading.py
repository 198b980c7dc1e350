"""Read a project file by importing it, and say what is wrong with it by its line."""

from __future__ import annotations

import ast
import importlib.util
import linecache
import sys
import traceback
from pathlib import Path

from mainspring.core.errors import Invalid, MainspringError, NotFound, Where
from mainspring.project.definition import ProjectSpec
from mainspring.project.project import Project


def load_project(file: Path | str) -> ProjectSpec:
    """Return what the project file declares, by importing it; its functions are not run.

    Raises:
        NotFound: there is no such file.
        Invalid: it does not import, or does not hold exactly one `Project`; the error names the line.
    """
    path = Path(file).resolve()
    if not path.is_file():
        raise NotFound(
            f"no project file {path.name!r} in {path.parent}",
            hint="mainspring init NAME --from data.csv --target column",
        )
    linecache.checkcache(str(path))
    module_spec = importlib.util.spec_from_file_location("mainspring_project", path)
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    sys.modules["mainspring_project"] = module
    sys.path.insert(0, str(path.parent))
    try:
        module_spec.loader.exec_module(module)
    except MainspringError as error:
        error.where = error.where or _line_in(path, error)
        raise
    except SyntaxError as error:
        raise Invalid(
            f"{path.name} is not Python: {error.msg}",
            where=Where(str(path), error.lineno or 0),
            hint=(error.text or "").strip() or "mend the line",
        ) from error
    except ModuleNotFoundError as error:
        raise Invalid(
            f"{path.name} imports {error.name!r}, which is not installed",
            where=_line_in(path, error),
            hint=f"pip install {error.name}",
        ) from error
    except (Exception, SystemExit) as error:
        raise Invalid(
            f"{path.name} stops while it is read: {type(error).__name__}: {error}",
            where=_line_in(path, error),
            hint="mend the line; a project file only declares",
        ) from error
    finally:
        sys.path.remove(str(path.parent))
    found = {id(value): value for value in vars(module).values() if isinstance(value, Project)}
    if not found and (line := _unnamed_project(path)):
        raise Invalid(
            f"{path.name} makes a project and keeps it under no name",
            where=Where(str(path), line),
            hint='assign it: name = ms.Project("name")',
        )
    if len(found) != 1:
        raise Invalid(
            f"{path.name} declares {len(found)} projects; one file declares one",
            where=Where(str(path)),
            hint='write name = ms.Project("name")',
        )
    return next(iter(found.values())).spec()


def _unnamed_project(path: Path) -> int:
    """Return the line on which a `Project` is made, 0 when there is none."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == "Project":
            return node.lineno
    return 0


def _line_in(path: Path, error: BaseException) -> Where:
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    return Where(str(path), (lines[-1] if lines else 0) or 0)
