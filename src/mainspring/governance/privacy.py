"""Personal data: kept out of storage by dropping or keyed hashing, and found where nobody declared it."""

from __future__ import annotations

import hmac
import os
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

from mainspring.core.errors import Invalid, NotFound, Refused, nearest
from mainspring.core.records import Finding
from mainspring.core.ref import check_name
from mainspring.store.objects import write_durably
from mainspring.store.workspace import Workspace

if TYPE_CHECKING:
    import polars as pl

ACTIONS = ("drop", "hash", "keep")
SAMPLE = 2000


def transform(frame: pl.DataFrame, pii: Mapping[str, str], key: bytes) -> pl.DataFrame:
    """Return the table without the personal data that `pii` names.

    `drop` removes the column. `hash` puts a keyed pseudonym (HMAC-SHA256, first 128 bits as hex) in place of each
    value; equal values keep equal pseudonyms in every table of the project, missing stays missing. `keep` leaves the
    column as it is and says that somebody decided so.

    Raises:
        Invalid: an action is unknown.
        NotFound: a named column is absent.
    """
    import polars as pl

    for name, action in pii.items():
        if action not in ACTIONS:
            raise Invalid(f"pii={{{name!r}: {action!r}}} is no treatment{nearest(action, ACTIONS)}",
                          hint="use 'drop', 'hash' or 'keep'")  # fmt: skip
        if name not in frame.columns:
            raise NotFound(f"no column {name!r} to {action}{nearest(name, frame.columns)}",
                           hint=f"columns: {', '.join(frame.columns)}")  # fmt: skip
        if action == "drop":
            frame = frame.drop(name)
        elif action == "hash":
            values = frame.get_column(name).cast(pl.String)
            distinct = values.drop_nulls().unique()
            names = pl.Series([pseudonym(value, key) for value in distinct], dtype=pl.String)
            frame = frame.with_columns(values.replace_strict(distinct, names, default=None).alias(name))
    return frame


def pseudonym(value: str, key: bytes) -> str:
    """Return the keyed pseudonym of a value, 32 hexadecimal digits; without the key it cannot be found by trying."""
    return hmac.digest(key, value.encode(), "sha256")[:16].hex()


def project_key(workspace: Workspace, project: str) -> bytes:
    """Return the project's own key for pseudonyms, 32 bytes, made at the first call and kept with mode 0600.

    Raises:
        Refused: the key file is damaged; a new key would give every person a second pseudonym.
    """
    path = workspace.path("keys", f"{check_name(project, 'project')}.pii")
    with workspace.name_lock(f"pii-key-{project}"[:128]):
        if not path.exists():
            write_durably(path, os.urandom(32))
        key = path.read_bytes()
    if len(key) != 32:
        raise Refused(f"the pseudonym key of {project!r} is damaged", hint=f"restore keys/{path.name} from a backup")
    return key


def detect_personal(frame: pl.DataFrame, known: Mapping[str, str] | None = None) -> tuple[Finding, ...]:
    """Return the columns that seem to hold personal data and are not in `known`.

    Looks at up to 2,000 different values of each column for e-mail addresses, IBANs (with check digits), card numbers
    (Luhn) and telephone numbers. Most of a column is an error, a part of it (an address inside free text) a warning.
    No message shows a value.
    """
    import polars as pl

    findings = []
    for name, kind in frame.schema.items():
        if name in (known or {}) or not (kind.is_integer() or kind in (pl.String, pl.Categorical, pl.Enum)):
            continue
        column = frame.get_column(name).cast(pl.String)
        values = column.drop_nulls().unique(maintain_order=True).head(SAMPLE)
        if values.len():
            found = _personal(name, values.to_list(), numeric=kind.is_integer())
            findings += [] if found is None else [found]
    return tuple(findings)


def _personal(name: str, values: list[str], *, numeric: bool) -> Finding | None:
    for what, (matches, least) in _KINDS.items():
        if numeric and (what != "card numbers" or len(values) < 20):
            continue
        count = sum(map(matches, values))
        if count >= least * len(values) and count:
            severity: Literal["error", "warning"] = "warning" if what == "telephone numbers" else "error"
            message = f"{name} holds {what}: {count} of {len(values)} different values"
            return Finding("personal-data", name, message, severity, count=count)
    count = 0 if numeric else sum(_EMAIL_INSIDE.search(value) is not None for value in values)
    if count >= 0.05 * len(values) and count:
        message = f"{name} holds e-mail addresses in its text: {count} of {len(values)} different values"
        return Finding("personal-data", name, message, "warning", count=count)
    return None


_EMAIL_INSIDE = re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})*\.[A-Za-z]{2,24}")
_IBAN = re.compile(r"[A-Z]{2}\d{2}[A-Z0-9]{11,30}")
_CARD = re.compile(r"[2-6]\d{12,18}")
_PHONE = re.compile(r"(?:\+|00)[1-9][\d ()./-]{6,20}|\(?0?\d{2,5}\)?[ ./-]\d{2,5}(?:[ ./-]?\d{2,5}){1,3}")
_ISO_DATE = re.compile(r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}.*|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}.*")


def _is_email(value: str) -> bool:
    return len(value) <= 254 and _EMAIL_INSIDE.fullmatch(value.strip()) is not None


def _is_iban(value: str) -> bool:
    """Check the form and the two check digits (ISO 13616: the rearranged number is 1 modulo 97)."""
    text = value.replace(" ", "").upper()
    if not _IBAN.fullmatch(text):
        return False
    return int("".join(str(int(letter, 36)) for letter in text[4:] + text[:4])) % 97 == 1


def _is_card(value: str) -> bool:
    """Check the form and the last digit (Luhn: every second digit from the right doubled, the sum ends in 0)."""
    text = value.replace(" ", "").replace("-", "")
    if not _CARD.fullmatch(text):
        return False
    digits = [int(digit) for digit in reversed(text)]
    return sum(sum(divmod(2 * digit, 10)) if at % 2 else digit for at, digit in enumerate(digits)) % 10 == 0


def _is_phone(value: str) -> bool:
    text = value.strip()
    digits = sum(letter.isdigit() for letter in text)
    return 7 <= digits <= 15 and not _ISO_DATE.fullmatch(text) and _PHONE.fullmatch(text) is not None


# One number in ten passes Luhn by chance: a column of cards must pass nearly everywhere.
_KINDS: dict[str, tuple[Callable[[str], bool], float]] = {
    "e-mail addresses": (_is_email, 0.5), "IBANs": (_is_iban, 0.5), "card numbers": (_is_card, 0.9),
    "telephone numbers": (_is_phone, 0.5),
}  # fmt: skip
