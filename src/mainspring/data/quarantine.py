"""Rows that broke a contract, set aside beside their table with the reasons."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import polars as pl

from mainspring.data.frames import content_digest

FOLDER = "_quarantine"  # Delta leaves folders with a leading underscore alone
REASONS = "broken_checks"


def set_aside(table: Path, bad: pl.DataFrame, reasons: list[str], now: datetime) -> None:
    """Write bad rows beside their table, once however often the same rows come."""
    bad = bad.with_columns(pl.Series(REASONS, reasons, dtype=pl.String))
    name = content_digest(bad).removeprefix("sha256:")[:16]
    folder = table / FOLDER
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not list(folder.glob(f"*-{name}.parquet")):
        temporary = folder / f".{name}"
        bad.write_parquet(temporary)
        temporary.replace(folder / f"{now:%Y%m%dT%H%M%S}-{name}.parquet")


def read_quarantine(table: Path) -> pl.DataFrame:
    """Return the rows set aside, oldest ingest first, with the rules each breaks in `broken_checks`."""
    frames = [pl.read_parquet(file) for file in sorted((table / FOLDER).glob("*.parquet"))]
    return pl.concat(frames, how="diagonal_relaxed") if frames else pl.DataFrame()


def expire(table: Path, before: datetime) -> int:
    """Delete rows set aside before an instant; return how many files went."""
    old = [file for file in (table / FOLDER).glob("*.parquet") if file.name < f"{before:%Y%m%dT%H%M%S}"]
    for file in old:
        file.unlink()
    return len(old)
