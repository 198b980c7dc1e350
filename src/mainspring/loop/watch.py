"""One look at a model in production: every window that is over, judged and recorded, and its alerts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from mainspring.core.errors import MainspringError
from mainspring.core.records import ModelVersion
from mainspring.core.units import Condition
from mainspring.loop.performance import LOOKBACK, Performance
from mainspring.monitoring.windows import JUDGED, MONITORS, Window, list_windows, store_windows
from mainspring.project.definition import LabelsDef, ModelDef, ProjectSpec, WatchDef
from mainspring.store.workspace import Workspace

if TYPE_CHECKING:
    import polars as pl

    from mainspring.core.schema import Signature
    from mainspring.monitoring.monitors import Drift
    from mainspring.monitoring.reference import Reference

MONDAY = datetime(1970, 1, 5, tzinfo=UTC)
MOST_WINDOWS = 500  # in one look; a longer gap is caught up with from its newest part
READ_AT_ONCE = timedelta(hours=1)
ALWAYS_GUARDED = Condition("error_rate", ">", 0.05)


@dataclass(frozen=True, slots=True)
class WatchReport:
    """What a look found.

    Args:
        alarms: What is wrong now, a sentence each.
        notes: What is worth knowing and no alarm.
        windows: What was judged in this look, oldest first.
        latest: The newest judged window of each monitor, for the version that is live.
        drift: What drifts and matters, most telling first.
        onset: Since when something has been wrong, by monitor.
        healthy: How many windows of the live version each monitor found well.
    """

    project: str
    model: str
    at: datetime
    version: int | None
    alarms: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    windows: tuple[Window, ...] = ()
    latest: dict[str, Window] = field(default_factory=dict)
    drift: tuple[Drift, ...] = ()
    onset: dict[str, datetime] = field(default_factory=dict)
    healthy: dict[str, int] = field(default_factory=dict)

    def alarms_of(self, monitor: str) -> tuple[str, ...]:
        """Return what one monitor says is wrong now."""
        window = self.latest.get(monitor)
        return window.says if window is not None and window.state == "alarm" else ()


def watch_once(ws: Workspace, spec: ProjectSpec, model_name: str | None, *, now: datetime | None = None) -> WatchReport:
    """Judge every window that has ended since the last look, record it, and raise or resolve the model's alerts.

    Drift and the endpoint are judged when a window is over, performance when its outcomes have matured. Looking again
    changes nothing; two looks at once wait for each other.
    """
    from mainspring.monitoring.alerts import deliver_alerts
    from mainspring.registry.models import live

    model, now = spec.model(model_name), now or ws.clock.now()
    current = live(ws, spec.name, model.name)
    if model.watch is None or current is None:
        why = "declares no .watch()" if model.watch is None else "has no live version"
        return WatchReport(
            spec.name, model.name, now, current.version if current else None, notes=(f"{model.name} {why}",)
        )
    with ws.name_lock(f"watch.{spec.name}.{model.name}"[:128]):
        look = _Look(ws, spec, model, model.watch, current, now)
        look.judge()
        report = look.report()
        look.tell(report)
    deliver_alerts(ws)
    return report


class _Look:
    """The state of one look: what is known of earlier windows, and what this look adds to it."""

    def __init__(
        self, ws: Workspace, spec: ProjectSpec, model: ModelDef, watch: WatchDef, current: ModelVersion, now: datetime
    ) -> None:
        self.ws, self.spec, self.model, self.watch, self.current, self.now = ws, spec, model, watch, current, now
        self.known = {
            m: list_windows(ws, spec.name, model.name, m, limit=MOST_WINDOWS if m != "drift" else 2 * LOOKBACK)
            for m in MONITORS
        }
        self.new: list[Window] = []
        self.notes: list[str] = []
        self._references: dict[int, tuple[Reference | None, Signature | None]] = {}
        self._read: tuple[datetime, datetime, pl.DataFrame] | None = None

    # --- judging ---------------------------------------------------------------------------------------------------

    def judge(self) -> None:
        for start in self._due():
            frame = self._predictions(start, start + self.watch.every)
            self._add(self._endpoint(start, frame))
            self._add(self._drift(start, frame))
        self._judge_performance()
        if self.new:
            store_windows(self.ws, self.spec.name, self.model.name, self.new)

    def _due(self) -> Iterator[datetime]:
        """Yield the start of each window that is over and not judged yet, oldest first."""
        from mainspring.registry.models import history

        every = self.watch.every
        if self.known["endpoint"]:
            start = self.known["endpoint"][-1].end
        else:
            start = min(move.at for move in history(self.ws, self.spec.name, self.model.name))
        start = MONDAY + (start - MONDAY) // every * every
        count = max(0, (self.now - start) // every)
        if count > MOST_WINDOWS:
            self.notes.append(f"{count - MOST_WINDOWS} windows before the last {MOST_WINDOWS} were passed over")
        for i in range(max(0, count - MOST_WINDOWS), count):
            yield start + i * every

    def _predictions(self, start: datetime, end: datetime) -> pl.DataFrame:
        """Return the log of a window; short windows are read together."""
        import polars as pl

        from mainspring.monitoring.capture import read_predictions

        if self._read is None or not (self._read[0] <= start and end <= self._read[1]):
            until = max(end, min(start + READ_AT_ONCE, self.now))
            frame = read_predictions(self.ws.home, self.spec.name, self.model.name, start, until)
            self._read = (start, until, frame)
        return self._read[2].filter((pl.col("at") >= start) & (pl.col("at") < end))

    def _window(self, monitor: str, start: datetime, rows: int, state: str, **result: Any) -> Window:
        return Window(monitor, start, start + self.watch.every, rows, state, result)

    def _endpoint(self, start: datetime, frame: pl.DataFrame) -> Window:
        from mainspring.monitoring.monitors import endpoint_figures

        figures = endpoint_figures(frame)
        guards = self.watch.guards
        if all(rule.metric != "error_rate" for rule in guards):
            guards = (*guards, ALWAYS_GUARDED)
        says = [f"{r.metric} is {figures[r.metric]:.4g} ({r})" for r in guards if r.holds(figures.get(r.metric))]
        state = "alarm" if says else "ok" if frame.height else "no-data"
        return self._window("endpoint", start, frame.height, state, figures=figures, says=says, version=_version(frame))

    def _drift(self, start: datetime, frame: pl.DataFrame) -> Window:
        import polars as pl

        from mainspring.monitoring.monitors import count_window, distances

        version = _version(frame)
        if version is None:
            return self._window("drift", start, 0, "no-data")
        rows = frame.filter((pl.col("version") == version) & (pl.col("status") == 200))
        reference, _ = self._reference(version)
        if reference is None:
            return self._window("drift", start, rows.height, "no-reference", version=version)
        counts = count_window(reference, rows)
        figures = distances(reference, counts, every=self.watch.every)
        state, facts = self._judge_drift(reference, start, version, counts, rows.height)
        return self._window(
            "drift", start, rows.height, state, version=version, counts=counts, figures=figures, **facts
        )

    def _judge_drift(
        self, reference: Reference, start: datetime, version: int, counts: dict[str, Any], rows: int
    ) -> tuple[str, dict[str, Any]]:
        from mainspring.monitoring.monitors import Drift, break_rule, find_drift, persistent

        watch = self.watch
        before = [
            w for w in self.known["drift"]
            if w.version == version and "counts" in w.result and w.start >= start - (LOOKBACK - 1) * watch.every
        ]  # fmt: skip
        if watch.drift is not None:
            if rows < watch.min_rows:
                return "too-few", {}
            broken = break_rule(reference, counts, watch.drift, every=watch.every)
            says = [sentence for _, _, sentence in broken]
            # The owner's own rule: it matters as it is written, so healing hears of it with its full weight.
            kind = watch.drift.metric if watch.drift.metric in ("missing", "unseen") else "shift"
            drifts = [Drift(name, kind, value, 1.0, 0.0, 1).to_json() for name, value, _ in broken]
            return "alarm" if says else "ok", {"says": says, "found": [name for name, _, _ in broken], "kept": drifts}
        counted = [w.result["counts"] for w in before] + [counts]
        if sum(w.rows for w in before) + rows < watch.min_rows:
            return "too-few", {}
        end = start + watch.every
        found = find_drift(reference, counted, end=end, every=watch.every, min_rows=watch.min_rows, level=self._level())
        kept = persistent(found, [w.result.get("found", ()) for w in before if w.state in JUDGED])
        paging = [d for d in kept if d.pages]
        facts = {
            "found": [d.name for d in found],
            "kept": [d.to_json() for d in kept],
            "says": [str(d) for d in paging or kept],
        }
        return "alarm" if paging else "info" if kept else "ok", facts

    def _level(self) -> float:
        from mainspring.monitoring.monitors import LEVEL

        return max(1e-6, min(LEVEL, self._false_alarms()))

    def _false_alarms(self) -> float:
        """Return the false alarms a window may have on average."""
        return self.watch.false_alarms * (self.watch.every / timedelta(days=1))

    def _judge_performance(self) -> None:
        from mainspring.loop.outcomes import read_truth

        matures = self.model.predicts.matures if isinstance(self.model.predicts, LabelsDef) else timedelta(0)
        done = {w.start for w in self.known["performance"]}
        waiting = [w for w in self.known["endpoint"] if w.version is not None and w.start not in done]
        due = [w for w in waiting if w.end + matures <= self.now]
        if not due:
            return
        truth = read_truth(self.ws, self.spec, self.model, self.now)
        self.notes += truth.notes
        judge = Performance(
            self.ws, self.spec, self.model, self.watch, self.now, truth, self._predictions, self._reference,
            self.known["performance"], self.notes,
        )  # fmt: skip
        for window in due:
            judged = judge.window(window)
            if judged is not None:
                self._add(judged)
        # Outcomes of an older window may have come after those of a newer one.
        self.known["performance"].sort(key=lambda window: window.start)

    def _reference(self, version: int) -> tuple[Reference | None, Signature | None]:
        """Return what a version knew when it was made, and what it takes and gives."""
        from mainspring.core.schema import Signature
        from mainspring.loop.release import bundle_path
        from mainspring.monitoring.reference import Reference
        from mainspring.registry.models import get_lineage, get_version

        if version not in self._references:
            try:
                found = get_version(self.ws, self.spec.name, self.model.name, version)
                lineage = get_lineage(self.ws, self.spec.name, self.model.name, version)
                path = bundle_path(self.ws, found.bundle_digest) / "signature.json"
                signature = Signature.from_json(json.loads(path.read_text(encoding="utf-8")))
                data = self.ws.objects.get(lineage["reference"]) if lineage.get("reference") else None
                self._references[version] = Reference.from_json(json.loads(data)) if data else None, signature
            except MainspringError as error:
                self.notes.append(f"version {version} cannot be judged: {error.message}")
                self._references[version] = None, None
        return self._references[version]

    def _add(self, window: Window) -> None:
        self.known[window.monitor].append(window)
        self.new.append(window)

    # --- telling ---------------------------------------------------------------------------------------------------

    def report(self) -> WatchReport:
        from mainspring.monitoring.monitors import Drift

        mine = {
            m: [w for w in self.known[m] if w.version == self.current.version and w.state in JUDGED] for m in MONITORS
        }
        latest = {m: windows[-1] for m, windows in mine.items() if windows}
        onset = {m: _onset(windows) for m, windows in mine.items() if windows and windows[-1].state == "alarm"}
        notes = list(self.notes)
        if (drift := latest.get("drift")) is not None:
            latest["drift"], why = self._weighed(drift, latest.get("performance"), onset.get("drift"))
            notes += [f"{text}; {why}" for text in latest["drift"].says if latest["drift"].state == "info"]
        for monitor in MONITORS:
            if self.known[monitor] and self.known[monitor][-1].state not in JUDGED:
                last = self.known[monitor][-1]
                notes.append(f"{monitor}: {last.state} in the window from {last.start:%Y-%m-%dT%H:%MZ}")
        wrong = [m for m in MONITORS if m in latest and latest[m].state == "alarm"]
        kept = [Drift(**d) for d in latest["drift"].result.get("kept", ())] if "drift" in wrong else []
        return WatchReport(
            project=self.spec.name,
            model=self.model.name,
            at=self.now,
            version=self.current.version,
            alarms=tuple(text for m in wrong for text in latest[m].says),
            notes=tuple(notes),
            windows=tuple(self.new),
            latest=latest,
            drift=tuple(d for d in kept if d.pages),
            onset={m: at for m, at in onset.items() if m in wrong},
            healthy={m: sum(w.state in ("ok", "info") for w in windows) for m, windows in mine.items()},
        )

    def _weighed(self, drift: Window, performance: Window | None, onset: datetime | None) -> tuple[Window, str]:
        """Return the drift's window as it is to be told, and why it is no alarm where it is none.

        Outcomes outweigh inputs: a drift since which the answers have proven good is news and no alarm. Nor is one
        that was there before the version: its gates were passed on rows that had it. A broken feed always is.
        """
        from mainspring.monitoring.monitors import Drift

        if drift.state != "alarm":
            return drift, "the model hardly uses it"
        kept = [Drift(**d) for d in drift.result.get("kept", ())]
        if any(d.is_broken and d.pages for d in kept):
            return drift, ""
        if performance is not None and performance.state == "ok" and onset is not None and performance.start >= onset:
            return replace(drift, state="info"), "the outcomes since then are good"
        before = [w for w in self.known["drift"] if w.version != drift.version and w.state in JUDGED]
        inherited = set(before[-1].result.get("found", ())) if before else set()
        if kept and all(d.name in inherited for d in kept if d.pages):
            return replace(drift, state="info"), "it was there when this version was proven"
        return drift, ""

    def tell(self, report: WatchReport) -> None:
        """Raise or resolve an alert per monitor; windows of another version than the live one say nothing of it."""
        from mainspring.monitoring.alerts import raise_alert, resolve_alert

        for monitor in MONITORS:
            key, window = f"{monitor}/{self.model.name}", report.latest.get(monitor)
            if window is None or window.state == "ok":
                why = "the window after it is fine" if window else f"version {self.current.version} is live"
                resolve_alert(self.ws, self.spec.name, key, reason=why)
                continue
            raise_alert(
                self.ws,
                self.spec.name,
                key,
                severity="info" if window.state == "info" else "critical" if monitor == "endpoint" else "warning",
                title=f"{self.model.name}@{window.version}: {window.says[0]}",
                body={
                    "all": list(window.says),
                    "window": f"{window.start.isoformat()} to {window.end.isoformat()}",
                    "owner": self.spec.owner,
                    "oncall": self.spec.oncall,
                    "next": f"mainspring models show {self.model.name}@{window.version}",
                },
                dedup_id=window.start.isoformat(),
            )


def _version(frame: pl.DataFrame) -> int | None:
    """Return the version that gave most answers; None when there are none."""
    import polars as pl

    answered = frame.filter(pl.col("status") == 200)["version"]
    return max(answered.mode().to_list()) if len(answered) else None


def _onset(windows: Sequence[Window]) -> datetime:
    """Return since when there have been signs of what the last window alarms of."""
    last = windows[-1]
    if (found := last.result.get("cusum_onset")) and last.result.get("cusum_over"):
        return datetime.fromisoformat(found)
    onset = last.start
    for window in reversed(windows):
        if window.state == "ok" and not (window.result.get("found") or window.result.get("broken")):
            break
        onset = window.start
    return onset
