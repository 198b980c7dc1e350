"""Errors a caller can act on: one class per decision, each with a stable code and a hint."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Where:
    """A place in a user's file; `line` counts from 1, 0 when only the file is known."""

    file: str
    line: int = 0

    def __str__(self) -> str:
        return f"{Path(self.file).name}:{self.line}" if self.line else Path(self.file).name


class MainspringError(Exception):
    """What happened, where, and what would work; `str()` is what a person reads.

    Args:
        message: What happened and the value seen, in one sentence.
        hint: The next step: a command or the form that would have worked.
        where: The line of the user's file that caused it.
    """

    code = "error"

    def __init__(self, message: str, *, hint: str = "", where: Where | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.where = where

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        text = f"{self.code}: {place}{self.message}"
        return f"{text}\nhint: {self.hint}" if self.hint else text

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions are rebuilt from positional args only; the pipeline engine carries them across processes.
        return (_rebuild, (type(self), self.message, self.hint, self.where))

    def as_dict(self) -> dict[str, str]:
        """Return the error as JSON-able data, for `--json` and HTTP."""
        data = {"code": self.code, "message": self.message}
        if self.hint:
            data["hint"] = self.hint
        if self.where:
            data["where"] = str(self.where)
        return data


def _rebuild(kind: type[MainspringError], message: str, hint: str, where: Where | None) -> MainspringError:
    return kind(message, hint=hint, where=where)


class Invalid(MainspringError):
    """The input is wrong; the same call can never work."""

    code = "invalid"


class NotFound(MainspringError):
    """The named thing does not exist."""

    code = "not-found"


class Conflict(MainspringError):
    """The state changed under the caller, or already holds something else."""

    code = "conflict"


class Forbidden(MainspringError):
    """The actor may not do this."""

    code = "forbidden"


class Unavailable(MainspringError):
    """A service or a lock is not there now; the same call may work later."""

    code = "unavailable"


class Refused(MainspringError):
    """A gate, a contract or a safety policy said no."""

    code = "refused"


class MissingExtra(Invalid):
    """An optional package is needed and not installed."""

    code = "missing-extra"

    def __init__(self, message: str, *, hint: str = "", where: Where | None = None, extra: str = "") -> None:
        super().__init__(message, hint=hint or f"pip install 'mainspring[{extra}]'", where=where)


def nearest(name: str, names: Iterable[str]) -> str:
    """Return `; the nearest name is "x"`, or an empty string when nothing is near.

    >>> nearest("transactons", ["transactions", "cards"])
    '; the nearest name is "transactions"'
    """
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)
    return f'; the nearest name is "{close[0]}"' if close else ""
