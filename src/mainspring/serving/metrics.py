"""Counters of the data plane, and their form for Prometheus.

The event loop alone counts, so the counters are plain numbers (a tenth of the cost of a locked one) that a collector
turns into series when they are read. Labels are model, version and code, all from this process and so bounded.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from mainspring.monitoring.capture import PredictionLog

BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
KEPT_VERSIONS = 3


class Meter:
    """The counters of one model version; only the event loop writes to them."""

    __slots__ = ("buckets", "codes", "rows", "seconds", "version")

    def __init__(self, version: str) -> None:
        self.version = version
        self.codes: dict[int, int] = {}
        self.rows = 0
        self.seconds = 0.0
        self.buckets = [0] * (len(BUCKETS) + 1)

    def count(self, code: int, seconds: float, rows: int = 0) -> None:
        """Count one request: its status, how long it took, and how many predictions it got."""
        self.codes[code] = self.codes.get(code, 0) + 1
        self.rows += rows
        self.seconds += seconds
        self.buckets[bisect_left(BUCKETS, seconds)] += 1


class ModelCounts:
    """The counters of one model that outlive its versions."""

    def __init__(self) -> None:
        self.meters: dict[str, Meter] = {}
        self.labels = 0
        self.swaps = {"ok": 0, "failed": 0}
        self.log: PredictionLog | None = None

    def meter(self, version: str) -> Meter:
        """Return the counters of a version; the oldest beyond the last few are forgotten, so series stay bounded."""
        meter = self.meters.pop(version, None) or Meter(version)
        self.meters[version] = meter
        for old in list(self.meters)[:-KEPT_VERSIONS]:
            del self.meters[old]
        return meter


class Metrics:
    """All counters of one server."""

    def __init__(self) -> None:
        self.models: dict[str, ModelCounts] = {}
        self.other = Meter("")
        self._live: dict[str, str] = {}
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def model(self, name: str) -> ModelCounts:
        """Return the counters of a model that is served."""
        return self.models.setdefault(name, ModelCounts())

    def set_live(self, versions: dict[str, str]) -> None:
        """Say which version of each model answers."""
        self._live = versions

    def render(self) -> bytes:
        """Return all series in Prometheus' text form."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Yield the series; called by the registry."""
        by_version = ("model", "version")
        requests = CounterMetricFamily("mainspring_requests", "Requests by status.", labels=(*by_version, "code"))
        rows = CounterMetricFamily("mainspring_predictions", "Predictions answered.", labels=by_version)
        seconds = HistogramMetricFamily("mainspring_request_seconds", "Time from request to answer.", labels=by_version)
        for name, meter in self._meters():
            for code, count in meter.codes.items():
                requests.add_metric((name, meter.version, str(code)), count)
            if name:
                rows.add_metric((name, meter.version), meter.rows)
                seconds.add_metric((name, meter.version), list(_cumulative(meter.buckets)), meter.seconds)
        yield from (requests, rows, seconds)
        live = GaugeMetricFamily("mainspring_model_live", "1 for the version that answers.", labels=by_version)
        for name, version in self._live.items():
            live.add_metric((name, version), 1)
        yield live
        yield from self._per_model()

    def _meters(self) -> Iterable[tuple[str, Meter]]:
        yield "", self.other
        for name, model in self.models.items():
            for meter in model.meters.values():
                yield name, meter

    def _per_model(self) -> Iterator[Metric]:
        swaps = CounterMetricFamily("mainspring_model_loads", "Versions loaded, by result.", labels=("model", "result"))
        labels = CounterMetricFamily("mainspring_labels", "Labels accepted.", labels=("model",))
        dropped = CounterMetricFamily("prediction_log_dropped", "Answers that are not in the log.", labels=("model",))
        unsynced = CounterMetricFamily("prediction_log_sync_failures", "Syncs the disk refused.", labels=("model",))
        for name, model in self.models.items():
            for result, count in model.swaps.items():
                swaps.add_metric((name, result), count)
            labels.add_metric((name,), model.labels)
            dropped.add_metric((name,), model.log.dropped if model.log else 0)
            unsynced.add_metric((name,), model.log.sync_failures if model.log else 0)
        yield from (swaps, labels, dropped, unsynced)


def _cumulative(counts: list[int]) -> Iterator[tuple[str, float]]:
    total = 0
    for bound, count in zip((*(str(bound) for bound in BUCKETS), "+Inf"), counts, strict=True):
        total += count
        yield bound, total
