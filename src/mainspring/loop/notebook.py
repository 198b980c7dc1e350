"""A run from a notebook or a script: the declared project itself, in the folder it stands in."""

from __future__ import annotations

from pathlib import Path

from mainspring.core.settings import load_settings
from mainspring.loop.train import RunReport, raise_if_failed, run_model
from mainspring.project.project import Project
from mainspring.store.workspace import open_workspace


def run(project: Project, model: str | None = None, *, directory: str | Path = ".") -> RunReport:
    """Train, prove, register and release a model of `project`, as `mainspring run` does, and return what came of it.

    Args:
        project: As declared in the cells above, or in a file.
        model: Which model, where the project declares several.
        directory: Folder of `mainspring.toml` and `.mainspring`; relative paths of the data start at the caller's.

    Raises:
        MainspringError: what `mainspring run` would have said.
    """
    ws = open_workspace(load_settings(Path(directory)))
    try:
        report = run_model(ws, project.spec(), model)
    finally:
        ws.close()
    raise_if_failed(report)
    return report
