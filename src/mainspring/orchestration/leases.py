"""Leases with fencing tokens: one holder at a time, and a late one is refused."""

from __future__ import annotations

import os
import re
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from mainspring.core.clock import Clock
from mainspring.core.errors import Conflict, Unavailable
from mainspring.store.tables import leases
from mainspring.store.workspace import Change, Workspace

TTL = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to act on `name`; `token` grows with every new holder and fences off the ones before."""

    name: str
    holder: str
    token: int
    ttl: timedelta = TTL


@dataclass(frozen=True, slots=True)
class Process:
    """A process, named so that nobody mistakes a later one with the same number for it."""

    machine: str
    namespace: str
    pid: int
    started: int
    oom_kills: int = 0

    def __str__(self) -> str:
        return f"{self.machine}/{self.namespace}/{self.pid}/{self.started}/{self.oom_kills}"

    @staticmethod
    def parse(text: str | None) -> Process | None:
        match = re.fullmatch(r"([^/]+)/([^/]+)/(\d+)/(\d+)/(\d+)", text or "")
        if not match:
            return None
        machine, namespace, pid, started, oom_kills = match.groups()
        return Process(machine, namespace, int(pid), int(started), int(oom_kills))

    def is_gone(self) -> bool:
        """Whether it is certain that the process has ended; of another machine's processes nothing is certain."""
        here = this_process()
        return (self.machine, self.namespace) == (here.machine, here.namespace) and _started(self.pid) != self.started


def acquire(ws: Workspace, name: str, holder: str, ttl: timedelta = TTL) -> Lease:
    """Take the lease called `name`.

    Raises:
        Conflict: someone alive holds it.
    """
    with ws.change("") as change:
        return take(change, name, holder, ttl)


def take(change: Change, name: str, holder: str, ttl: timedelta = TTL) -> Lease:
    """Take a lease inside the caller's transaction; see `acquire`."""
    row = change.execute(sa.select(leases).where(leases.c.name == name).with_for_update()).first()
    if row and not is_free(row, change.clock):
        raise Conflict(f"{name} is held by {row.holder}", hint="wait for it to end, or for its lease to run out")
    lease = Lease(name, holder, row.token + 1 if row else 1, ttl)
    values = {"holder": holder, "token": lease.token, "worker": str(this_process()), **_until(change.clock, ttl)}
    if row:
        change.execute(leases.update().where(leases.c.name == name).values(**values))
    else:
        change.execute(leases.insert().values(name=name, **values))
    return lease


def renew(ws: Workspace, lease: Lease) -> None:
    """Keep the lease for another `ttl`.

    Raises:
        Conflict: another holder has it now.
    """
    with ws.change("") as change:
        held = change.execute(leases.update().where(*_mine(lease)).values(**_until(ws.clock, lease.ttl)))
        if held.rowcount != 1:
            raise fenced(lease.name)


def release(change: Change, lease: Lease) -> None:
    """Give the lease up inside the caller's transaction; the row stays, so that tokens keep growing."""
    change.execute(leases.update().where(*_mine(lease)).values(holder="", expires_at=change.clock.now()))


def check(change: Change, lease: Lease) -> None:
    """Refuse the caller's transaction unless the lease is still its own.

    Raises:
        Conflict: another holder has it now.
    """
    # The row is locked (PostgreSQL) or the database is (SQLite), so no takeover can slip in before the commit.
    if change.execute(sa.select(leases.c.token).where(*_mine(lease)).with_for_update()).first() is None:
        raise fenced(lease.name)


def fenced(name: str) -> Conflict:
    """Return the error of a process that goes on after another took its place."""
    return Conflict(f"{name} was taken over by another process", hint="stop this process; the other one carries on")


def is_free(row: sa.Row[Any], clock: Clock) -> bool:
    """Whether a lease row has no living holder.

    On the holder's own machine its monotonic clock decides, so that a jump of the wall clock takes nothing away;
    elsewhere the wall clock does. A process that is known to have ended holds nothing.
    """
    process = Process.parse(row.worker)
    if not row.holder or process is None or process.is_gone():
        return True
    if process.machine == this_process().machine:
        return bool(row.expires_tick <= clock.monotonic())
    return bool(row.expires_at <= clock.now())


class Heartbeat:
    """Renews a lease, three times per `ttl`, from a thread of its own.

    Args:
        ws: The workspace.
        lease: What to renew.
        on_beat: Called from the thread every second, and soon after each `wake()`.
        on_lost: Called once with the reason when the lease is somebody else's.
    """

    def __init__(
        self,
        ws: Workspace,
        lease: Lease,
        on_beat: Callable[[], None] = lambda: None,
        on_lost: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self._ws, self._lease, self._on_beat, self._on_lost = ws, lease, on_beat, on_lost
        self._ended, self._woken = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"heartbeat-{lease.name}", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._woken.set()
        self._thread.join()

    def wake(self) -> None:
        """Ask for a beat soon; many calls within a moment make one beat."""
        self._woken.set()

    def _run(self) -> None:
        pause, renewed = self._lease.ttl.total_seconds() / 3, time.monotonic()
        while not self._ended.is_set():
            self._woken.wait(min(1.0, pause))
            if self._ended.wait(0.05 if self._woken.is_set() else 0):
                return
            self._woken.clear()
            # While the database is away nobody else can take the lease either; the next beat tells.
            try:
                with suppress(Unavailable):
                    self._on_beat()
                    if time.monotonic() - renewed >= pause:
                        renew(self._ws, self._lease)
                        renewed = time.monotonic()
            except Conflict:
                self._on_lost("taken over by another process")
                return


@lru_cache(maxsize=1)
def _machine() -> tuple[str, str]:
    boot, namespace = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    try:
        return boot.read_text().strip(), re.sub(r"\D", "", str(namespace.readlink()))
    except OSError:  # not Linux
        return socket.gethostname(), "0"


def this_process() -> Process:
    """Return the running process."""
    machine, namespace = _machine()
    return Process(machine, namespace, os.getpid(), _started(os.getpid()) or 0, oom_kills())


def oom_kills() -> int:
    """Return how many processes of this control group the kernel has killed for want of memory, 0 where unknown."""
    groups = {}
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            groups[controllers] = path
    version_2 = Path(f"/sys/fs/cgroup{groups.get('', '')}/memory.events")
    version_1 = Path(f"/sys/fs/cgroup/memory{groups.get('memory', '')}/memory.oom_control")
    for events in (version_1, version_2):
        with suppress(OSError):
            if found := re.search(r"^oom_kill (\d+)$", events.read_text(), re.MULTILINE):
                return int(found.group(1))
    return 0


def _started(pid: int) -> int | None:
    """Return the tick a process started at, None when there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else int(fields[19])  # a zombie has ended; only its parent has not looked
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
    try:  # not Linux: the number alone has to do
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return 0


def _mine(lease: Lease) -> tuple[sa.ColumnElement[bool], ...]:
    return (leases.c.name == lease.name, leases.c.token == lease.token, leases.c.holder == lease.holder)


def _until(clock: Clock, ttl: timedelta) -> dict[str, object]:
    return {"expires_at": clock.now() + ttl, "expires_tick": clock.monotonic() + ttl.total_seconds()}
