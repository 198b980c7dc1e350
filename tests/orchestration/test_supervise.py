"""A child process is accounted for however it ends."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mainspring.orchestration import journal
from mainspring.orchestration.leases import oom_kills
from mainspring.orchestration.supervise import supervise
from mainspring.store.workspace import Workspace


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        ("", "SUCCEEDED", "ended"),
        ("raise SystemExit(3)", "FAILED", "exit code 3"),
        ("import os; os.kill(os.getpid(), 9)", "KILLED", "SIGKILL"),
        ("import os; os.kill(os.getpid(), 11)", "KILLED", "SIGSEGV"),
        ("import os; os.kill(os.getpid(), 2)", "CANCELLED", "interrupted"),
    ],
)
def test_the_way_a_child_ends_is_told(code: str, status: str, said: str) -> None:
    ended = supervise(python(code))
    assert ended.status == status
    assert said in ended.reason


def test_a_child_past_its_time_is_killed_with_its_own_children(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    code = f"""
import subprocess, time
child = subprocess.Popen(["sleep", "60"])
open({str(pid)!r}, "w").write(str(child.pid))
time.sleep(60)
"""
    ended = supervise(python(code), timeout_s=1.0)
    assert (ended.status, ended.reason) == ("KILLED", "killed after 1 s")
    grandchild = int(pid.read_text())
    deadline = time.monotonic() + 5
    while _runs(grandchild) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _runs(grandchild)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_run_its_child_left_open_is_settled(local_workspace: Workspace) -> None:
    with local_workspace.change("shop") as change:
        run_id = journal.request_run(change, "shop", "train")
    supervise(python("import os; os.kill(os.getpid(), 9)"), ws=local_workspace, run_id=run_id)
    assert journal.get_run(local_workspace, run_id).status == "KILLED"


def test_variables_reach_the_child() -> None:
    code = "import os; raise SystemExit(int(os.environ['ANSWER']))"
    assert supervise(python(code), environment={"ANSWER": "42"}).code == 42


@pytest.fixture
def small_memory() -> Iterator[Path]:
    """Give a control group of 64 MB, where this machine lets one be made."""
    own = next(
        (line.split(":")[2] for line in Path("/proc/self/cgroup").read_text().splitlines() if ":memory:" in line), ""
    )
    group = Path(f"/sys/fs/cgroup/memory{own}/mainspring-{os.getpid()}")
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(64 * 2**20))
    except OSError:
        pytest.skip("no memory control group can be made here")
    yield group
    for _ in range(50):
        try:
            group.rmdir()
            return
        except OSError:
            time.sleep(0.1)


def test_a_child_that_wants_too_much_memory_is_told_apart_from_a_killed_one(small_memory: Path) -> None:
    code = f"""
from pathlib import Path
Path({str(small_memory / "cgroup.procs")!r}).write_text("0")
from mainspring.orchestration.supervise import supervise
import sys
print(supervise([sys.executable, "-S", "-c", "x = bytearray(200_000_000)"]).status)
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert shown.stdout.split() == ["OOM"]


def test_the_count_of_memory_kills_is_a_number_everywhere() -> None:
    assert oom_kills() >= 0
