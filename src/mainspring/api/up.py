"""Everything on one machine: the control plane and background work here, the data plane as a supervised child."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from mainspring.api.address import address, in_url
from mainspring.api.client import error_kind
from mainspring.api.server import check_bind, make_app
from mainspring.api.worker import Worker, command, spawner, tick_safely
from mainspring.core.errors import Conflict, Unavailable
from mainspring.governance import tokens
from mainspring.orchestration.supervise import exit_of
from mainspring.store.objects import write_durably
from mainspring.store.workspace import Workspace

TICK_S = 1.0
DRAIN_S = 12.0
_LONGEST_WAIT_S = 30.0
Say = Callable[[str], None]


def up(
    ws: Workspace,
    directory: Path,
    *,
    host: str = "",
    port: int = 0,
    serving_port: int = 0,
    insecure: bool = False,
    say: Say = print,
) -> None:
    """Run the control plane, background work and the data plane until SIGTERM or Ctrl-C.

    This process imports neither a data frame nor a model library; training and monitoring happen in children.

    Args:
        ws: The workspace.
        directory: Folder of the project.
        host: Where the control plane listens; the settings' by default, then loopback.
        port: The control plane's port; 8000 by default.
        serving_port: The data plane's port; 8080 by default.
        insecure: Listen beyond this machine without TLS, because a proxy in front has it.
        say: Told in a sentence what happens.

    Raises:
        Refused: the host is not this machine alone.
        Unavailable: a port is taken.
    """
    host = host or str(ws.settings.api.get("host", "127.0.0.1"))
    port = port or int(ws.settings.api.get("port", 8000))
    check_bind(host, insecure=insecure)
    listener = _listen(host, port)
    lock = _only_one(ws)
    os.ftruncate(lock, 0)
    os.write(lock, f"http://{in_url(host)}:{port}".encode())
    _apply(directory)
    plane = DataPlaneChild(ws, directory, serving_port or int(ws.settings.serving.get("port", 8080)), say)
    worker = Worker(ws, spawner(directory, ws.path("log", "worker.log")), say)
    stopping = threading.Event()

    def repeat(act: Callable[[], None]) -> threading.Thread:
        def loop() -> None:
            while not stopping.wait(TICK_S):
                act()

        return threading.Thread(target=loop, daemon=True)

    # Apart, so that a slow delivery does not keep a fallen data plane waiting.
    threads = [repeat(plane.look), repeat(lambda: tick_safely(worker, say))]
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    try:
        _greet(ws, address(ws), plane, say)
        plane.look()
        for thread in threads:
            thread.start()
        _serve_http(ws, listener)
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)  # stopping is under way already, and bounded
        stopping.set()
        for thread in threads:
            if thread.ident is not None:
                thread.join(5)
        worker.stop()
        plane.stop()
        os.ftruncate(lock, 0)
        os.close(lock)
        say("stopped")


def work(ws: Workspace, directory: Path, say: Say = print) -> None:
    """Do background work alone until SIGTERM or Ctrl-C."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    worker = Worker(ws, spawner(directory, ws.path("log", "worker.log")), say)
    say("background work runs; Ctrl-C ends it")
    while not stopping.wait(TICK_S):
        tick_safely(worker, say)
    worker.stop()
    say("stopped")


