"""What drift over 1 million x 1 million rows of 30 columns costs beside SciPy, column by column.

Run it: python benchmarks/drift.py [rows]. It prints both sides of each ratio, measured in one run, and exits with 1
when the sketches take more than a fifth of SciPy's time.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
from scipy.stats import chi2_contingency, ks_2samp  # imported before anything is timed: both sides need SciPy

from mainspring.core.schema import Column, Schema, Signature
from mainspring.monitoring.monitors import count_window, find_drift
from mainspring.monitoring.reference import Reference, build

NUMBERS, CATEGORIES, KINDS = 20, 10, 12
BUDGET = 0.2
START = datetime(2026, 1, 1, tzinfo=UTC)


def main(rows: int) -> int:
    rng = np.random.default_rng(0)
    before, after = table(rng, rows, 0.0), table(rng, rows, 0.15)
    time_of = np.datetime64("2026-01-01", "us") + np.arange(rows) * np.timedelta64(int(30 * 86400e6 / rows), "us")
    inputs = Schema(tuple(Column(n, "float64" if n.startswith("n") else "string") for n in before.columns))
    signature = Signature(inputs, "binary", (False, True), True)
    window = after.rename({name: f"in.{name}" for name in after.columns}).with_columns(score=rng.random(rows))

    made, built = timed(lambda: Reference.from_json(build(before, rng.random(rows), signature, time=time_of)))
    counted, counts = timed(lambda: count_window(made, window))
    every = timedelta(days=1)
    found, judged = timed(
        lambda: find_drift(made, [counted], end=START + timedelta(days=31), every=every, min_rows=200)
    )
    _, scipy_s = timed(lambda: scipy_tests(before, after))

    ours = built + counts + judged
    print(f"{rows:,} x {rows:,} rows, {NUMBERS} columns of numbers and {CATEGORIES} of categories")
    print(f"  reference, with the season of every window length  {built:8.2f} s (once per version)")
    print(f"  counts of the window                               {counts:8.2f} s")
    print(f"  tests at three scales                              {judged * 1000:8.1f} ms ({len(found)} drifts found)")
    print(f"  SciPy: ks_2samp and chi2_contingency               {scipy_s:8.2f} s")
    print(f"  reference + window + tests / SciPy                 {ours / scipy_s:8.3f}")
    print(f"  window + tests / SciPy                             {(counts + judged) / scipy_s:8.3f} (at most {BUDGET})")
    print(f"  window + tests per value                           {(counts + judged) / rows / 30 * 1e9:8.1f} ns")
    print(
        f"  largest memory                                     {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10:8d} MB"
    )
    return 0 if (counts + judged) / scipy_s <= BUDGET else 1


def table(rng: np.random.Generator, rows: int, shift: float) -> pl.DataFrame:
    numbers = {f"n{i}": rng.lognormal(shift * (i % 3), 0.5, rows) for i in range(NUMBERS)}
    names = np.array([f"kind-{k}" for k in range(KINDS)], dtype=object)
    categories = {f"c{i}": pl.Series(names[rng.integers(0, KINDS, rows)], dtype=pl.String) for i in range(CATEGORIES)}
    return pl.DataFrame({**numbers, **categories})


def scipy_tests(before: pl.DataFrame, after: pl.DataFrame) -> list[float]:
    """Return the p-value of each column as one would write it with SciPy."""
    found = []
    for name in before.columns:
        if name.startswith("n"):
            found.append(float(ks_2samp(before[name].to_numpy(), after[name].to_numpy()).pvalue))
            continue
        names = sorted(set(before[name].unique()) | set(after[name].unique()))
        both = [dict(frame[name].value_counts().iter_rows()) for frame in (before, after)]
        found.append(float(chi2_contingency([[c.get(n, 0) for n in names] for c in both]).pvalue))
    return found


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    began = time.perf_counter()
    result = work()
    return result, time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000))
