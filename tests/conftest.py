"""Fixtures that every area uses: a workspace on each database, a clock that stands still, and the real data sets."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from mainspring.core.clock import FixedClock
from mainspring.core.settings import Settings, load_settings
from mainspring.store.workspace import Workspace, open_workspace
from shop import PROJECT, visits

POSTGRES = os.environ.get("MAINSPRING_TEST_POSTGRES", "postgresql://root@127.0.0.1:5432/test")
IN_CI = bool(os.environ.get("CI"))


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock("2026-01-01T00:00:00Z")


@pytest.fixture
def local_settings(tmp_path: Path) -> Settings:
    return load_settings(tmp_path, environment={})


@pytest.fixture
def local_workspace(local_settings: Settings, clock: FixedClock) -> Iterator[Workspace]:
    workspace = open_workspace(local_settings, clock=clock, actor="alice")
    yield workspace
    workspace.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """Give the URL of a PostgreSQL database made for this test session."""
    name = f"mainspring_{uuid.uuid4().hex[:12]}"
    engine = sa.create_engine(POSTGRES.replace("postgresql://", "postgresql+psycopg://"), isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            connection.execute(sa.text(f"CREATE DATABASE {name}"))
    except sa.exc.OperationalError:
        if IN_CI:
            raise
        pytest.skip("PostgreSQL is not running; set MAINSPRING_TEST_POSTGRES to its URL")
    yield POSTGRES.rsplit("/", 1)[0] + f"/{name}"
    with engine.connect() as connection:
        connection.execute(sa.text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
    engine.dispose()


@pytest.fixture
def postgres_url(postgres: str) -> Iterator[str]:
    """Give the URL of an empty PostgreSQL schema, as the search path of one test."""
    schema = f"t_{uuid.uuid4().hex[:12]}"
    engine = sa.create_engine(postgres.replace("postgresql://", "postgresql+psycopg://"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE SCHEMA {schema}"))
    yield f"{postgres}?options=-csearch_path%3D{schema}"
    with engine.connect() as connection:
        connection.execute(sa.text(f"DROP SCHEMA {schema} CASCADE"))
    engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    environment = {}
    if request.param == "postgresql":
        environment["MAINSPRING_DATABASE"] = request.getfixturevalue("postgres_url")
    return load_settings(tmp_path, environment=environment)


@pytest.fixture
def workspace(settings: Settings, clock: FixedClock) -> Iterator[Workspace]:
    workspace = open_workspace(settings, clock=clock, actor="alice")
    yield workspace
    workspace.close()


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Give the folder of the real data sets; their absence fails in CI and skips elsewhere."""
    path = Path(os.environ.get("MAINSPRING_TEST_DATA", Path(__file__).parents[1] / ".." / "shared" / "data")).resolve()
    if not path.is_dir():
        if IN_CI:
            pytest.fail(f"the data sets are not at {path}; set MAINSPRING_TEST_DATA")
        pytest.skip("the data sets are not here; set MAINSPRING_TEST_DATA to their folder")
    return path


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Give the folder of the small project."""
    (tmp_path / "project.py").write_text(PROJECT)
    visits().write_csv(tmp_path / "visits.csv")
    return tmp_path


@pytest.fixture
def mainspring() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Give a function that runs the command line in a folder, as a process of its own."""

    def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        known = {name: value for name, value in os.environ.items() if not name.startswith("MAINSPRING_")}
        return subprocess.run(
            [sys.executable, "-m", "mainspring.cli.main", "-C", str(folder), *arguments],
            env=known | environment, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    return run
