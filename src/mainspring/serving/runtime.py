"""A model ready to answer: its bundle loaded, its request features, and the swap from one version to the next."""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt

from mainspring.core.clock import Clock
from mainspring.core.errors import MainspringError, NotFound, Refused
from mainspring.core.schema import Schema, Signature
from mainspring.monitoring.capture import (
    Answered,
    PredictionLog,
    encode_columns,
    log_directory,
    numbers_and_objects,
    prediction_ids,
)
from mainspring.serving.metrics import Meter, Metrics
from mainspring.serving.protocol import MAX_ROWS, Batch, RequestParser
from mainspring.serving.split import SplitFile, bundle_directory, list_splits, read_good, read_split, write_good

if TYPE_CHECKING:
    from mainspring.features.views import FeatureView
    from mainspring.packaging.predictor import Predictor
    from mainspring.store.objects import Objects

Array = npt.NDArray[Any]
_LOGGER = logging.getLogger("mainspring.serving")

# A model slower than this for one row answers on a thread, so that it does not hold up the others.
QUICK_S = 0.002
# So does a request larger than this, whose parsing alone would.
QUICK_BYTES = 64 << 10
RETRY_S = 10.0


class ModelFailed(MainspringError):
    """The model raised an error or gave no number; the request was right."""

    code = "internal"


@dataclass(slots=True)
class Scorer:
    """A loaded bundle: request columns in, scores out, with the shapes that `core.schema.Signature` states.

    Args:
        signature: What a request carries and what an answer is.
        predictor: The model; takes `model_inputs`.
        model_inputs: The columns the model reads: request columns and features.
        views: The request features, computed here by the code that computed them for training.
        facts: What the bundle says of itself: data, code, environment.
    """

    signature: Signature
    predictor: Predictor
    model_inputs: Schema
    views: tuple[FeatureView, ...]
    facts: dict[str, Any]

    @classmethod
    def load(cls, directory: Path, *, trust_pickle: bool = False, bundle_digest: str = "") -> Scorer:
        """Load a bundle from its folder and prove it on its golden rows.

        Raises:
            Refused: the bundle was tampered with, or does not give the scores it gave when it was made.
        """
        from mainspring.packaging.bundle import load, verify_golden

        bundle = load(directory, trust_pickle=trust_pickle, bundle_digest=bundle_digest)
        verify_golden(bundle)
        views: tuple[FeatureView, ...] = ()
        if bundle.features_json:
            from mainspring.features.views import view_from_json

            views = tuple(view_from_json(data) for data in bundle.features_json)
        facts = {key: bundle.manifest[key] for key in ("format", "data", "code", "seed")}
        return cls(bundle.signature, bundle.predictor, bundle.model_inputs, views, facts)

    def score(self, columns: Mapping[str, Array], n: int) -> Array:
        """Return the scores of n rows.

        Args:
            columns: The signature's inputs in their canonical dtypes, each of shape (n,).

        Raises:
            ModelFailed: the model raised, or gave something that is not a finite number for each row.
        """
        try:
            if self.views:
                from mainspring.data.frames import to_columns
                from mainspring.features.views import request_features

                columns = to_columns(request_features(self.views, columns, n), self.model_inputs)
            scores: Array = self.predictor.predict(columns, n)
        except Exception as error:
            # The text of the error may hold values of the request, so only its kind goes on.
            raise ModelFailed(f"the model raised {type(error).__name__}") from error
        shape = (n, len(self.signature.classes)) if self.signature.task == "multiclass" else (n,)
        if scores.shape != shape or not np.isfinite(scores).all():
            raise ModelFailed("the model did not give a finite score for each row")
        return scores

    def render(self, scores: Array) -> list[Any]:
        """Return one answer per row: label and probability for a classifier, a number otherwise.

        The probability of a binary answer is that of the positive class, of a multiclass answer that of its label.
        """
        classes = self.signature.classes
        if self.signature.task == "binary":
            negative, positive = classes
            return [{"label": positive if p >= 0.5 else negative, "probability": p} for p in scores.tolist()]
        if self.signature.task == "multiclass":
            best = scores.argmax(axis=1).tolist()
            return [{"label": classes[j], "probability": row[j]} for j, row in zip(best, scores.tolist(), strict=True)]
        numbers: list[Any] = scores.tolist()
        return numbers


@dataclass(slots=True)
class Request:
    """One prediction request on its way: `at` is its arrival in microseconds, `started` the same for durations."""

    id: str
    at: int
    started: float
    body: bytes
    content_type: str
    read: Callable[[RequestParser, bytes, str], Batch]
    render: Callable[[Endpoint, Batch, Array, list[str]], Any]


@dataclass(slots=True)
class Answer:
    """What goes to the client, and what goes to the log before it."""

    body: bytes
    record: Answered


