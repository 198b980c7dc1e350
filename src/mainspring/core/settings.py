"""Where a project runs: one target of `mainspring.toml`, overridden by the environment."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mainspring.core.errors import Invalid, Where, nearest

FILE = "mainspring.toml"
_TARGET_KEYS = {"home", "database", "objects", "mlflow", "pipelines", "serving", "api", "alerts", "trust_pickle"}
_SERVING_KEYS = {"host", "port", "max_body", "max_rows", "durable", "allowed_hosts"}
_API_KEYS = {"host", "port", "allowed_hosts"}
_ALERT_KEYS = {"slack", "email", "webhook", "webhook_secret", "smtp", "sender", "smtp_user", "smtp_password"}
_ENVIRONMENT = {
    "MAINSPRING_DATABASE": "database",
    "MAINSPRING_OBJECTS": "objects",
    "MAINSPRING_MLFLOW_URI": "mlflow",
    "MAINSPRING_PIPELINES": "pipelines",
}


@dataclass(frozen=True, slots=True)
class Settings:
    """One target, resolved: every location is absolute or a URL.

    Args:
        home: Folder of everything embedded; created with mode 0700.
        database: SQLAlchemy URL of the decisions database.
        objects: fsspec URL of the content-addressed store.
        mlflow: MLflow tracking URI.
        pipelines: SQLAlchemy URL of the pipeline engine's own database.
        project_file: The file that declares the project, if one was found.
        directory: The folder the project lives in; relative data paths start here.
        serving: Host, port and limits of the data plane.
        api: Host and port of the control plane.
        alerts: Routes: `slack`, `email`, `webhook`, and the SMTP server.
        trust_pickle: Whether bundles that hold a pickle may be loaded here.
    """

    home: Path
    database: str
    objects: str
    mlflow: str
    pipelines: str
    directory: Path
    project_file: Path | None = None
    target: str = "local"
    serving: dict[str, Any] = field(default_factory=dict)
    api: dict[str, Any] = field(default_factory=dict)
    alerts: dict[str, Any] = field(default_factory=dict)
    trust_pickle: bool = False


def load_settings(
    directory: Path, *, project_file: Path | None = None, environment: Mapping[str, str] = os.environ
) -> Settings:
    """Return the settings that hold in `directory`; without a `mainspring.toml` the embedded defaults.

    Raises:
        Invalid: the file is not TOML, or holds a key that nothing reads.
    """
    directory = directory.resolve()
    path = directory / FILE
    document = _read(path) if path.is_file() else {}
    _known(document, {"target", "project", "targets"}, path, "")
    name = environment.get("MAINSPRING_TARGET") or document.get("target", "local")
    targets = document.get("targets", {})
    if name not in targets and (targets or name != "local"):
        raise Invalid(
            f"no target {name!r} in {FILE}{nearest(name, targets)}",
            hint=f"add [targets.{name}], or set target to one of: {', '.join(targets) or 'local'}",
        )
    target = dict(targets.get(name, {}))
    _known(target, _TARGET_KEYS, path, f"targets.{name}.")
    for section, keys in (("serving", _SERVING_KEYS), ("api", _API_KEYS), ("alerts", _ALERT_KEYS)):
        _known(target.get(section, {}), keys, path, f"targets.{name}.{section}.")
    for variable, key in _ENVIRONMENT.items():
        if environment.get(variable):
            target[key] = environment[variable]
    home = (
        Path(environment.get("MAINSPRING_HOME") or directory / target.get("home", ".mainspring")).expanduser().resolve()
    )
    if "?" in str(home):
        # In a database's URL all that follows would be options: the file would be another one, outside the folder.
        raise Invalid(f"{home} holds a '?'", hint="rename the folder, or set MAINSPRING_HOME to another")
    database = _database_url(target.get("database", "sqlite"), home / "mainspring.db")
    return Settings(
        home=home,
        database=database,
        objects=target.get("objects") or (home / "objects").as_uri(),
        mlflow=target.get("mlflow") or f"sqlite:///{home / 'mlflow.db'}",
        # Next to the decisions where they are on PostgreSQL, so that one database is all a team has to run.
        pipelines=target.get("pipelines")
        or (f"sqlite:///{home / 'pipelines.db'}" if database.startswith("sqlite") else database),
        directory=directory,
        project_file=project_file or _project_file(directory, document.get("project", {}), path),
        target=name,
        serving=dict(target.get("serving", {})),
        api=dict(target.get("api", {})),
        alerts=dict(target.get("alerts", {})),
        trust_pickle=bool(target.get("trust_pickle", False)),
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Invalid(
            f"{FILE} is not TOML: {error}",
            hint="see docs/reference/settings.md for a whole example",
            where=Where(str(path)),
        ) from error


def _known(section: Any, keys: set[str], path: Path, prefix: str) -> None:
    if not isinstance(section, dict):
        raise Invalid(
            f"{prefix.rstrip('.') or 'the file'} must be a table",
            where=Where(str(path)),
            hint=f"write [{prefix.rstrip('.')}]",
        )
    for key in section:
        if key not in keys:
            raise Invalid(
                f"unknown setting {prefix}{key}{nearest(key, keys)}",
                where=Where(str(path)),
                hint=f"settings here: {', '.join(sorted(keys))}",
            )


def _database_url(text: str, file: Path) -> str:
    if text in ("sqlite", ""):
        return f"sqlite:///{file}"
    if text.startswith(("postgres://", "postgresql://")):
        return "postgresql+psycopg://" + text.split("://", 1)[1]
    if text.startswith(("sqlite:///", "postgresql+psycopg://")):
        return text
    raise Invalid(
        f"{text.split(':')[0]!r} is not a database Mainspring runs on",
        hint='database = "sqlite" or "postgresql://user@host/name"',
    )


def _project_file(directory: Path, section: Any, path: Path) -> Path | None:
    _known(section, {"file"}, path, "project.")
    if "file" in section:
        return directory / str(section["file"])
    default = directory / "project.py"
    return default if default.is_file() else None
