"""Dataset versions: the same content is the same version, a broken contract stores nothing, a version never changes."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest

from data.tables import TableSource, WindowSource
from mainspring.core.clock import FixedClock
from mainspring.core.errors import Invalid, NotFound, Refused, Unavailable
from mainspring.core.settings import load_settings
from mainspring.core.windows import Day, Window
from mainspring.data import checks as check
from mainspring.data.datasets import (
    ContractBroken,
    Dataset,
    backfill,
    get_profile,
    get_version,
    history,
    ingest,
    latest,
    list_datasets,
    read,
    scan,
    table_path,
)
from mainspring.data.diff import diff
from mainspring.data.quarantine import read_quarantine
from mainspring.data.retention import apply_retention
from mainspring.store.events import read_events, verify_chain
from mainspring.store.workspace import Workspace, open_workspace

START = datetime(2025, 12, 29, tzinfo=UTC)  # three whole days before the clock of the tests


def people(**changes: Any) -> pl.DataFrame:
    columns = {"id": [1, 2, 3], "email": ["a@x.org", "b@x.org", None], "spent": [1.5, 2.5, None]}
    return pl.DataFrame(columns | changes)


def by_day(count: int = 4) -> WindowSource:
    def rows(window: Window) -> pl.DataFrame:
        at = [window.start + timedelta(hours=6 * hour) for hour in range(count)]
        return pl.DataFrame(
            {"id": [f"{window}/{i}" for i in range(count)], "at": at, "x": [float(window.start.day)] * count}
        )

    return WindowSource(rows)


def daily(source: Any, **options: Any) -> Dataset:
    return Dataset("payments", source, key=("id",), time="at", window_kind=Day, start=START, **options)


def events(ws: Workspace) -> list[tuple[str, str]]:
    with ws.read() as connection:
        assert verify_chain(connection, "p") == []
        return [(event.type, event.subject) for event in read_events(connection, "p")]


def test_a_source_becomes_a_version_that_can_be_read(workspace: Workspace) -> None:
    result = ingest(workspace, "p", Dataset("people", TableSource(people()), key=("id",)))
    assert result.new
    assert (result.version.ref, result.version.rows, result.version.previous) == ("dataset:people@1", 3, None)
    assert read(workspace, "p", "people").equals(people())
    assert read(workspace, "p", "people", columns=["spent", "id"]).columns == ["spent", "id"]
    assert scan(workspace, "p", "people").filter(pl.col("id") > 1).collect()["id"].to_list() == [2, 3]
    assert latest(workspace, "p", "people") == result.version
    assert get_profile(workspace, "p", "people").columns["spent"].mean == 2.0  # type: ignore[union-attr]
    assert events(workspace) == [("dataset.ingested", "dataset:people@1")]


def _workspace_in(folder: Path) -> Workspace:
    folder.mkdir()
    return open_workspace(load_settings(folder, environment={}), clock=FixedClock(START + timedelta(days=3)))


@pytest.mark.parametrize("folder", ["my projects", "josé", "日本", "100%", "a#b", "{a}", "it's"])
def test_a_project_may_live_in_a_folder_of_any_name(tmp_path: Path, folder: str) -> None:
    ws = _workspace_in(tmp_path / folder)
    with closing(ws.database):
        ingest(ws, "p", Dataset("people", TableSource(people())))
        ingest(ws, "p", daily(by_day()))
        assert read(ws, "p", "people").equals(people())
        assert scan(ws, "p", "people").collect().equals(people())
        assert read(ws, "p", "payments").height == 12


def test_a_table_that_is_gone_is_missed_and_not_begun_again(workspace: Workspace) -> None:
    ingest(workspace, "p", Dataset("people", TableSource(people())))
    shutil.rmtree(table_path(workspace, "p", "people"))
    with pytest.raises(Unavailable, match="people is gone, and version 1 was recorded"):
        ingest(workspace, "p", Dataset("people", TableSource(people(spent=[0.0, 0.0, 0.0]))))
    with pytest.raises(Unavailable, match="people cannot be read"):
        read(workspace, "p", "people")


def test_a_damaged_log_of_a_table_is_said_in_one_line(workspace: Workspace) -> None:
    ingest(workspace, "p", Dataset("people", TableSource(people())))
    for entry in (table_path(workspace, "p", "people") / "_delta_log").glob("*.json"):
        entry.write_text("damaged")
    with pytest.raises(Unavailable, match="people cannot be read") as refused:
        ingest(workspace, "p", Dataset("people", TableSource(people(spent=[0.0, 0.0, 0.0]))))
    assert "\n" not in refused.value.message


@pytest.mark.parametrize("folder", ["a[1]", "a%20b", "a|b"])
def test_a_folder_that_tables_cannot_be_kept_in_is_refused(tmp_path: Path, folder: str) -> None:
    ws = _workspace_in(tmp_path / folder)
    with closing(ws.database), pytest.raises(Invalid, match="tables cannot be kept in"):
        ingest(ws, "p", Dataset("people", TableSource(people())))


def test_an_unchanged_source_is_neither_read_nor_stored_again(workspace: Workspace) -> None:
    source = TableSource(people(), "state 1")
    spec = Dataset("people", source)
    first = ingest(workspace, "p", spec)
    again = ingest(workspace, "p", spec)
    assert (again.new, again.version, source.reads) == (False, first.version, 1)
    source.state = "state 2"  # touched: read, and found to be the same
    assert not ingest(workspace, "p", spec).new
    assert not ingest(workspace, "p", spec).new
    assert source.reads == 2
    assert not ingest(workspace, "p", spec, rerun=True).new
    assert source.reads == 3
    assert len(history(workspace, "p", "people")) == 1


def test_a_rule_added_later_is_held_against_an_unchanged_source(local_workspace: Workspace) -> None:
    spec = Dataset("people", TableSource(people(), "state 1"))
    ingest(local_workspace, "p", spec)
    with pytest.raises(ContractBroken, match="not_null"):
        ingest(local_workspace, "p", replace(spec, checks=(check.not_null("email"),)))


def test_staleness_is_noticed_although_the_source_has_not_changed(local_workspace: Workspace) -> None:
    frame = pl.DataFrame({"at": [local_workspace.clock.now()]})
    spec = Dataset("d", TableSource(frame, "state 1"), time="at", checks=(check.fresh("26h"),))
    ingest(local_workspace, "p", spec)
    with pytest.raises(ContractBroken, match="the newest at is 1d3h old"):
        ingest(local_workspace, "p", spec, now=local_workspace.clock.now() + timedelta(hours=27))


def test_a_version_does_not_change_when_its_source_does(workspace: Workspace) -> None:
    source = TableSource(people())
    spec = Dataset("people", source)
    first = ingest(workspace, "p", spec).version
    source.frame = people(spent=[9.0, 9.0, 9.0])
    second = ingest(workspace, "p", spec).version
    assert (second.version, second.previous) == (2, 1)
    assert read(workspace, "p", "people", 1).equals(people())
    assert read(workspace, "p", "people", 2)["spent"].to_list() == [9.0, 9.0, 9.0]
    assert history(workspace, "p", "people") == [second, first]
    assert first.digest != second.digest
    source.frame = people()
    assert ingest(workspace, "p", spec).version.digest == first.digest


def test_a_broken_contract_stores_nothing_and_names_rule_and_rows(workspace: Workspace) -> None:
    spec = Dataset("people", TableSource(people()), checks=(check.not_null("id"), check.between("spent", 0, 2)))
    with pytest.raises(ContractBroken, match=r"between\('spent', 0, 2\): 1 of 3 rows break it, first 1") as raised:
        ingest(workspace, "p", spec)
    assert 'on_bad="quarantine"' in raised.value.hint
    assert raised.value.report is not None
    assert raised.value.report.bad_rows.tolist() == [False, True, False]
    assert latest(workspace, "p", "people") is None
    assert events(workspace) == [("dataset.refused", "dataset:people")]
    assert not list(table_path(workspace, "p", "people").glob("**/*.parquet"))


def test_a_result_leaves_as_small_json(local_workspace: Workspace) -> None:
    frame = pl.DataFrame({"id": range(10_000)})
    result = ingest(local_workspace, "p", Dataset("d", TableSource(frame), checks=(check.unique("id"),)))
    text = msgspec.json.encode(result, enc_hook=str)
    assert len(text) < 1000
    assert msgspec.json.decode(text)["report"] == "ok   unique('id'): every row"


def test_bad_rows_are_set_aside_with_the_reason_when_so_declared(workspace: Workspace) -> None:
    rules = (check.not_null("email"), check.between("spent", 0, 2))
    spec = Dataset("people", TableSource(people()), checks=rules, on_bad="quarantine", pii={"email": "hash"})
    result = ingest(workspace, "p", spec)
    assert (result.quarantined, result.version.rows) == (2, 1)
    assert read(workspace, "p", "people")["id"].to_list() == [1]
    aside = read_quarantine(table_path(workspace, "p", "people"))
    assert aside["id"].to_list() == [2, 3]
    assert aside["broken_checks"].to_list() == ["between('spent', 0, 2)", "not_null('email')"]
    assert "b@x.org" not in str(aside.to_dicts())
    assert not ingest(workspace, "p", spec).new
    assert read_quarantine(table_path(workspace, "p", "people")).height == 2


def test_what_setting_rows_aside_cannot_mend_fails_in_any_case(local_workspace: Workspace) -> None:
    spec = Dataset("d", TableSource(people()), checks=(check.rows(10),), on_bad="quarantine")
    with pytest.raises(ContractBroken, match="3 rows, at least 10 wanted"):
        ingest(local_workspace, "p", spec)
    with pytest.raises(ContractBroken, match="3 of 3 rows"):
        ingest(local_workspace, "p", replace(spec, checks=(check.between("id", 10),)))
    with pytest.raises(ContractBroken, match="there are no rows"):
        ingest(local_workspace, "p", Dataset("e", TableSource(people().clear())))


def test_personal_data_never_reaches_the_disk(local_workspace: Workspace) -> None:
    frame = people(name=["Ann Oakenshield", "Bob Underhill", None])
    spec = Dataset("people", TableSource(frame), key=("id",), pii={"email": "hash", "name": "drop"})
    result = ingest(local_workspace, "p", spec)
    assert result.findings == ()
    assert read(local_workspace, "p", "people").columns == ["id", "email", "spent"]
    with pytest.raises(ContractBroken):
        ingest(local_workspace, "p", replace(spec, checks=(check.matches("email", "[ab]@y.org"),)))
    for file in local_workspace.home.rglob("*"):
        data = file.read_bytes() if file.is_file() else b""
        assert b"a@x.org" not in data, file
        assert b"Oakenshield" not in data, file


def test_undeclared_personal_data_is_reported_and_a_decision_to_keep_it_silences_that(
    local_workspace: Workspace,
) -> None:
    spec = Dataset("people", TableSource(people()))
    result = ingest(local_workspace, "p", spec)
    assert [finding.column for finding in result.findings] == ["email"]
    assert ingest(local_workspace, "p", replace(spec, pii={"email": "keep"})).findings == ()


def test_a_new_column_passes_and_a_lost_or_retyped_one_does_not(workspace: Workspace) -> None:
    source = TableSource(people())
    spec = Dataset("people", source)
    ingest(workspace, "p", spec)
    source.frame = people(extra=["x", "y", "z"])
    assert ingest(workspace, "p", spec).version.schema.names == ("id", "email", "spent", "extra")
    source.frame = people(extra=[None] * 3, id=[1, 2, 4], spent=[1, 2, 3])  # no value, whole numbers: nothing is lost
    kept = ingest(workspace, "p", spec).version.schema
    assert (kept["extra"].dtype, kept["spent"].dtype) == ("string", "float64")
    source.frame = people().rename({"email": "e_mail"})
    with pytest.raises(Invalid, match=r'email is gone; the nearest name is "e_mail"; extra is gone'):
        ingest(workspace, "p", spec)
    source.frame = people(extra=[1.5, 2.5, 3.5])
    with pytest.raises(Invalid, match="extra was string and is float64"):
        ingest(workspace, "p", spec)
    assert latest(workspace, "p", "people").version == 3  # type: ignore[union-attr]


def test_a_column_found_to_be_personal_later_can_be_dropped(local_workspace: Workspace) -> None:
    spec = Dataset("people", TableSource(people()))
    ingest(local_workspace, "p", spec)
    after = ingest(local_workspace, "p", replace(spec, pii={"email": "drop", "id": "hash"})).version
    assert after.schema.names == ("id", "spent")
    assert after.schema["id"].dtype == "string"


def test_windows_are_read_once_each_and_in_order(workspace: Workspace) -> None:
    source = by_day()
    result = ingest(workspace, "p", daily(source))
    assert result.windows == ("2025-12-29", "2025-12-30", "2025-12-31")
    assert (result.version.version, result.version.rows, result.version.window) == (3, 12, "2025-12-31")
    assert not ingest(workspace, "p", daily(source)).new
    later = ingest(workspace, "p", daily(source), now=workspace.clock.now() + timedelta(days=1))
    assert later.windows == ("2026-01-01",)
    assert source.asked == ["2025-12-29", "2025-12-30", "2025-12-31", "2026-01-01"]
    frame = read(workspace, "p", "payments")
    assert frame["at"].is_sorted()
    assert read(workspace, "p", "payments", 2)["x"].unique(maintain_order=True).to_list() == [29.0, 30.0]


def test_a_window_read_again_replaces_its_rows(workspace: Workspace) -> None:
    ingest(workspace, "p", daily(by_day()))
    again = ingest(workspace, "p", daily(by_day(2)), windows=["2025-12-30"], rerun=True)
    assert (again.version.version, again.version.rows) == (4, 10)
    frame = read(workspace, "p", "payments")
    assert frame["x"].value_counts().sort("x").rows() == [(29.0, 4), (30.0, 2), (31.0, 4)]
    assert frame["at"].is_sorted()
    assert not ingest(workspace, "p", daily(by_day(2)), windows=["2025-12-30"], rerun=True).new
    assert read(workspace, "p", "payments", 3).height == 12


def test_the_digest_depends_on_what_the_windows_hold_and_not_on_the_order_of_reading(
    local_workspace: Workspace,
) -> None:
    first = ingest(local_workspace, "p", daily(by_day())).version
    spec = replace(daily(by_day()), name="other")
    for day in ("2025-12-31", "2025-12-29", "2025-12-30"):
        last = ingest(local_workspace, "p", spec, windows=[Day.parse(day)]).version
    assert last.digest == first.digest
    assert read(local_workspace, "p", "other").equals(read(local_workspace, "p", "payments"))


def test_a_window_without_rows_is_not_asked_for_again(workspace: Workspace) -> None:
    source = WindowSource(lambda w: pl.DataFrame() if w.start.day == 29 else by_day().function(w))
    ingest(workspace, "p", daily(source, pii={"id": "hash"}, checks=(check.not_null("id"),)))
    assert read(workspace, "p", "payments").height == 8
    ingest(workspace, "p", daily(source))
    assert source.asked == ["2025-12-29", "2025-12-30", "2025-12-31"]
    empty = WindowSource(lambda w: by_day().function(w) if w.start.day == 29 else pl.DataFrame())
    result = ingest(workspace, "p", replace(daily(empty), name="other"))
    assert (result.version.rows, result.version.schema.names) == (4, ("id", "at", "x"))


def test_a_column_that_starts_in_a_later_window_is_missing_before(workspace: Workspace) -> None:
    def rows(window: Window) -> pl.DataFrame:
        frame = by_day(1).function(window)
        return frame if window.start.day < 31 else frame.with_columns(new=pl.lit(7))

    version = ingest(workspace, "p", daily(WindowSource(rows))).version
    assert version.schema["new"].nullable
    assert read(workspace, "p", "payments")["new"].to_list() == [None, None, 7]
    assert read(workspace, "p", "payments", 2).columns == ["id", "at", "x"]


def test_a_window_that_fails_leaves_those_before_it(workspace: Workspace) -> None:
    spec = daily(by_day(), checks=(check.between("x", 0, 30),))
    with pytest.raises(ContractBroken, match=r"'payments' \(2025-12-31\) breaks its contract"):
        ingest(workspace, "p", spec)
    assert latest(workspace, "p", "payments").rows == 8  # type: ignore[union-attr]


def test_a_source_that_ignores_its_window_is_noticed(local_workspace: Workspace) -> None:
    everything = pl.concat(by_day().function(Day(START + timedelta(days=n))) for n in range(3))
    result = ingest(local_workspace, "p", daily(WindowSource(lambda _: everything)))
    assert {finding.code for finding in result.findings} == {"outside-window"}
    assert "8 of 12 rows read for 2025-12-29" in result.findings[0].message


def test_an_old_window_is_as_fresh_as_it_was_when_it_ended(local_workspace: Workspace) -> None:
    source = by_day()
    ingest(local_workspace, "p", daily(source, checks=(check.fresh("7h"),)))
    with pytest.raises(ContractBroken, match="6h old"):
        ingest(local_workspace, "p", replace(daily(source, checks=(check.fresh("5h"),)), name="other"))


def test_backfill_reads_a_span_again(workspace: Workspace) -> None:
    ingest(workspace, "p", daily(by_day()))
    source = by_day(1)
    result = backfill(workspace, "p", daily(source), START - timedelta(days=1), START + timedelta(days=2))
    assert source.asked == ["2025-12-28", "2025-12-29", "2025-12-30"]
    assert result.version.rows == 1 + 1 + 1 + 4
    with pytest.raises(Invalid, match="no whole day"):
        backfill(workspace, "p", daily(source), START, START + timedelta(hours=3))


def test_without_a_start_the_last_thirty_windows_are_read(local_workspace: Workspace) -> None:
    result = ingest(local_workspace, "p", replace(daily(by_day(1)), start=None))
    assert len(result.windows) == 30
    assert result.windows[-1] == "2025-12-31"


def test_a_difference_is_told_by_key(workspace: Workspace) -> None:
    source = TableSource(people())
    spec = Dataset("people", source, key=("id",))
    ingest(workspace, "p", spec)
    source.frame = pl.DataFrame(
        {"id": [1, 2, 4], "email": ["a@x.org", "c@x.org", None], "spent": [1.5, 2.5, None], "n": 1}
    )
    ingest(workspace, "p", spec)
    found = diff(workspace, "p", "people", 1)
    assert (found.added, found.removed, found.changed) == (1, 1, 1)
    assert found.schema.added == ("n",)
    assert found.examples == {"added": [{"id": 4}], "removed": [{"id": 3}], "changed": [{"id": 2}]}
    assert [column.name for column in found.columns] == ["id", "email", "spent"]
    whole = diff(workspace, "p", "people", 1, 2, key=())
    assert (whole.added, whole.removed, whole.changed) == (2, 2, None)
    assert found.to_json()["before"] == "dataset:people@1"


def test_two_years_of_bike_rentals_differ_by_rows_and_by_distribution(
    local_workspace: Workspace, data_dir: Path
) -> None:
    hours = pl.read_parquet(data_dir / "bike_sharing" / "hour.parquet")
    source = TableSource(hours.filter(pl.col("yr") == 0))
    spec = Dataset("hours", source, key=("instant",), time="ts")
    ingest(local_workspace, "p", spec)
    source.frame = hours
    result = ingest(local_workspace, "p", spec)
    assert read(local_workspace, "p", "hours").equals(hours.with_columns(pl.col("ts").dt.replace_time_zone("UTC")))
    found = diff(local_workspace, "p", "hours", 1, 2)
    assert (found.added, found.removed, found.changed) == (8734, 0, 0)
    moved = {column.name: column.psi for column in found.columns}
    assert moved["cnt"] > 0.02 > moved["hr"]  # type: ignore[operator]
    assert result.version.rows == 17_379


def test_retention_deletes_old_windows_and_leaves_a_tombstone(workspace: Workspace) -> None:
    source = by_day()
    spec = daily(source)
    ingest(workspace, "p", spec)
    kept = apply_retention(workspace, "p", replace(spec, retain=timedelta(days=2)))
    assert kept is not None
    assert kept.rows == 8
    assert read(workspace, "p", "payments")["x"].min() == 30.0
    with pytest.raises(NotFound, match="retention deleted rows of dataset:payments@3 on 2026-01-01"):
        read(workspace, "p", "payments", 3)
    assert len(history(workspace, "p", "payments")) == 4
    assert events(workspace)[-1] == ("dataset.expired", f"dataset:payments@{kept.version}")
    days = [path.name for path in table_path(workspace, "p", "payments").glob("*/*.parquet")]
    assert len(days) == 2
    assert apply_retention(workspace, "p", replace(spec, retain=timedelta(days=2))) is None
    ingest(workspace, "p", spec)
    assert source.asked == ["2025-12-29", "2025-12-30", "2025-12-31"]
    after = ingest(workspace, "p", spec, now=workspace.clock.now() + timedelta(days=1)).version
    assert after.rows == 12
    assert after.version > kept.version


def test_retention_deletes_old_rows_of_a_whole_source_for_good(workspace: Workspace) -> None:
    now = workspace.clock.now()
    frame = pl.DataFrame({"at": [now - timedelta(days=day) for day in (1, 5, 9)] + [None], "x": [1, 5, 9, 0]})
    spec = Dataset("d", TableSource(frame), time="at")
    ingest(workspace, "p", spec)
    spec = replace(spec, retain=timedelta(days=6))
    assert apply_retention(workspace, "p", spec).rows == 3  # type: ignore[union-attr]
    assert not ingest(workspace, "p", spec).new  # the source still holds the old row; it does not come back
    assert read(workspace, "p", "d")["x"].to_list() == [1, 5, 0]
    with pytest.raises(NotFound):
        read(workspace, "p", "d", 1)


def test_quarantined_rows_are_not_kept_longer_than_good_ones(local_workspace: Workspace) -> None:
    spec = daily(by_day(), checks=(check.between("x", 0, 30),), on_bad="quarantine", retain=timedelta(days=10))
    spec = replace(
        spec, source=WindowSource(lambda w: pl.concat([by_day().function(Day(START)), by_day().function(w)]))
    )
    ingest(local_workspace, "p", spec)
    path = table_path(local_workspace, "p", "payments")
    assert read_quarantine(path).height == 4
    apply_retention(local_workspace, "p", spec, local_workspace.clock.now() + timedelta(days=9))
    assert read_quarantine(path).height == 4
    apply_retention(local_workspace, "p", spec, local_workspace.clock.now() + timedelta(days=11))
    assert read_quarantine(path).height == 0


def test_several_at_once_make_one_version(workspace: Workspace) -> None:
    specs = [daily(by_day()) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda spec: ingest(workspace, "p", spec), specs))
    assert [result.new for result in results].count(True) == 1
    assert {result.version.digest for result in results} == {results[0].version.digest}
    assert len(history(workspace, "p", "payments")) == 3
    assert len(events(workspace)) == 3


def test_projects_do_not_see_one_another(workspace: Workspace) -> None:
    ingest(workspace, "p", Dataset("people", TableSource(people())))
    ingest(workspace, "q", Dataset("people", TableSource(people(id=[7, 8, 9]))))
    assert read(workspace, "p", "people")["id"].to_list() == [1, 2, 3]
    assert [found.project for found in list_datasets(workspace, "q")] == ["q"]
    with pytest.raises(NotFound, match='nearest name is "people"'):
        read(workspace, "p", "peple")
    with pytest.raises(NotFound, match="no version 7; the newest is 1"):
        get_version(workspace, "p", "people", 7)
    with pytest.raises(NotFound, match='nearest name is "spent"'):
        read(workspace, "p", "people", columns=["spend"])


def test_a_table_changed_behind_our_back_is_refused(local_workspace: Workspace) -> None:
    ingest(local_workspace, "p", Dataset("people", TableSource(people())))
    file = next(table_path(local_workspace, "p", "people").glob("*.parquet"))
    data = file.read_bytes()
    for changed in (data[:-1], data[:-40] + b"x" * 40, b""):
        file.write_bytes(changed)
        with pytest.raises(Refused, match="changed on disk"):
            read(local_workspace, "p", "people")
    file.unlink()
    with pytest.raises(Unavailable, match="is gone"):
        read(local_workspace, "p", "people")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "a/b"}, "not a name for a dataset"),
        ({"key": ("idd",)}, r"key='idd'.*nearest name is \"id\""),
        ({"time": "at"}, "time='at', which its source does not have"),
        ({"time": "email"}, "time column 'email' of dataset 'people' holds String"),
        ({"pii": {"emial": "drop"}}, "pii='emial'"),
        ({"pii": {"email": "burn"}}, "no treatment"),
        ({"pii": {"id": "drop"}, "key": ("id",)}, "drops 'id', which is its key or time"),
        ({"retain": timedelta(days=1)}, "has no time"),
        ({"retain": timedelta(days=1), "time": "id"}, "retains rows by 'id'"),
    ],
)
def test_a_declaration_that_does_not_fit_the_data_says_where(
    local_workspace: Workspace, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(Invalid, match=message):
        ingest(local_workspace, "p", replace(Dataset("people", TableSource(people())), **change))


def test_a_dataset_is_read_by_window_always_or_never(local_workspace: Workspace) -> None:
    ingest(local_workspace, "p", Dataset("payments", TableSource(people())))
    with pytest.raises(Invalid, match="was read as a whole and is now declared by day"):
        ingest(local_workspace, "p", daily(by_day()))
    with pytest.raises(Invalid, match="not read by window"):
        ingest(local_workspace, "p", Dataset("payments", TableSource(people())), windows=["2025-12-30"])
    with pytest.raises(Invalid, match="window 2026-01-01 is not over"):
        ingest(local_workspace, "p", replace(daily(by_day()), name="other"), windows=["2026-01-01"])
    with pytest.raises(Invalid, match="'2025-W52' does not name a day"):
        ingest(local_workspace, "p", replace(daily(by_day()), name="other"), windows=["2025-W52"])
    with pytest.raises(Invalid, match="no day of dataset 'other' is over"):
        ingest(local_workspace, "p", replace(daily(by_day()), name="other", start="2027-01-01"))


@pytest.mark.parametrize(("names", "message"), [(["A", "a"], "differ only in case"), (["_mainspring_row"], "reserved")])
def test_a_column_name_that_a_table_cannot_hold_is_refused(
    local_workspace: Workspace, names: list[str], message: str
) -> None:
    with pytest.raises(Invalid, match=message):
        ingest(local_workspace, "p", Dataset("d", TableSource(pl.DataFrame({name: [1] for name in names}))))


def test_any_other_column_name_is_kept(local_workspace: Workspace) -> None:
    frame = pl.DataFrame(
        {name: [1.0, None] for name in ("Größe (m)", "a'b", 'a"b', "a.b", "x y", "select", "", "a`b", "{}")}
    )
    ingest(local_workspace, "p", Dataset("d", TableSource(frame)))
    assert read(local_workspace, "p", "d").equals(frame)
