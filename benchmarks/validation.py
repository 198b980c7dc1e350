"""What a contract costs beside Pandera, over 5 million rows and 20 columns.

Run it: python benchmarks/validation.py. Both sides check the same rules in one run, in turns; it exits with 1 when the
contract is slower. Pandera counts what is wrong; ours also marks the rows.
"""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
import pandera.polars as pandera
import polars as pl

from mainspring.data import checks as check
from mainspring.data.contract import run_checks

ROWS = int(sys.argv[1]) if len(sys.argv) > 1 else 5_000_000
ROUNDS = 3
STATES = [str(i) for i in range(50)]


def table() -> pl.DataFrame:
    rng = np.random.default_rng(0)
    numbers = {f"x{i}": rng.random(ROWS) for i in range(14)} | {f"n{i}": rng.integers(0, 1000, ROWS) for i in range(4)}
    state = pl.Series(rng.integers(0, 50, ROWS)).cast(pl.String)
    return pl.DataFrame({**numbers, "id": np.arange(ROWS), "state": state})


def contract() -> list[check.Check]:
    numbers = [check.between(f"x{i}", 0, 0.999_999) for i in range(14)] + [
        check.between(f"n{i}", 0, 999) for i in range(4)
    ]
    return [*numbers, check.unique("id"), check.one_of("state", STATES), check.matches("state", r"\d+"),
            check.not_null("id", "state"), check.rows(1), check.types(id="int64"), check.not_null("x0")]  # fmt: skip


def schema() -> pandera.DataFrameSchema:
    columns = {f"x{i}": pandera.Column(float, pandera.Check.in_range(0, 0.999_999)) for i in range(14)}
    columns |= {f"n{i}": pandera.Column(int, pandera.Check.in_range(0, 999)) for i in range(4)}
    text = [pandera.Check.isin(STATES), pandera.Check.str_matches(r"^\d+$")]
    return pandera.DataFrameSchema(
        {**columns, "id": pandera.Column(int, unique=True), "state": pandera.Column(str, text)}
    )


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def refused(schema: pandera.DataFrameSchema, frame: pl.DataFrame) -> None:
    try:
        schema.validate(frame, lazy=True)
    except pandera.errors.SchemaErrors:
        return
    raise AssertionError("some rows break the rules")


def main() -> int:
    frame, rules, other = table(), contract(), schema()
    now = datetime.now(UTC)
    ours, theirs = [], []
    for _ in range(ROUNDS):
        ours.append(seconds(lambda: run_checks(frame, rules, now=now)))
        theirs.append(seconds(lambda: refused(other, frame)))
    report = run_checks(frame, rules, now=now)
    ratio = statistics.median(theirs) / statistics.median(ours)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{len(rules)} checks over {ROWS:,} x {frame.width}: {statistics.median(ours):.2f} s, "
          f"{int(report.bad_rows.sum())} rows marked; Pandera {statistics.median(theirs):.2f} s")  # fmt: skip
    print(f"ratio {ratio:.1f} (budget: at least 1); peak memory of both {peak:.1f} GB")
    return int(ratio < 1)


if __name__ == "__main__":
    sys.exit(main())
