"""The captured environment says which code and packages ran."""

from __future__ import annotations

import subprocess
from importlib.metadata import version
from pathlib import Path

from mainspring.tracking.environment import MAX_DIFF_BYTES, capture, installed_packages


def _git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=alice", "-c", "user.email=alice@example.org")
    done = subprocess.run(["git", *identity, "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _repository(folder: Path) -> Path:
    _git(folder, "init", "-q")
    (folder / "project.py").write_text("x = 1\n")
    _git(folder, "add", ".")
    _git(folder, "commit", "-q", "-m", "first")
    return folder


def test_a_clean_repository_has_a_commit_and_no_difference(tmp_path: Path) -> None:
    folder = _repository(tmp_path)
    environment = capture(folder, seed=7)
    assert environment.commit == _git(folder, "rev-parse", "HEAD")
    assert (environment.is_dirty, environment.diff, environment.seed) == (False, "", 7)


def test_changed_and_new_files_are_told(tmp_path: Path) -> None:
    folder = _repository(tmp_path)
    (folder / "project.py").write_text("x = 2\n")
    (folder / "new.py").write_text("")
    environment = capture(folder)
    assert environment.is_dirty
    assert "+x = 2" in environment.diff
    assert "new.py" in environment.diff


def test_a_huge_difference_is_cut_but_its_digest_covers_all_of_it(tmp_path: Path) -> None:
    folder = _repository(tmp_path)
    (folder / "project.py").write_text("y" * 3_000_000)
    before = capture(folder)
    (folder / "project.py").write_text("y" * 2_999_999 + "z")
    after = capture(folder)
    assert len(before.diff) == MAX_DIFF_BYTES
    assert before.diff_digest != after.diff_digest


def test_a_folder_outside_a_repository_has_no_commit(tmp_path: Path) -> None:
    environment = capture(tmp_path)
    assert (environment.commit, environment.is_dirty) == ("", False)
    assert "git.commit" not in environment.as_tags()


def test_the_lock_names_what_is_imported(tmp_path: Path) -> None:
    environment = capture(tmp_path)
    lines = environment.packages.splitlines()
    assert f"numpy=={version('numpy')}" in lines
    assert f"scikit-learn=={version('scikit-learn')}" in lines
    assert lines == sorted(lines)


def test_the_first_of_two_installed_versions_is_the_one_named(tmp_path: Path) -> None:
    for folder, number in (("a", "1.0"), ("b", "2.0")):
        (tmp_path / folder / f"Some_Package-{number}.dist-info").mkdir(parents=True)
    assert installed_packages((str(tmp_path / "a"), str(tmp_path / "b"))) == "some-package==1.0\n"