class Endpoint:
    """One model version that answers requests; threads may share it."""

    def __init__(self, split: SplitFile, scorer: Scorer, log: PredictionLog, meter: Meter, *, max_rows: int) -> None:
        self.split = split
        self.scorer = scorer
        self.version = str(split.version)
        self.parser = RequestParser(scorer.signature, max_rows=max_rows)
        self.log = log
        self.meter = meter
        self._form = log.describe(split.version, scorer.signature)
        self._numbers, self._objects = numbers_and_objects(scorer.signature)
        self._usual_s = 0.0

    @property
    def is_quick(self) -> bool:
        """Whether requests are usually so quick that a thread would cost more than it saves."""
        return self._usual_s < QUICK_S

    def answer(self, request: Request) -> Answer:
        """Parse, score and render one request.

        Raises:
            BadRequest: the request does not fit the signature.
            ModelFailed: it does, and the model did not answer.
        """
        batch = request.read(self.parser, request.body, request.content_type)
        scores = self.scorer.score(batch.columns, batch.n)
        body = msgspec.json.encode(request.render(self, batch, scores, prediction_ids(request.id, batch.n)))
        took = time.perf_counter() - request.started
        self._usual_s += 0.1 * (took - self._usual_s)
        columns = encode_columns(batch.columns, self._numbers, self._objects)
        latency = int(took * 1_000_000)
        record = Answered(self._form, request.at, latency, request.id, batch.n, columns, batch.extras, scores.tobytes())
        return Answer(body, record)


class Endpoints:
    """The live versions of a project's models, kept in step with their split files.

    `refresh` loads and belongs to one thread at a time; the event loop reads `live`, which is replaced whole, so a
    request that started on the old version ends on it. Without the database, the object store or the control plane it
    works from its own copies; a version that does not load leaves the one before it in place.

    Args:
        objects: Where bundles come from that are not copied yet; None when only the copies may be used.
    """

    def __init__(
        self,
        home: Path,
        project: str,
        *,
        objects: Objects | None,
        clock: Clock,
        metrics: Metrics,
        trust_pickle: bool = False,
        max_rows: int = MAX_ROWS,
    ) -> None:
        self.home = home
        self.project = project
        self.live: dict[str, Endpoint] = {}
        self.failures: dict[str, MainspringError] = {}
        self._objects = objects
        self._clock = clock
        self._metrics = metrics
        self._trust_pickle = trust_pickle
        self._max_rows = max_rows
        self._logs: dict[str, PredictionLog] = {}
        self._marks: dict[str, tuple[int, int]] = {}
        self._retry_at = 0.0

    @property
    def is_ready(self) -> bool:
        """Whether there is a model, and each one answers."""
        return bool(self.live) and not self.failures.keys() - self.live.keys()

    @property
    def has_news(self) -> bool:
        """Whether `refresh` would do anything; cheap enough to ask several times a second."""
        if self.failures and self._clock.monotonic() >= self._retry_at:
            return True
        return list_splits(self.home, self.project) != self._marks

    def refresh(self) -> None:
        """Load what changed, and swap it in."""
        marks = list_splits(self.home, self.project)
        retry = self.failures.keys() if self._clock.monotonic() >= self._retry_at else ()
        for model in marks:
            if marks[model] != self._marks.get(model) or model in retry:
                self._update(model)
        self._marks = marks
        if self.failures:
            self._retry_at = self._clock.monotonic() + RETRY_S
        self._metrics.set_live({model: endpoint.version for model, endpoint in self.live.items()})

    def close(self) -> None:
        """Sync and close the prediction logs."""
        for log in self._logs.values():
            log.close()

    def _update(self, model: str) -> None:
        counts = self._metrics.model(model)
        try:
            split = read_split(self.home, self.project, model)
            if split is not None and not self._is_live(split):
                self._swap(split)
                write_good(self.home, split)
                counts.swaps["ok"] += 1
            self.failures = {name: error for name, error in self.failures.items() if name != model}
        except Exception as problem:
            # Whatever a bundle does when it loads, the server goes on with what it has.
            error = problem if isinstance(problem, MainspringError) else Refused(f"{type(problem).__name__}: {problem}")
            counts.swaps["failed"] += 1
            self.failures = {**self.failures, model: error}
            _LOGGER.error("model %s does not load: %s", model, error)
            good = None if model in self.live else read_good(self.home, self.project, model)
            if good is not None:
                with contextlib.suppress(Exception):
                    self._swap(good)

    def _is_live(self, split: SplitFile) -> bool:
        endpoint = self.live.get(split.model)
        return endpoint is not None and endpoint.split == split

    def _swap(self, split: SplitFile) -> None:
        scorer = self._load(split.bundle_digest)
        log = self._logs.get(split.model)
        if log is None:
            log = PredictionLog(log_directory(self.home, self.project, split.model), self._clock)
            self._logs[split.model] = log
            self._metrics.model(split.model).log = log
        meter = self._metrics.model(split.model).meter(str(split.version))
        self.live = {**self.live, split.model: Endpoint(split, scorer, log, meter, max_rows=self._max_rows)}

    def _load(self, digest: str) -> Scorer:
        from mainspring.packaging.bundle import MANIFEST, materialise

        path = bundle_directory(self.home, digest)
        is_copied = (path / MANIFEST).exists()
        if is_copied:
            try:
                return Scorer.load(path, trust_pickle=self._trust_pickle, bundle_digest=digest)
            except Refused as error:
                if self._objects is None or not self._objects.exists(digest):
                    raise
                _LOGGER.error("the copy of a bundle is fetched again: %s", error)
                shutil.rmtree(path)
        if self._objects is None:
            raise NotFound(f"the bundle {digest} is not here", hint="mainspring doctor")
        materialise(self._objects, digest, path)
        return Scorer.load(path, trust_pickle=self._trust_pickle, bundle_digest=digest)
