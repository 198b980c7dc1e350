"""Runs the blocks of one page in order, in a folder of their own."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from docs.loosely import json_differs, missing_line
from docs.pages import OUTPUT, ROOT, SHELL, Block, Page
from mainspring.core.settings import load_settings
from mainspring.project.loading import load_project

TIMEOUT_S = 120
READY_S = 45


class Runner:
    """A folder in which a page is played; background processes end with it."""

    def __init__(self, page: Page, folder: Path, replaced: dict[str, str]) -> None:
        self.page, self.folder = page, folder
        self.api_port, self.serving_port = _free_port(), _free_port()
        self._replaced = replaced | {
            "127.0.0.1:8080": f"127.0.0.1:{self.serving_port}",
            "127.0.0.1:8000": f"127.0.0.1:{self.api_port}",
        }
        self._said = ""
        self._names: dict[str, Any] = {"__name__": "__main__"}
        self._background: list[subprocess.Popen[str]] = []
        (folder / ".bin").mkdir()
        make = folder / ".bin" / "make"
        # A page's `make` verbs must be there; running them here would run these tests in themselves.
        make.write_text(f'#!/bin/sh\nexec /usr/bin/make -n -C {ROOT} "$@"\n', encoding="utf-8")
        make.chmod(0o755)

    def play(self) -> None:
        """Run every block; the first that does not do what the page says fails with its line."""
        for block in self.page.blocks:
            self._play(block)

    def close(self) -> None:
        """End what still runs."""
        for process in self._background:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            if process.stdout:
                process.stdout.close()

    def _play(self, block: Block) -> None:
        name = block.directives.get("file") or block.directives.get("append")
        if name:
            self._write(block, name)
        elif block.language in SHELL:
            self._shell(block)
        elif block.language == "python":
            self._python(block)
        elif block.language == "toml":
            self._toml(block)
        elif block.language == "clock":
            (self.folder / ".clock").write_text(block.text, encoding="utf-8")
        elif block.language in ("yaml", "yml"):
            yaml.safe_load(block.text)
        elif block.language == "diff":
            self._check(block, any(line.startswith("+") for line in block.text.splitlines()), "adds no line")
        elif block.language in OUTPUT:
            self._output(block)
        else:
            self._fail(block, f"blocks in {block.language!r} are not run; say how in tests/docs/runner.py")

    def _write(self, block: Block, name: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a" if "append" in block.directives else "w", encoding="utf-8") as out:
            out.write(self._text(block.text))
        if path.name == "mainspring.toml":
            load_settings(path.parent, environment={})
        if path.name == "project.py":
            load_project(path)

    def _shell(self, block: Block) -> None:
        if "background" in block.directives:
            return self._start(block)
        commands = [(block.text, "")] if block.language != "console" else list(_session(block.text))
        for command, shown in commands:
            code, said = self._run(command)
            wanted = int(block.directives.get("exit", 0))
            if shown:
                self._compare(block, shown, said)
            if "hidden" not in block.directives:
                self._said = said
            self._check(block, code == wanted, f"ended with code {code}, not {wanted}:\n{command}\n{said}")
        return None

    def _run(self, command: str) -> tuple[int, str]:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self._text(command)], cwd=self.folder, env=self._environment(),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
        return done.returncode if done.returncode >= 0 else 128 - done.returncode, done.stdout

    def _start(self, block: Block) -> None:
        process = subprocess.Popen(
            ["bash", "-c", self._text(block.text)], cwd=self.folder, env=self._environment(),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        self._background.append(process)
        ends = time.monotonic() + READY_S
        while not self._is_ready() and time.monotonic() < ends and process.poll() is None:
            time.sleep(0.1)
        if not self._is_ready():
            self.close()
            self._fail(block, f"it did not come up within {READY_S} s")

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.serving_port}/health/ready", timeout=1) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _python(self, block: Block) -> None:
        # From a file, because a declared function is read again as text; padded, so that lines are those of the page.
        path = self.folder / f".block{block.line}.py"
        path.write_text("\n" * (block.line - 1) + self._text(block.text), encoding="utf-8")
        before, known = Path.cwd(), list(sys.path)
        os.chdir(self.folder)
        sys.path.insert(0, str(self.folder))
        try:
            exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), self._names)
        except Exception as error:
            raise AssertionError(f"{self.page}:{block.line}: {type(error).__name__}: {error}") from error
        finally:
            os.chdir(before)
            sys.path[:] = known

    def _toml(self, block: Block) -> None:
        tomllib.loads(block.text)
        folder = self.folder / f".settings{block.line}"
        folder.mkdir()
        (folder / "mainspring.toml").write_text(block.text, encoding="utf-8")
        load_settings(folder, environment={})

    def _output(self, block: Block) -> None:
        if "drawing" in block.directives:
            return
        if block.language == "json":
            shown = json.loads(block.text)
            if not self._said:
                return
            said = json.loads(self._said[min(self._said.find(mark) % (len(self._said) + 1) for mark in "{[") :])
            self._check(block, not (differs := json_differs(shown, said)), f"{differs}\n{self._said[:2000]}")
        else:
            self._check(block, bool(self._said), "is no command's output; mark it <!-- drawing --> if it is a picture")
            self._compare(block, block.text, self._said)
        self._said = ""

    def _compare(self, block: Block, shown: str, said: str) -> None:
        line = missing_line(self._text(shown), said)
        self._check(block, not line, f"this line was not said:\n  {line}\nsaid:\n{said}")

    def _text(self, text: str) -> str:
        for old, new in self._replaced.items():
            text = text.replace(old, new)
        text = re.sub(r"\bmainspring( -C \S+)? serve\b", rf"mainspring\1 serve --port {self.serving_port}", text)
        ports = f"--port {self.api_port} --serving-port {self.serving_port}"
        return re.sub(r"^(\s*(?:\S+=\S+ )*)mainspring( -C \S+)? up\b", rf"\1mainspring\2 up {ports}", text, flags=re.M)

    def _environment(self) -> dict[str, str]:
        known = {name: value for name, value in os.environ.items() if not name.startswith("MAINSPRING_")}
        folder, clock = str(Path(sys.executable).parent), self.folder / ".clock"
        return known | ({"MAINSPRING_CLOCK": str(clock)} if clock.exists() else {}) | {
            "PATH": f"{self.folder / '.bin'}:{folder}:{known.get('PATH', '')}", "HOME": str(self.folder), "TERM": "dumb", "COLUMNS": "120",
        }  # fmt: skip

    def _check(self, block: Block, holds: bool, message: str) -> None:
        if not holds:
            self._fail(block, message)

    def _fail(self, block: Block, message: str) -> None:
        pytest.fail(f"{self.page}:{block.line}: {message}", pytrace=False)


def _session(text: str) -> list[tuple[str, str]]:
    """Return the commands of a console block, each with the output shown below it."""
    found: list[tuple[str, str]] = []
    is_command = False
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], ""))
            is_command = line.endswith("\\")
        elif is_command:
            found[-1] = (f"{found[-1][0]}\n{line.removeprefix('> ')}", "")
            is_command = line.endswith("\\")
        else:
            found[-1] = (found[-1][0], found[-1][1] + line + "\n")
    return found


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
