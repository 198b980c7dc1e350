"""The bundle: a model with all that answering takes, as files named by one digest."""

from __future__ import annotations

import json
import platform
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from mainspring.core.errors import Invalid, MainspringError, Refused
from mainspring.core.ref import canonical_json, digest
from mainspring.core.schema import Schema, Signature
from mainspring.data.frames import to_columns
from mainspring.packaging import lightgbm, onnx, parity, pickle, skops
from mainspring.packaging.graph import Array, Untranslatable
from mainspring.packaging.mlmodel import render_mlmodel, render_requirements
from mainspring.packaging.parity import ParityReport
from mainspring.packaging.predictor import Answer, EstimatorPredictor, Predictor, answer_of
from mainspring.store.objects import Objects, write_durably

if TYPE_CHECKING:
    from mainspring.store.workspace import Workspace

MANIFEST = "manifest.json"
VERSION = 1
GOLDEN_ROWS = 32
MAX_FILES, MAX_MANIFEST = 100, 16 << 20
MODEL_FILES = {"onnx": onnx.FILE, "lightgbm": lightgbm.FILE, "skops": skops.FILE, "pickle": pickle.FILE}


@dataclass(frozen=True, slots=True)
class Packed:
    """A bundle that was made and proven.

    Args:
        digest: Of the manifest, which names every file by its digest; the bundle's one name.
        format: `onnx`, `lightgbm`, `skops` or `pickle`.
        parity: How its scores agree with those of the trained model.
        notes: Why a format before it was not taken, one sentence each.
    """

    digest: str
    format: str
    parity: ParityReport
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that was verified and loaded from a folder."""

    path: Path
    digest: str
    manifest: dict[str, Any]
    signature: Signature
    model_inputs: Schema
    features_json: list[dict[str, Any]]
    predictor: Predictor


def pack(
    ws: Workspace,
    *,
    estimator: Any,
    signature: Signature,
    model_inputs: Schema,
    features_json: Sequence[dict[str, Any]] = (),
    sample: pl.DataFrame,
    test: pl.DataFrame,
    environment_lock: str,
    data: Mapping[str, str],
    code: str,
    params: Mapping[str, Any],
    seed: int,
    name: str = "model",
    trust_pickle: bool = False,
) -> Packed:
    """Store a fitted model as a bundle in the first format that gives its scores exactly.

    ONNX comes first, then LightGBM's own text, then skops; a pickle only where it is trusted. Each is written, read
    back, and held against the trained model on test rows and on edge rows. The same inputs give the same bytes.

    Args:
        estimator: Fitted on frames as `data.frames.to_pandas` gives them.
        signature: What a request carries and what an answer is.
        model_inputs: The columns the estimator takes: request columns and features.
        features_json: The request features, as `features.views` writes them.
        sample: Training rows with the model's inputs: where edge rows start from.
        test: Rows the model never saw, with the model's inputs.
        environment_lock: The installed packages, one `name==version` a line.
        data: Digest of each dataset version it was trained on.
        code: Digest of the model function.
        trust_pickle: Whether a pickle may be made; the workspace's settings must allow it too.

    Raises:
        Refused: no allowed format holds the model exactly; the hint says what would.
        Invalid: the estimator cannot score the test rows, or its classes are not the signature's.
    """
    answer = answer_of(estimator, signature)
    reference = EstimatorPredictor(estimator, model_inputs, answer)
    tested = to_columns(test, model_inputs)
    ordinary = parity.ordinary_rows(reference.predict, tested, test.height)
    edges = parity.edge_rows(reference.predict, to_columns(sample, model_inputs), sample.height, model_inputs)
    trusted = trust_pickle and ws.settings.trust_pickle
    notes: list[str] = []
    for format, write in _writers(estimator, model_inputs, trusted).items():
        try:
            content = write()
            predictor = _read(format, content, model_inputs, answer, trust_pickle=trusted)
        except (Untranslatable, MainspringError) as error:
            notes.append(f"{format}: {getattr(error, 'message', error)}")
            continue
        report = parity.compare(predictor, ordinary, edges)
        if not report.agrees:
            notes.append(f"{format}: {report.note}")
            continue
        files = {
            MODEL_FILES[format]: content,
            "signature.json": canonical_json(signature.to_json()),
            "features.json": canonical_json(list(features_json)),
            "golden.json": canonical_json(_golden(predictor, tested, test.height, model_inputs)),
            "environment.lock": environment_lock.encode(),
            "requirements.txt": render_requirements(environment_lock, format).encode(),
            "MLmodel": render_mlmodel(signature, name=name, format=format, python=platform.python_version()).encode(),
        }
        manifest = {
            "version": VERSION, "name": name, "format": format, "task": signature.task, "answer": list(answer.order),
            "model_inputs": model_inputs.to_json(), "pickle": format == "pickle", "data": dict(data), "code": code,
            "params": _plain(params), "seed": seed,
            "parity": {"rows": report.rows, "edge_rows": report.edge_rows, "tolerance": report.tolerance},
            "files": {path: {"digest": ws.objects.put(body), "size": len(body)} for path, body in files.items()},
        }  # fmt: skip
        return Packed(ws.objects.put(canonical_json(manifest)), format, report, tuple(notes))
    raise Refused(
        f"no safe format holds this {type(estimator).__name__} exactly; {'; '.join(notes)}",
        hint="build it from scikit-learn and LightGBM parts and move functions of your own into features, or allow a "
        "pickle: @project.model(..., trust_pickle=True), and trust_pickle = true for the target in mainspring.toml",
    )


def _writers(estimator: Any, inputs: Schema, trust_pickle: bool) -> dict[str, Callable[[], bytes]]:
    writers: dict[str, Callable[[], bytes]] = {"onnx": lambda: onnx.write_onnx(estimator, inputs)}
    if lightgbm.is_lightgbm(estimator):
        writers["lightgbm"] = lambda: lightgbm.text_of(estimator).encode()
    writers["skops"] = lambda: skops.write_skops(estimator)
    if trust_pickle:
        writers["pickle"] = lambda: pickle.write_pickle(estimator)
    return writers


def _read(format: str, content: bytes, inputs: Schema, answer: Answer, *, trust_pickle: bool) -> Predictor:
    if format == "onnx":
        return onnx.load_onnx(content, onnx.layout_of(inputs), answer)
    if format == "lightgbm":
        return lightgbm.load_lightgbm(content, inputs.names, answer)
    if format == "skops":
        return EstimatorPredictor(skops.load_skops(content), inputs, answer)
    if format == "pickle":
        return EstimatorPredictor(pickle.load_pickle(content, trusted=trust_pickle), inputs, answer, format="pickle")
    raise Refused(f"the bundle has the format {format!r}, which this version does not know")


def _golden(predictor: Predictor, tested: Mapping[str, Array], n: int, inputs: Schema) -> dict[str, Any]:
    """Return rows with the scores they got when the bundle was made, for whoever loads it."""
    chosen = parity.spread(n, GOLDEN_ROWS)
    rows = {name: [_cell(value) for value in values] for name, values in parity.take(tested, chosen).items()}
    judged = parity.judged(predictor.predict, _golden_columns(rows, inputs), len(chosen))
    kept = np.flatnonzero(~judged.refused)
    # Twelve digits: more would tie the digest to the last bit of one machine's arithmetic.
    scores = [[float(f"{value:.12g}") for value in np.atleast_1d(judged.scores[row])] for row in kept]
    return {"inputs": {name: [values[row] for row in kept] for name, values in rows.items()}, "scores": scores}


def _cell(value: Any) -> Any:
    if isinstance(value, np.datetime64):
        return None if np.isnat(value) else str(value)
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _golden_columns(rows: Mapping[str, list[Any]], inputs: Schema) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    for column in inputs:
        values = np.empty(len(rows[column.name]), object)
        values[:] = rows[column.name]
        dated = column.dtype in ("date", "datetime")
        arrays[column.name] = values.astype("datetime64[us]") if dated else values
    return to_columns(arrays, inputs)


def _plain(value: Any) -> Any:
    """Return the value as JSON, an object that is none by its type alone: its text may hold a memory address."""
    if isinstance(value, Mapping):
        return {str(key): _plain(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(child) for child in value]
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    return value if isinstance(value, str | int | float | bool | None) else type(value).__name__


def materialise(objects: Objects, bundle_digest: str, directory: Path) -> Path:
    """Write a bundle's files to `directory` and return it; each is verified before anything reads it.

    The folder appears whole or not at all; one that is already there is replaced only when it has no manifest.

    Raises:
        NotFound: the store does not hold the bundle.
        Refused: a file was changed; the message names it.
    """
    if (directory / MANIFEST).exists():
        return directory
    manifest_bytes = objects.get(bundle_digest)
    files = _files(_parsed(manifest_bytes))
    directory.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = Path(tempfile.mkdtemp(dir=directory.parent, prefix=".tmp-"))
    try:
        for path, entry in files.items():
            try:
                content = objects.get(entry["digest"])
            except Refused as error:
                raise Refused(f"the bundle's file {path} was changed: {error.message}", hint=error.hint) from error
            write_durably(temporary / path, content)
        write_durably(temporary / MANIFEST, manifest_bytes)
        if directory.exists():
            shutil.rmtree(directory)
        temporary.rename(directory)
    except OSError:
        if not (directory / MANIFEST).exists():  # else another process was quicker with the same files
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return directory


def load(directory: Path, *, trust_pickle: bool = False, bundle_digest: str = "") -> Bundle:
    """Return the bundle in a folder; every file is held against its digest before any is parsed.

    Args:
        directory: As `materialise` writes it. A folder whose name is a digest must hold the bundle of that digest.
        trust_pickle: Whether this installation lets a bundle run a pickle.
        bundle_digest: The digest that the bundle must have, where the caller knows it.

    Raises:
        Refused: a file was changed or is missing, or the format is not allowed here.
        Invalid: the folder holds no bundle.
    """
    path = directory / MANIFEST
    if not path.is_file() or path.stat().st_size > MAX_MANIFEST:
        raise Invalid(f"{directory} holds no bundle: it has no {MANIFEST}")
    manifest_bytes = path.read_bytes()
    found = digest(manifest_bytes)
    expected = bundle_digest or (f"sha256:{directory.name}" if re.fullmatch("[0-9a-f]{64}", directory.name) else found)
    if found != expected:
        raise Refused(f"{MANIFEST} was changed: its digest is {found}, and the bundle is {expected}")
    manifest = _parsed(manifest_bytes)
    contents = {path: _verified(directory, path, entry) for path, entry in _files(manifest).items()}
    inputs = Schema.from_json(manifest["model_inputs"])
    format = manifest["format"]
    if (format == "pickle") != bool(manifest["pickle"]) or MODEL_FILES.get(format) not in contents:
        raise Refused(f"the manifest contradicts itself about the format {format!r}")
    answer = Answer(tuple(manifest["answer"]))
    predictor = _read(format, contents[MODEL_FILES[format]], inputs, answer, trust_pickle=trust_pickle)
    signature = Signature.from_json(json.loads(contents["signature.json"]))
    return Bundle(directory, found, manifest, signature, inputs, json.loads(contents["features.json"]), predictor)


def _parsed(manifest: bytes) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(manifest)
    except ValueError as error:
        raise Refused(f"{MANIFEST} is not JSON") from error
    if not isinstance(found, dict) or found.get("version") != VERSION:
        raise Refused(f"{MANIFEST} is not one of this version", hint="pack the model again: mainspring run")
    return found


def _files(manifest: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the manifest's files, each path relative and plain."""
    files: dict[str, dict[str, Any]] = manifest["files"]
    for path in files:
        parts = PurePosixPath(path).parts
        if path.startswith("/") or "\\" in path or ":" in path or ".." in parts or path == MANIFEST or not parts:
            raise Refused(f"the manifest names the path {path!r}, which leaves the bundle")
    if len(files) > MAX_FILES:
        raise Refused(f"the manifest names {len(files)} files; a bundle has at most {MAX_FILES}")
    return files


