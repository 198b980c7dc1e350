"""Every block of the documentation does what its page says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from docs.pages import Page, all_pages
from docs.runner import Runner
from docs.setups import SETUPS, Setups

PAGES = [page for page in all_pages() if page.blocks]


@pytest.fixture(scope="session")
def setups(tmp_path_factory: pytest.TempPathFactory) -> Setups:
    return Setups(tmp_path_factory.mktemp("setups"))


@pytest.fixture
def runner(page: Page, tmp_path: Path, setups: Setups, request: pytest.FixtureRequest) -> Iterator[Runner]:
    if name := page.directives.get("setup"):
        assert name in SETUPS, f"{page}: there is no set-up {name!r}"
        setups.copy(name, tmp_path)
    replaced = {}
    if page.directives.get("needs") == "postgresql":
        replaced["postgresql://me@127.0.0.1:5432/mainspring"] = request.getfixturevalue("postgres_url")
    playing = Runner(page, tmp_path, replaced)
    yield playing
    playing.close()


def _marked(page: Page) -> object:
    return pytest.param(page, id=str(page), marks=[pytest.mark.slow] if "slow" in page.directives else [])


@pytest.mark.parametrize("page", [_marked(page) for page in PAGES])
@pytest.mark.filterwarnings("default")
def test_every_block_of_a_page_runs(page: Page, runner: Runner) -> None:
    runner.play()
