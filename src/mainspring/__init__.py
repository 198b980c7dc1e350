"""Mainspring: one Python file declares a model's whole life, one command runs it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mainspring.core.windows import Day, Hour, Month, Week
    from mainspring.data import checks as check
    from mainspring.data.sources import folder, sql
    from mainspring.data.splits import by_chance, by_group, by_time
    from mainspring.evaluation import gates as gate
    from mainspring.features.tracing import maximum, minimum, where
    from mainspring.loop.notebook import run
    from mainspring.project.definition import ab, blue_green, canary, shadow
    from mainspring.project.loading import load_project
    from mainspring.project.project import Project

__version__ = "0.1.0"

# Importing a project file must cost nothing but what it names; each name loads its file on first use.
_PLACES = {
    "Project": "mainspring.project.project:Project",
    "run": "mainspring.loop.notebook:run",
    "load_project": "mainspring.project.loading:load_project",
    "Day": "mainspring.core.windows:Day",
    "Hour": "mainspring.core.windows:Hour",
    "Week": "mainspring.core.windows:Week",
    "Month": "mainspring.core.windows:Month",
    "check": "mainspring.data.checks",
    "gate": "mainspring.evaluation.gates",
    "sql": "mainspring.data.sources:sql",
    "folder": "mainspring.data.sources:folder",
    "where": "mainspring.features.tracing:where",
    "minimum": "mainspring.features.tracing:minimum",
    "maximum": "mainspring.features.tracing:maximum",
    "by_time": "mainspring.data.splits:by_time",
    "by_group": "mainspring.data.splits:by_group",
    "by_chance": "mainspring.data.splits:by_chance",
    "shadow": "mainspring.project.definition:shadow",
    "canary": "mainspring.project.definition:canary",
    "ab": "mainspring.project.definition:ab",
    "blue_green": "mainspring.project.definition:blue_green",
}

__all__ = [
    "Day",
    "Hour",
    "Month",
    "Project",
    "Week",
    "__version__",
    "ab",
    "blue_green",
    "by_chance",
    "by_group",
    "by_time",
    "canary",
    "check",
    "folder",
    "gate",
    "load_project",
    "maximum",
    "minimum",
    "run",
    "shadow",
    "sql",
    "where",
]


def __getattr__(name: str) -> Any:
    place = _PLACES.get(name)
    if place is None:
        raise AttributeError(f"module 'mainspring' has no attribute {name!r}")
    module, _, attribute = place.partition(":")
    loaded = importlib.import_module(module)
    value = getattr(loaded, attribute) if attribute else loaded
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