def _verified(directory: Path, path: str, entry: Mapping[str, Any]) -> bytes:
    target = directory / path
    if any(part.is_symlink() for part in (target, *target.parents) if part.is_relative_to(directory)):
        raise Refused(f"the bundle's file {path} is a link")
    if not target.is_file() or target.stat().st_size != entry["size"]:
        raise Refused(f"the bundle's file {path} is missing or has another size", hint="fetch the bundle again")
    content = target.read_bytes()
    if digest(content) != entry["digest"]:
        raise Refused(f"the bundle's file {path} was changed", hint="fetch the bundle again; mainspring doctor --deep")
    return content


def verify_golden(bundle: Bundle) -> int:
    """Score the bundle's golden rows here and return how many there are.

    Raises:
        Refused: a score is not the one it was when the bundle was made.
    """
    golden = json.loads(_verified(bundle.path, "golden.json", bundle.manifest["files"]["golden.json"]))
    expected = np.array(golden["scores"], np.float64)
    n = len(expected)
    if not n:
        return 0
    scores = bundle.predictor.predict(_golden_columns(golden["inputs"], bundle.model_inputs), n).reshape(n, -1)
    difference = np.abs(scores - expected) / np.maximum(1.0, np.abs(expected))
    if not (difference <= parity.TOLERANCE).all():
        row = int(np.nanargmax(np.nan_to_num(difference, nan=np.inf).max(axis=1)))
        raise Refused(
            f"the model gives other scores here than when it was packed: golden row {row} differs by "
            f"{float(np.max(difference[row])):.3g}",
            hint="install the versions of requirements.txt in the bundle, or pack the model again",
        )
    return n
