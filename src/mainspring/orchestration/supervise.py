"""Runs a program in a process of its own and says how it ended, also when it could not say so itself."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from mainspring.orchestration.journal import CANCELLED, FAILED, FINAL, KILLED, OOM, SUCCEEDED, get_run, settle
from mainspring.orchestration.leases import oom_kills
from mainspring.store.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Exit:
    """How a child process ended: a run status, the exit code (negative: the signal), and a sentence."""

    status: str
    code: int
    reason: str


def supervise(
    argv: Sequence[str],
    *,
    ws: Workspace | None = None,
    run_id: str = "",
    timeout_s: float | None = None,
    environment: Mapping[str, str] | None = None,
) -> Exit:
    """Run `argv` to its end; the child is killed with this process's interrupt and after `timeout_s`.

    Args:
        argv: The program and its arguments.
        ws, run_id: A run the child carries out; if the child died without settling it, it is settled here.
        timeout_s: Kill it after this long.
        environment: Variables on top of this process's own.
    """
    killed_before = oom_kills()
    child = subprocess.Popen(argv, env={**os.environ, **(environment or {})}, start_new_session=True)
    timed_out = False
    try:
        child.wait(timeout_s)
    except subprocess.TimeoutExpired:
        timed_out = True
    finally:
        # The whole session: what the child started must not outlive it.
        if child.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    if timed_out:
        ended = Exit(KILLED, child.returncode, f"killed after {timeout_s:g} s")
    else:
        ended = exit_of(child.returncode, out_of_memory=oom_kills() > killed_before)
    if ws is not None and run_id:
        record = get_run(ws, run_id)
        if record.status not in FINAL and ended.status != SUCCEEDED:
            with ws.change(record.project) as change:
                settle(change, record, ended.status)
    return ended


def exit_of(code: int, *, out_of_memory: bool = False) -> Exit:
    """Return what an exit code means for a run; negative is the signal, as `subprocess` has it.

    >>> exit_of(-9).status, exit_of(-9, out_of_memory=True).status, exit_of(3).status
    ('KILLED', 'OOM', 'FAILED')
    """
    if code == 0:
        return Exit(SUCCEEDED, 0, "ended")
    if code > 128 and code - 128 in set(signal.Signals):
        code = 128 - code  # a shell in between reports its child's signal so
    if code > 0:
        return Exit(FAILED, code, f"ended with exit code {code}")
    name = signal.Signals(-code).name
    if out_of_memory and code == -signal.SIGKILL:
        return Exit(OOM, code, "killed by the kernel for want of memory")
    if code == -signal.SIGINT:
        return Exit(CANCELLED, code, "interrupted")
    return Exit(KILLED, code, f"killed by {name}")
