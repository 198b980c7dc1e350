"""Folders by content: each file kept once, changes noticed, and the folder given back as it was."""

import os
import stat
import time
from pathlib import Path

import pytest

from mainspring.core.errors import Conflict, NotFound, Refused
from mainspring.data.datasets import Dataset, ingest, read
from mainspring.data.folders import check_out, compare_files, keep_files, list_files
from mainspring.data.sources import FolderSource
from mainspring.store.workspace import Workspace


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name, data in {
        "cat/1.png": b"one",
        "cat/2.png": b"two",
        "dog/1.png": b"one",
        "top.txt": b"",
        ".git/x": b"x",
    }.items():
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "images"


def test_a_folder_is_listed_by_content_with_its_labels(images: Path) -> None:
    files = list_files(images)
    assert files["path"].to_list() == ["cat/1.png", "cat/2.png", "dog/1.png", "top.txt"]
    assert files["label"].to_list() == ["cat", "cat", "dog", None]
    assert files["digest"][0] == files["digest"][2] != files["digest"][1]
    assert files.equals(FolderSource(str(images)).read(None))


def test_a_version_of_a_folder_can_be_checked_out_after_the_folder_is_gone(
    local_workspace: Workspace, images: Path, tmp_path: Path
) -> None:
    spec = Dataset("images", FolderSource(str(images)), key=("path",))
    first = ingest(local_workspace, "p", spec).version
    assert not ingest(local_workspace, "p", spec).new
    (images / "cat" / "1.png").write_bytes(b"another")
    (images / "dog" / "1.png").unlink()
    second = ingest(local_workspace, "p", spec).version
    assert (first.rows, second.rows) == (4, 3)
    old = check_out(local_workspace.objects, read(local_workspace, "p", "images", 1), tmp_path / "old")
    assert (old / "dog" / "1.png").read_bytes() == b"one"
    assert compare_files(read(local_workspace, "p", "images", 1), old).is_clean
    changed = compare_files(read(local_workspace, "p", "images", 1), images)
    assert (changed.added, changed.removed, changed.changed) == ((), ("dog/1.png",), ("cat/1.png",))


def test_equal_files_are_kept_once_and_files_kept_before_are_not_read(local_workspace: Workspace, images: Path) -> None:
    files = list_files(images)
    assert keep_files(local_workspace.objects, images, files) == 3
    for path in images.rglob("*.png"):
        path.unlink()
    assert keep_files(local_workspace.objects, images, files) == 0


def test_a_file_that_changes_while_its_folder_is_read_is_noticed(local_workspace: Workspace, images: Path) -> None:
    files = list_files(images)
    (images / "cat" / "2.png").write_bytes(b"changed")
    with pytest.raises(Conflict, match=r"cat/2\.png changed"):
        keep_files(local_workspace.objects, images, files)


def test_an_index_saves_reading_and_never_hides_a_change(images: Path, tmp_path: Path) -> None:
    index = tmp_path / "index.json"
    old = time.time_ns() - 10_000_000_000
    for path in images.rglob("*.png"):
        os.utime(path, ns=(old, old))
    first = list_files(images, index)
    known = images / "cat" / "1.png"
    known.write_bytes(b"eno")
    os.utime(known, ns=(old, old))  # only a forged clock hides a change: the file is not read again
    assert list_files(images, index).equals(first)
    known.write_bytes(b"eno")  # of the same length
    fresh = list_files(images, index)
    assert fresh["digest"][0] != first["digest"][0]
    known.write_bytes(b"neo")  # and again within the same moment
    assert list_files(images, index).equals(list_files(images))
    index.write_text("damaged")
    assert list_files(images, index).equals(list_files(images))


def test_a_checked_out_file_cannot_be_written_through_to_the_store(
    local_workspace: Workspace, images: Path, tmp_path: Path
) -> None:
    files = list_files(images)
    keep_files(local_workspace.objects, images, files)
    out = check_out(local_workspace.objects, files, tmp_path / "out")
    assert stat.S_IMODE((out / "cat" / "1.png").stat().st_mode) == 0o400
    with pytest.raises(Conflict, match="not empty"):
        check_out(local_workspace.objects, files, out)


def test_paths_and_links_that_leave_the_folder_are_refused(
    local_workspace: Workspace, images: Path, tmp_path: Path
) -> None:
    files = list_files(images)
    keep_files(local_workspace.objects, images, files)
    with pytest.raises(Refused, match="leaves its folder"):
        check_out(local_workspace.objects, files.with_columns(path="../../" + files["path"]), tmp_path / "out")
    (images / "secret").symlink_to("/etc/passwd")
    with pytest.raises(Refused, match="leads out"):
        list_files(images)
    with pytest.raises(NotFound, match="no folder"):
        list_files(tmp_path / "nowhere")
