"""Names, digests, clocks, ids, errors and schemas."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.core.clock import FileClock, FixedClock, clock_from_env, new_id, parse_instant
from mainspring.core.errors import Invalid, NotFound, Where
from mainspring.core.ref import Ref, canonical_json, check_name, digest_json, parse_ref
from mainspring.core.schema import Column, Schema, Signature

NAMES = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,20}", fullmatch=True)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(NAMES, NAMES, st.none() | NAMES)
def test_a_reference_survives_being_written_and_read(kind: str, name: str, version: str | None) -> None:
    ref = Ref(kind, name, version or "")
    assert parse_ref(str(ref)) == ref


@pytest.mark.parametrize(
    "name", ["", "../etc", "a/b", "a b", ".hidden", "a..b", "x" * 129, "naïve", "<img src=x>", "a\n", "-rf"]
)
def test_a_name_that_could_leave_its_place_is_refused(name: str) -> None:
    with pytest.raises(Invalid) as caught:
        check_name(name, "model")
    assert "letters, digits" in caught.value.hint


@given(JSON)
def test_equal_values_have_one_json_and_one_digest(value: object) -> None:
    assert canonical_json(value) == canonical_json(value)
    assert digest_json(value).startswith("sha256:")


def test_the_order_of_keys_does_not_change_a_digest() -> None:
    assert digest_json({"a": 1, "b": [2, 3]}) == digest_json({"b": [2, 3], "a": 1})
    assert digest_json({"a": 1}) != digest_json({"a": 2})


def test_ids_made_later_sort_later_and_none_is_made_twice() -> None:
    clock = FixedClock()
    made = []
    for _ in range(200):
        made.append(new_id(clock))
        clock.advance(timedelta(milliseconds=1))
    assert made == sorted(made)
    assert len({new_id(clock) for _ in range(1000)}) == 1000
    assert made[0][14] == "7"


def test_a_clock_in_a_file_is_shared_and_read_again_each_time(tmp_path: Path) -> None:
    file = tmp_path / "now"
    file.write_text("2026-03-01T00:00:00Z")
    clock = clock_from_env({"MAINSPRING_CLOCK": str(file)})
    assert isinstance(clock, FileClock)
    assert clock.now() == datetime(2026, 3, 1, tzinfo=UTC)
    file.write_text("2026-03-02T00:00:00Z")
    assert clock.now() == datetime(2026, 3, 2, tzinfo=UTC)


def test_a_clock_can_start_at_a_named_instant() -> None:
    clock = clock_from_env({"MAINSPRING_CLOCK": "2030-01-01"})
    assert abs(clock.now() - datetime(2030, 1, 1, tzinfo=UTC)) < timedelta(minutes=1)


def test_an_instant_without_a_zone_is_utc_and_a_wrong_one_is_refused() -> None:
    assert parse_instant("2026-01-01").tzinfo == UTC
    with pytest.raises(Invalid, match="soon"):
        parse_instant("soon")


def test_an_error_names_code_place_and_next_step_and_survives_a_pickle() -> None:
    error = NotFound("no dataset 'x'", hint="mainspring data list", where=Where("/tmp/project.py", 3))
    assert str(error) == "not-found: project.py:3: no dataset 'x'\nhint: mainspring data list"
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (NotFound, str(error))
    assert error.as_dict() == {
        "code": "not-found",
        "message": "no dataset 'x'",
        "hint": "mainspring data list",
        "where": "project.py:3",
    }


def test_a_schema_tells_what_was_added_removed_and_retyped() -> None:
    before = Schema((Column("a", "int64"), Column("b", "string"), Column("c", "bool")))
    after = Schema((Column("a", "float64"), Column("b", "string"), Column("d", "date")))
    changed = before.diff(after)
    assert (changed.added, changed.removed, changed.retyped) == (("d",), ("c",), (("a", "int64", "float64"),))
    assert not changed.is_additive
    assert before.diff(before).is_empty
    with pytest.raises(NotFound, match="nearest"):
        Schema((Column("amount", "float64"),))["amuont"]


def test_a_signature_survives_being_written_and_read() -> None:
    inputs = Schema((Column("a", "int64", nullable=False), Column("b", "string")))
    signature = Signature(inputs, "binary", ("No", "Yes"), "Yes", Schema((Column("id", "string"),)))
    assert Signature.from_json(signature.to_json()) == signature
