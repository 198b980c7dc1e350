"""A model in production without a server or a training: its versions, its log and its late outcomes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

import mainspring as ms
from mainspring.core.clock import FixedClock
from mainspring.core.records import ModelVersion, Verdict
from mainspring.core.ref import canonical_json, digest_json
from mainspring.core.schema import Column, Schema, Signature
from mainspring.loop.release import promote
from mainspring.monitoring.capture import (
    Answered,
    Failed,
    PredictionLog,
    encode_columns,
    log_directory,
    numbers_and_objects,
)
from mainspring.monitoring.reference import build
from mainspring.project.definition import ProjectSpec
from mainspring.registry.models import record_verdicts, register
from mainspring.serving.split import bundle_directory
from mainspring.store.workspace import Workspace

DAY = timedelta(days=1)
START = datetime(2026, 1, 1, tzinfo=UTC)
SIGNATURE = Signature(
    Schema((Column("x", "float64"), Column("noise", "float64"), Column("kind", "string"))),
    "binary",
    (False, True),
    True,
    Schema((Column("tx_id", "string"),)),
)


@dataclass
class World:
    """What requests look like and how they turn out; a test changes it to make a drift."""

    shift: float = 0.0
    noise: float = 0.0
    slope: float = 2.0
    missing: float = 0.0


@dataclass
class Production:
    """One model `scorer` of a project `shop`, a day at a time; the clock stands at the end of the day.

    Args:
        watch: Options of `.watch()`.
        labelled: The share of outcomes that are ever reported; the reports take 36 hours.
    """

    ws: Workspace
    clock: FixedClock
    folder: Path
    watch: dict[str, Any] = field(default_factory=dict)
    per_day: int = 400
    labelled: float = 1.0
    world: World = field(default_factory=World)
    version: int = 0
    day: int = 0
    outcomes: list[pl.DataFrame] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(0)
        self._report()

    @property
    def spec(self) -> ProjectSpec:
        project = ms.Project("shop", owner="ann", oncall="#ops")
        sales = project.dataset(str(self.folder / "sales.parquet"), key="tx_id", time="at", name="sales")
        outcomes = project.labels(
            str(self.folder / "outcomes.parquet"), key="tx_id", time="reported_at", value="bad", matures="2d",
            name="outcomes",
        )  # fmt: skip
        declare = project.model(predicts=outcomes, uses=[sales[["x", "noise", "kind"]]], split=ms.by_time(test="3d"))

        @declare
        def scorer(X: Any, y: Any) -> Any:
            raise AssertionError("nothing is trained here")

        scorer.watch(**{"every": "1d", "heal": "retrain | rollback", "cooldown": "1d"} | self.watch)
        return project.spec()

    def rows(self, n: int) -> pl.DataFrame:
        random, world = self.random, self.world
        x = random.normal(world.shift, 1, n)
        return pl.DataFrame(
            {
                "x": pl.Series(x).set(pl.Series(random.random(n) < world.missing), None),
                "noise": random.normal(world.noise, 1, n),
                "kind": random.choice(["a", "b", "c"], n),
                "bad": random.random(n) < 1 / (1 + np.exp(-world.slope * x)),
            }
        )

    def release(self, *, slope: float = 2.0) -> ModelVersion:
        """Make a version that believes in `slope`, prove it on the world as it is, and promote it."""
        number = self.version + 1
        train, held_out = self.rows(8000), self.rows(3000)
        y, p = held_out["bad"].to_numpy(), scores(held_out, slope)
        times = np.datetime64("2025-12-01", "us") + np.arange(8000) * np.timedelta64(300, "s")
        importance = {"x": 0.95, "noise": 0.0, "kind": 0.05}
        reference = build(train.select("x", "noise", "kind"), p, SIGNATURE, time=times, importance=importance)
        loss = float(-np.log(np.where(y, p, 1 - p)).mean())
        digest = digest_json({"version": number})
        bundle = bundle_directory(self.ws.home, digest)
        bundle.mkdir(parents=True)
        for name, data in (("manifest", {}), ("features", []), ("signature", SIGNATURE.to_json())):
            (bundle / f"{name}.json").write_text(json.dumps(data))
        verdicts = (Verdict("parity", True, "the scores agree"),)
        made = register(
            self.ws, "shop", "scorer", bundle_digest=digest, run_id=f"run-{number}", report_digest="sha256:0",
            policy_digest="sha256:0", metrics={"log_loss": loss}, verdicts=verdicts, author="ann",
            lineage={"reference": self.ws.objects.put(canonical_json(reference))},
        )  # fmt: skip
        record_verdicts(self.ws, "shop", "scorer", number, verdicts)
        promote(self.ws, "shop", "scorer", number, reason="test")
        self.version, self.slope = number, slope
        return made

    def live_a_day(self, n: int | None = None, *, failed: int = 0) -> None:
        """Answer a day's requests, let `failed` more fail, and report the outcomes that are due."""
        n = self.per_day if n is None else n
        frame = self.rows(n)
        ids = [f"tx-{self.day}-{i}" for i in range(n)]
        begin = START + self.day * DAY
        log = PredictionLog(log_directory(self.ws.home, "shop", "scorer"), self.clock)
        form = log.describe(self.version, SIGNATURE)
        numbers, objects = numbers_and_objects(SIGNATURE)
        p = scores(frame, self.slope)
        x, noise = frame["x"].fill_null(np.nan).to_numpy(), frame["noise"].to_numpy()
        kind = np.array(frame["kind"].to_list(), object)
        for i in range(n + failed):
            at = int((begin + DAY * i / (n + failed)).timestamp() * 1e6)
            if i >= n:
                log.append(Failed(self.version, at, 900, f"f-{self.day}-{i}", 500))
                continue
            row = {"x": x[i : i + 1], "noise": noise[i : i + 1], "kind": kind[i : i + 1]}
            columns = encode_columns(row, numbers, objects)
            extras = {"tx_id": [ids[i]]}
            log.append(Answered(form, at, 1500, f"p-{self.day}-{i}", 1, columns, extras, p[i : i + 1].tobytes()))
        log.close()
        at = [begin + DAY * i / (n + failed) + 1.5 * DAY for i in range(n)]
        told = pl.DataFrame({"tx_id": ids, "reported_at": at, "bad": frame["bad"]}, schema=_OUTCOMES)
        self.outcomes.append(told.filter(pl.Series(self.random.random(n) < self.labelled, dtype=pl.Boolean)))
        self.day += 1
        self.clock.advance(START + self.day * DAY - self.clock.now())
        self._report()

    def _report(self) -> None:
        known = pl.concat([pl.DataFrame(schema=_OUTCOMES), *self.outcomes])
        known.filter(pl.col("reported_at") < self.clock.now()).write_parquet(self.folder / "outcomes.parquet")


_OUTCOMES: dict[str, Any] = {"tx_id": pl.String, "reported_at": pl.Datetime("us", "UTC"), "bad": pl.Boolean}


def scores(frame: pl.DataFrame, slope: float) -> np.ndarray[Any, Any]:
    return np.asarray(1 / (1 + np.exp(-slope * frame["x"].fill_null(0.0).to_numpy())))
