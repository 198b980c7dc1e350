"""The split file is the whole of what a release tells a serving process."""

from pathlib import Path

import pytest

from mainspring.core.errors import Invalid
from mainspring.serving.split import SplitFile, list_splits, read_good, read_split, write_good, write_split

SPLIT = SplitFile("p", "m", 3, "sha256:" + "a" * 64, "2026-01-01T00:00:00Z", "ann", "bob", (2, "sha256:" + "b" * 64))


def test_a_split_reads_back_as_it_was_written(tmp_path: Path) -> None:
    path = write_split(tmp_path, "p", "m", SPLIT)
    assert read_split(tmp_path, "p", "m") == SPLIT
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_model_never_released_has_no_split(tmp_path: Path) -> None:
    assert read_split(tmp_path, "p", "m") is None
    assert read_good(tmp_path, "p", "m") is None
    assert list_splits(tmp_path, "p") == {}


def test_each_write_changes_the_mark(tmp_path: Path) -> None:
    marks = set()
    for _ in range(5):
        write_split(tmp_path, "p", "m", SPLIT)
        marks.add(list_splits(tmp_path, "p")["m"])
    assert len(marks) == 5


def test_the_last_good_split_is_no_model_of_its_own(tmp_path: Path) -> None:
    write_split(tmp_path, "p", "m", SPLIT)
    write_good(tmp_path, SPLIT)
    assert read_good(tmp_path, "p", "m") == SPLIT
    assert list(list_splits(tmp_path, "p")) == ["m"]


def test_a_newer_file_is_read_for_what_is_known_of_it(tmp_path: Path) -> None:
    path = write_split(tmp_path, "p", "m", SPLIT)
    path.write_text(path.read_text().replace("{", '{"canary": {"share": 0.1},', 1))
    assert read_split(tmp_path, "p", "m") == SPLIT


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": "three"}', '{"model": "m"}'])
def test_a_file_that_is_no_split_is_refused(tmp_path: Path, text: str) -> None:
    write_split(tmp_path, "p", "m", SPLIT).write_text(text)
    with pytest.raises(Invalid, match="not a split file"):
        read_split(tmp_path, "p", "m")


def test_names_do_not_leave_the_folder(tmp_path: Path) -> None:
    for name in ("../x", "a/b", "", "."):
        with pytest.raises(Invalid):
            write_split(tmp_path, "p", name, SPLIT)
