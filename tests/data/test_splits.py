"""Splits: every row in one part, the same parts every time, no twin on the other side."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.core.errors import Invalid, NotFound
from mainspring.data.splits import Split, SplitSpec, by_chance, by_group, by_time, split

START = datetime(2026, 1, 1, tzinfo=UTC)


def table(n: int = 1000) -> pl.DataFrame:
    order = np.random.default_rng(0).permutation(n)
    return pl.DataFrame(
        {
            "id": order,
            "at": [START + timedelta(hours=int(i)) for i in order],
            "customer": [f"c{i % 50}" for i in order],
            "y": ["yes" if i % 10 == 0 else "no" for i in order],
        }
    )


def rows(parts: Split) -> list[int]:
    return sorted(np.concatenate([parts.train, parts.validation, parts.test]).tolist())


@pytest.mark.parametrize(
    "spec",
    [
        by_time(test="7d", validation="3d"),
        by_time(test="20%", validation=0.1),
        by_group("customer", test=0.2, validation=0.1),
        by_chance(test=0.2, validation=0.1),
        by_chance(test=0.2, validation=0.1, together="customer", stratify=False),
    ],
)
def test_every_row_is_in_exactly_one_part(spec: SplitSpec) -> None:
    parts = split(table(), spec, time="at", target="y", key=("id",))
    assert rows(parts) == list(range(1000))
    assert 0.1 < len(parts.test) / 1000 < 0.3
    assert len(parts.validation) > 0


def test_a_split_by_time_tests_on_the_last_days_only() -> None:
    frame = table()
    parts = split(frame, by_time(test="7d", validation="3d"), time="at")
    at = frame["at"].to_numpy()
    assert len(parts.test) == 7 * 24
    assert len(parts.validation) == 3 * 24
    assert at[parts.train].max() < at[parts.validation].min()
    assert at[parts.validation].max() < at[parts.test].min()
    assert (np.diff(at[parts.train]) > np.timedelta64(0)).all()
    assert "the test starts at 2026-02-04" in parts.reason


def test_rows_of_one_instant_are_never_on_two_sides() -> None:
    frame = pl.DataFrame({"at": [1, 1, 1, 1, 2, 2, 2, 2, 2, 3]})
    parts = split(frame, by_time(test=0.3), time="at")
    assert set(frame["at"].to_numpy()[parts.train]).isdisjoint(frame["at"].to_numpy()[parts.test])


def test_a_group_is_never_on_two_sides() -> None:
    frame = table()
    parts = split(frame, by_group("customer", test=0.2, validation=0.2))
    sides = [set(frame["customer"].to_numpy()[part]) for part in (parts.train, parts.validation, parts.test)]
    assert sum(map(len, sides)) == 50
    assert len(set.union(*sides)) == 50


def test_a_draw_does_not_depend_on_the_order_of_the_rows() -> None:
    frame = table()
    drawn = set(frame["id"].to_numpy()[split(frame, by_chance(test=0.2), target="y", key=("id",)).test].tolist())
    other = frame.sort("id", descending=True)
    again = set(other["id"].to_numpy()[split(other, by_chance(test=0.2), target="y", key=("id",)).test].tolist())
    assert drawn == again
    assert split(frame, by_chance(test=0.2, seed=1), key=("id",)).test.tolist() != sorted(drawn)


def test_the_draw_is_the_one_it_was_in_the_first_release() -> None:
    # A change here moves rows between training and test in every project there is.
    frame = pl.DataFrame({"id": list(range(20))})
    assert split(frame, by_chance(test=0.25), key=("id",)).test.tolist() == [5, 6, 8, 9, 16]


def test_each_class_gives_the_same_share_to_the_test() -> None:
    frame = table()
    parts = split(frame, by_chance(test=0.2), target="y", key=("id",))
    assert (frame["y"].to_numpy()[parts.test] == "yes").sum() == 20
    assert len(parts.test) == 200


def test_equal_texts_stay_on_one_side_without_being_asked() -> None:
    frame = pl.DataFrame({"text": [f"message {i % 300}" for i in range(1000)], "y": [i % 2 for i in range(1000)]})
    parts = split(frame, by_chance(test=0.2), target="y")
    text = frame["text"].to_numpy()
    assert set(text[parts.train]).isdisjoint(text[parts.test])
    assert 150 < len(parts.test) < 250


def test_no_repeated_message_of_sms_spam_is_on_both_sides(data_dir: Path) -> None:
    lines = pl.read_csv(
        data_dir / "sms_spam" / "SMSSpamCollection.tsv.gz", separator="\t", quote_char=None, has_header=False,
        new_columns=["label", "text"],
    )  # fmt: skip
    parts = split(lines, by_chance(test=0.2), target="label")
    text, label = lines["text"].to_numpy(), lines["label"].to_numpy()
    assert set(text[parts.train]).isdisjoint(text[parts.test])
    share = {
        side: float((label[part] == "spam").mean()) for side, part in (("train", parts.train), ("test", parts.test))
    }
    assert share["train"] == pytest.approx(share["test"], abs=0.01)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: by_chance(test=0), "leaves one side empty"),
        (lambda: by_chance(test=1.0), "leaves one side empty"),
        (lambda: by_time(test="-3d"), "3d"),
        (lambda: split(table(), by_time(test="14d")), "needs a time column"),
        (lambda: split(table(), by_time(test="400d"), time="at"), "no training rows"),
        (lambda: split(table(), by_time(test="14d"), time="customer"), "is String"),
        (lambda: split(table(), by_time(test="14d"), time="id"), "is a number"),
        (lambda: split(table().head(0), by_chance()), "no training rows of 0"),
        (lambda: split(table().head(0), by_time(), time="at"), "no training rows of 0"),
        (lambda: split(table().with_columns(at=None), by_time(test=0.2), time="at"), "at"),
        (lambda: split(pl.DataFrame({"g": ["one"] * 5}), by_group("g")), "no test rows"),
    ],
)
def test_a_split_that_cannot_be_made_says_why(make: object, message: str) -> None:
    with pytest.raises(Invalid, match=message):
        make()  # type: ignore[operator]


def test_an_absent_column_is_named() -> None:
    with pytest.raises(NotFound, match='nearest name is "customer"'):
        split(table(), by_group("custmer"))


@given(st.lists(st.text(max_size=3), min_size=5, max_size=60), st.integers(0, 3))
def test_a_draw_parts_the_rows_and_keeps_twins_together(texts: list[str], seed: int) -> None:
    frame = pl.DataFrame({"text": texts})
    try:
        parts = split(frame, by_chance(test=0.3, seed=seed))
    except Invalid:
        return
    values = np.array(texts, dtype=object)
    assert rows(parts) == list(range(len(texts)))
    assert set(values[parts.train]).isdisjoint(values[parts.test])
