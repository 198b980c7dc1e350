"""Names and content digests: `kind:name@version` and `sha256:<hex>`."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

from mainspring.core.errors import Invalid

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


def check_name(text: str, what: str) -> str:
    """Return `text` if it is a valid name of a `what`; names become paths and URLs, so the grammar is narrow.

    Raises:
        Invalid: the name is empty, too long, or holds another character.

    >>> check_name("fraud-2", "project")
    'fraud-2'
    """
    if not isinstance(text, str) or not _NAME.fullmatch(text) or ".." in text:
        shown = repr(text[:40]) if isinstance(text, str) else type(text).__name__
        raise Invalid(
            f"{shown} is not a name for a {what}",
            hint="use letters, digits, '.', '_' and '-', at most 128, starting with a letter, a digit or '_'",
        )
    return text


@dataclass(frozen=True, slots=True)
class Ref:
    """A thing by name: `model:fraud@12`, `model:fraud@production`, `dataset:payments`."""

    kind: str
    name: str
    version: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}@{self.version}" if self.version else f"{self.kind}:{self.name}"


def parse_ref(text: str, kind: str = "") -> Ref:
    """Return the reference that `text` spells; law: `parse_ref(str(ref)) == ref`.

    Args:
        text: `kind:name@version`; the version may be absent.
        kind: The kind when `text` leaves it out, as a command line does.

    Raises:
        Invalid: no kind, or a part that is not a name.

    >>> parse_ref("model:fraud@12")
    Ref(kind='model', name='fraud', version='12')
    >>> parse_ref("fraud@production", kind="model").version
    'production'
    """
    head, colon, rest = text.partition(":")
    found, body = (head, rest) if colon else (kind, text)
    if not found or (kind and found != kind):
        raise Invalid(
            f"{text!r} is not a reference to a {kind or 'thing'}",
            hint=f"write {kind or 'model'}:NAME or {kind or 'model'}:NAME@VERSION",
        )
    name, at, version = body.partition("@")
    check_name(name, found)
    if at:
        check_name(version, "version")
    return Ref(found, name, version)


def digest(data: bytes) -> str:
    """Return the content digest of `data`, `sha256:<64 hex>`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def canonical_json(value: Any) -> bytes:
    """Return the one JSON text of `value`: sorted keys, no spaces, no NaN; equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest_json(value: Any) -> str:
    """Return the digest of the canonical JSON of `value`.

    >>> digest_json({"b": 1, "a": 2}) == digest_json({"a": 2, "b": 1})
    True
    """
    return digest(canonical_json(value))