class DataPlaneChild:
    """The serving process, started again when it ends and found again when this process was replaced.

    It does not end with its parent: predictions go on while the control plane is down, and the next one takes it over.
    """

    def __init__(self, ws: Workspace, directory: Path, port: int, say: Say) -> None:
        self.port = port
        self._ws, self._directory, self._say = ws, directory, say
        self._note = ws.path("serving", "process.json")
        self._child: subprocess.Popen[bytes] | None = None
        self._pid = 0
        self._wait_s, self._not_before = 1.0, 0.0

    def look(self) -> None:
        """Start the data plane unless it runs."""
        if self._is_running():
            return
        if self._child is None and self._adopt():
            self._say(f"the data plane still runs from before; process {self._pid}")
            return
        now = time.monotonic()
        if now < self._not_before:
            return
        if self._child is not None:
            self._say(f"the data plane {exit_of(self._child.returncode).reason}; it is started again")
            self._wait_s = min(self._wait_s * 2, _LONGEST_WAIT_S)
        self._not_before = now + self._wait_s
        log = os.open(self._ws.path("log", "serving.log"), os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
        try:
            arguments = command(self._directory, "serve", "--port", str(self.port))
            # A session of its own: Ctrl-C in the terminal reaches it through `stop`, after the requests under way.
            self._child = subprocess.Popen(arguments, stdout=log, stderr=log, start_new_session=True)
        finally:
            os.close(log)
        self._pid = self._child.pid
        note = {"pid": self._pid, "started": _started(self._pid), "port": self.port}
        write_durably(self._note, json.dumps(note).encode())

    def stop(self) -> None:
        """End the data plane; requests under way are answered first."""
        if not self._is_running():
            return
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGTERM)
        ends = time.monotonic() + DRAIN_S
        while self._is_running() and time.monotonic() < ends:
            time.sleep(0.05)
        if self._is_running():
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
        if self._child is not None:
            self._child.wait()
        self._note.unlink(missing_ok=True)

    def _is_running(self) -> bool:
        if self._child is not None:
            return self._child.poll() is None
        return self._pid != 0 and self._is_noted()

    def _adopt(self) -> bool:
        note = self._read_note()
        self._pid = int(note.get("pid", 0))
        if note.get("port") != self.port:
            self.stop()  # from a time with another port: nobody looks after it any more
        return self._is_running()

    def _is_noted(self) -> bool:
        note = self._read_note()
        return note.get("pid") == self._pid and note.get("started") == _started(self._pid) != 0

    def _read_note(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(self._note.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found


def _only_one(ws: Workspace) -> int:
    """Return the lock that says this installation is up; the kernel frees it with the process."""
    lock = os.open(ws.path("locks", "up"), os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise Conflict(f"another `mainspring up` runs on {ws.home}", hint="stop it, or use another folder") from error
    return lock


def _leave(*_: object) -> None:
    # uvicorn raises the signal again when it has shut down; the default would end the process before its children.
    raise SystemExit(0)


def _apply(directory: Path) -> None:
    """Apply the declaration in a child: reading a project file may import half of what is installed."""
    done = subprocess.run(command(directory, "apply", "--json"), capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    try:
        said = json.loads(done.stderr)
    except ValueError:
        said = {"message": "the declaration could not be applied", "hint": "mainspring apply"}
    where = f"{said['where']}: " if said.get("where") else ""
    raise error_kind(str(said.get("code")))(where + str(said.get("message")), hint=str(said.get("hint", "")))


def _greet(ws: Workspace, url: str, plane: DataPlaneChild, say: Say) -> None:
    say(f"control plane  {url}")
    say(f"data plane     http://127.0.0.1:{plane.port}   (predictions, /docs, /metrics)")
    if not tokens.list_tokens(ws, limit=1):
        say("first start: this link gives one admin token, once, within an hour")
        say(f"  {tokens.login_link(ws, url)}")


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise Unavailable(
            f"{host}:{port} cannot be bound: {error.strerror}",
            hint=f"stop what listens on port {port}, or mainspring up --port {port + 1 if port < 65535 else 8000}",
        ) from error
    return listener


def _serve_http(ws: Workspace, listener: socket.socket) -> None:
    import uvicorn

    from mainspring.serving.process import TimedProtocol

    config = uvicorn.Config(
        make_app(ws),
        loop="uvloop" if sys.platform != "win32" else "asyncio",
        http=TimedProtocol,
        interface="asgi3",
        ws="none",
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        log_level="warning",
        limit_concurrency=200,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=5,
    )
    uvicorn.Server(config).run(sockets=[listener])


def _started(pid: int) -> int:
    """Return the tick a process started at, 0 when it has ended; tells it from a later one with the same number."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return 0 if fields[0] in "ZX" else int(fields[19])
    except OSError:
        if Path("/proc/self/stat").exists():
            return 0
    try:  # not Linux: the number alone has to do
        os.kill(pid, 0)
    except OSError:
        return 0
    return 1
