"""One step, carried out: the cache asked, errors retried and kept, a deadline held."""

from __future__ import annotations

import json
import threading
import traceback
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mainspring.core.errors import Invalid, MainspringError, Unavailable
from mainspring.core.ref import canonical_json
from mainspring.orchestration import cache
from mainspring.orchestration.journal import Failure
from mainspring.orchestration.pipeline import Json, Output, Step, StepContext, Stopped, kill_point

MAX_OUTPUT_BYTES = 256_000
MAX_BACKOFF_S = 300.0
_MAX_TRACEBACK = 20_000
_HOUSE = str(Path(__file__).parent)


class _TimedOut(Unavailable):
    """The step is still at it; starting it a second time beside itself would help nobody."""


def carry_out(
    step: Step, context: StepContext, pipeline: str, retrying: Callable[[int, Failure], None]
) -> dict[str, Json]:
    """Run a step to its end and return the record to keep: `output` or `failure`, `attempts`, and what the cache said.

    Args:
        step: The step.
        context: Its context; `attempt` is set here.
        pipeline: The pipeline's name, a part of the cache key.
        retrying: Told of each failed attempt that will be tried again.

    Raises:
        Stopped: the run was cancelled or taken over while the step ran.
    """
    kill_point(step.name, "before")
    record: dict[str, Json] = {"attempts": 0}
    try:
        parts = step.cache(context) if step.cache else None
        found = cache.look_up(context.ws, context.project, pipeline, step.name, parts) if parts is not None else None
        if found is not None:
            record |= {"cache_key": found.key, "cache_reason": found.reason}
            if found.output is not None:
                return {**record, "output": found.output}
        output = _with_retries(step, context, record, retrying)
        if found is not None and parts is not None:
            cache.remember(context.ws, context.project, pipeline, step.name, found.key, parts=parts, output=output,
                           run_id=context.run_id)  # fmt: skip
    except (Exception, SystemExit) as error:  # a user's step may raise anything; the run keeps it as text and fails
        return {**record, "failure": asdict(failure_of(step.name, error))}
    # The nastiest moment: every effect is done and nothing is recorded.
    kill_point(step.name, "during")
    return {**record, "output": output}


def _with_retries(
    step: Step, context: StepContext, record: dict[str, Json], retrying: Callable[[int, Failure], None]
) -> Output:
    while True:
        record["attempts"] += 1
        try:
            return _checked(step, _call(step, replace(context, attempt=record["attempts"])))
        except Exception as error:
            if record["attempts"] > step.retries or not _may_pass(error):
                raise
            retrying(record["attempts"], failure_of(step.name, error))
        _wait(context, min(step.backoff_s * 2 ** (record["attempts"] - 1), MAX_BACKOFF_S))


def _call(step: Step, context: StepContext) -> Output | None:
    if step.timeout_s is None:
        return step.run(context)
    late = threading.Event()
    inside = replace(context, stop=lambda: "timed out" if late.is_set() else context.stop())
    result: list[Output | None] = []
    raised: list[BaseException] = []

    def work() -> None:
        try:
            result.append(step.run(inside))
        except BaseException as error:
            raised.append(error)

    # A daemon: work that never looks at its context must not keep the process alive.
    thread = threading.Thread(target=copy_context().run, args=(work,), name=f"step-{step.name}", daemon=True)
    thread.start()
    thread.join(step.timeout_s)
    if thread.is_alive():
        late.set()
        raise _TimedOut(
            f"step {step.name!r} took longer than {step.timeout_s:g} s",
            hint="give it a longer timeout_s, or call context.progress() where it may stop",
        )
    if raised:
        raise raised[0]
    return result[0]


def _checked(step: Step, output: Output | None) -> Output:
    """Return the output if it is a small JSON object; it is copied into the database with every step."""
    output = {} if output is None else output
    hint = "return names, digests and figures; put tables and models into the workspace and return their references"
    if not isinstance(output, dict):
        raise Invalid(f"step {step.name!r} returned {type(output).__name__}, not a dict", hint=hint)
    try:
        text = canonical_json(output)
    except (TypeError, ValueError) as error:
        raise Invalid(f"step {step.name!r} returned what JSON cannot hold: {error}", hint=hint) from error
    if len(text) > MAX_OUTPUT_BYTES:
        raise Invalid(f"step {step.name!r} returned {len(text)} bytes, more than {MAX_OUTPUT_BYTES}", hint=hint)
    # As it will be read back: the steps after this one see the same whether or not the run was interrupted.
    read_back: Output = json.loads(text)
    return read_back


def _may_pass(error: Exception) -> bool:
    """Whether trying again could help: not where the input is wrong or the answer was no."""
    if isinstance(error, MainspringError):
        return isinstance(error, Unavailable) and not isinstance(error, _TimedOut)
    return not isinstance(error, SyntaxError)


def _wait(context: StepContext, seconds: float) -> None:
    """Wait on the workspace's clock, in slices, so that a cancelled run does not sleep on."""
    ends = context.ws.clock.monotonic() + seconds
    while (left := ends - context.ws.clock.monotonic()) > 0:
        if reason := context.stop():
            raise Stopped(reason)
        context.ws.clock.sleep(min(left, 0.5))


def failure_of(step: str, error: BaseException) -> Failure:
    """Return an exception as text: its own frames without the engine's, and the innermost place in them."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(_HOUSE)]
    lines = ["Traceback (most recent call last):\n", *traceback.format_list(frames)]
    text = "".join([*lines, *traceback.format_exception_only(type(error), error)])
    place: dict[str, Any] = {"file": frames[-1].filename, "line": frames[-1].lineno or 0} if frames else {}
    code, hint = "failed", ""
    if isinstance(error, MainspringError):
        code, hint = error.code, error.hint
        place = {"file": error.where.file, "line": error.where.line} if error.where else {}
    message = error.message if isinstance(error, MainspringError) else str(error)
    return Failure(step, code, type(error).__name__, message[:2000], hint, **place, traceback=text[-_MAX_TRACEBACK:])
