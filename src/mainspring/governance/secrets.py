"""References to secrets in place of secrets, and a mask for the ones that slip into text."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from mainspring.core.errors import Invalid, NotFound

SCHEME = "secret://"
_MASK = "[masked]"

# Whole-token patterns of the common issuers, private keys, URLs with a password, and our own tokens.
_PATTERNS = tuple(
    re.compile(pattern, re.DOTALL)
    for pattern in (
        r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
        r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
        r"\bgh[pousr]_[A-Za-z0-9]{36,}\b",
        r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}",
        r"\bhttps://hooks\.slack\.com/services/[A-Za-z0-9/]+",
        r"\bsk-[A-Za-z0-9_-]{20,}\b",
        r"\bglpat-[A-Za-z0-9_-]{20,}",
        r"\bey[A-Za-z0-9_-]{10,}\.ey[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",
        r"\bmsl?_[0-9A-Za-z]{10}_[0-9A-Za-z]{40}[0-9a-f]{8}\b",
        r"(?<=://)[^\s:/@]+:[^\s/@]+(?=@)",
    )
)
_NAMED = re.compile(
    r"""(?ix) \b ([\w.-]*(?:password|passwd|secret|token|api[_-]?key|access[_-]?key)[\w.-]*) (["']?\s*[=:]\s*["']?)
        (?!secret://|//) ([^\s"',;}&]{4,})"""
)


def resolve(reference: str, *, environment: Mapping[str, str] = os.environ) -> str:
    """Return the secret that a reference names: `secret://env/NAME` or `secret://file/PATH`.

    Text that is no reference is refused, so that a secret cannot be written where its reference belongs.

    Raises:
        Invalid: this is not a reference, or it names no provider there is.
        NotFound: the variable or the file is not there, or is empty.
    """
    form = "write secret://env/NAME, or secret://file/etc/path for a file"
    if not reference.startswith(SCHEME):
        raise Invalid("this setting takes a reference to a secret, not the secret", hint=form)
    provider, _, name = reference.removeprefix(SCHEME).partition("/")
    if not name or provider not in ("env", "file"):
        raise Invalid(f"{reference!r} names no secret", hint=form)
    if provider == "env":
        value = environment.get(name, "")
        if not value:
            raise NotFound(f"the environment variable {name} is not set", hint=f"export {name}=...")
        return value
    path = Path("/" + name)
    try:
        value = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise NotFound(f"the secret file {path} cannot be read", hint="check its path, owner and mode") from error
    if not value:
        raise NotFound(f"the secret file {path} is empty", hint="write the secret into it")
    return value


def mask(text: str) -> str:
    """Return `text` with everything that looks like a secret masked; law: `mask(mask(t)) == mask(t)`.

    >>> mask("password=hunter2 user=ann")
    'password=[masked] user=ann'
    """
    for pattern in _PATTERNS:
        text = pattern.sub(_MASK, text)
    return _NAMED.sub(lambda found: found[0] if found[3] == _MASK else f"{found[1]}{found[2]}{_MASK}", text)


def holds_secret(text: str) -> bool:
    """Whether something in the text looks like a secret."""
    return mask(text) != text
