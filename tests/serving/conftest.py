"""A data plane with small models made here, and a client for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from mainspring.core.clock import FixedClock
from mainspring.core.schema import Column, Schema, Signature
from mainspring.monitoring.capture import PredictionLog, log_directory
from mainspring.serving.http import DataPlane, Limits
from mainspring.serving.metrics import Metrics
from mainspring.serving.runtime import Endpoint, Endpoints, Scorer
from mainspring.serving.split import SplitFile

BINARY = Signature(
    inputs=Schema(
        (
            Column("amount", "float64", nullable=False, unit="EUR"),
            Column("city", "string", nullable=True, description="<b>where</b>"),
        )
    ),
    task="binary",
    classes=("no", "yes"),
    positive="yes",
    extras=Schema((Column("card", "string"),)),
)


@dataclass(frozen=True)
class FunctionPredictor:
    """A model that is a function of its columns."""

    function: Callable[[Mapping[str, np.ndarray], int], np.ndarray]
    format: str = "function"

    def predict(self, columns: Mapping[str, np.ndarray], n: int) -> np.ndarray:
        return self.function(columns, n)


def sigmoid(columns: Mapping[str, np.ndarray], n: int) -> np.ndarray:
    return 1 / (1 + np.exp(-columns["amount"]))


@dataclass
class Plane:
    """A data plane in this process."""

    app: DataPlane
    home: Path
    clock: FixedClock

    def add(self, model: str, signature: Signature = BINARY, function: Any = sigmoid, version: int = 1) -> None:
        endpoints = self.app.endpoints
        old = endpoints.live.get(model)
        log = old.log if old else PredictionLog(log_directory(self.home, "p", model), self.clock)
        scorer = Scorer(signature, FunctionPredictor(function), signature.inputs, (), {"code": "abc"})
        split = SplitFile("p", model, version, "sha256:" + "0" * 64, "2026-01-01T00:00:00Z", "ann", "bob")
        counts = self.app.metrics.model(model)
        counts.log = log
        endpoint = Endpoint(split, scorer, log, counts.meter(str(version)), max_rows=100)
        endpoints.live = {**endpoints.live, model: endpoint}
        self.app.metrics.set_live({name: endpoint.version for name, endpoint in endpoints.live.items()})
        self.app.reroute()

    def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def run() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)  # type: ignore[arg-type]
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8080") as client:
                return await client.request(method, path, **options)

        return asyncio.run(run())

    def close(self) -> None:
        for endpoint in self.app.endpoints.live.values():
            endpoint.log.close()


@pytest.fixture
def make_plane(tmp_path: Path, clock: FixedClock) -> Any:
    planes = []

    def make(limits: Limits | None = None, aliases: Mapping[str, str] = {}) -> Plane:
        metrics = Metrics()
        endpoints = Endpoints(tmp_path, "p", objects=None, clock=clock, metrics=metrics)
        plane = Plane(DataPlane(endpoints, metrics, clock, limits=limits or Limits(), aliases=aliases), tmp_path, clock)
        planes.append(plane)
        return plane

    yield make
    for plane in planes:
        plane.close()


@pytest.fixture
def plane(make_plane: Any) -> Plane:
    plane: Plane = make_plane()
    plane.add("churn")
    return plane
