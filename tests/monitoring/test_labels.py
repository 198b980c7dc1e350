"""Labels come late, twice, out of order or for nobody, and the join says what that leaves."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from mainspring.core.errors import Invalid, NotFound
from mainspring.monitoring.labels import Label, append_labels, join_labels, log_directory, read_labels

NOW = datetime(2026, 1, 10, tzinfo=UTC)
PREDICTIONS = pl.DataFrame(
    {
        "prediction_id": ["p1", "p2", "p3", "p4"],
        "at": [NOW - timedelta(days=d) for d in (5, 4, 3, 1)],
        "status": [200, 200, 422, 200],
        "label": [0, 1, None, 1],
        "extra.card": ["c1", "c2", None, "c1"],
        "in.day": [1, 2, 3, 4],
    }
)


def labels(home: Path, *items: Label, now: datetime = NOW) -> pl.DataFrame:
    append_labels(home, "p", "m", items, now=now)
    return read_labels(home, "p", "m")


def test_the_truth_stands_beside_what_was_predicted(tmp_path: Path) -> None:
    window = join_labels(PREDICTIONS, labels(tmp_path, Label(1, "p1"), Label(1, "p2")), now=NOW)
    assert window.frame.select("prediction_id", "label", "actual").rows() == [("p1", 0, 1), ("p2", 1, 1)]
    assert (window.mature, window.coverage, window.as_of) == (3, 2 / 3, NOW)


def test_a_young_prediction_is_not_judged_even_with_its_label(tmp_path: Path) -> None:
    window = join_labels(PREDICTIONS, labels(tmp_path, Label(1, "p4")), matures=timedelta(days=2), now=NOW)
    assert (window.frame.height, window.mature, window.waiting, window.parked) == (0, 2, 1, 0)


def test_the_highest_sequence_of_a_source_wins_whatever_the_order_of_arrival(tmp_path: Path) -> None:
    append_labels(tmp_path, "p", "m", [Label(1, "p1", sequence=7)], now=NOW)
    append_labels(tmp_path, "p", "m", [Label(0, "p1", sequence=6)], now=NOW + timedelta(hours=1))
    window = join_labels(PREDICTIONS, read_labels(tmp_path, "p", "m"), now=NOW)
    assert window.frame["actual"].to_list() == [1]


def test_without_a_sequence_the_later_arrival_wins(tmp_path: Path) -> None:
    append_labels(tmp_path, "p", "m", [Label(1, "p1")], now=NOW)
    table = labels(tmp_path, Label(0, "p1"), now=NOW + timedelta(seconds=1))
    assert join_labels(PREDICTIONS, table, now=NOW).frame["actual"].to_list() == [0]


def test_of_two_sources_the_one_that_came_last_counts(tmp_path: Path) -> None:
    append_labels(tmp_path, "p", "m", [Label(1, "p1", source="bank", sequence=900)], now=NOW)
    table = labels(tmp_path, Label(0, "p1", source="analyst", sequence=1), now=NOW + timedelta(hours=1))
    assert join_labels(PREDICTIONS, table, now=NOW).frame["actual"].to_list() == [0]


def test_a_label_sent_twice_counts_once(tmp_path: Path) -> None:
    table = labels(tmp_path, *[Label(1, "p1", sequence=1)] * 3)
    assert join_labels(PREDICTIONS, table, now=NOW).frame.height == 1


def test_a_label_for_nobody_is_parked_until_its_prediction_is_there(tmp_path: Path) -> None:
    table = labels(tmp_path, Label(1, "p9"))
    assert join_labels(PREDICTIONS, table, now=NOW).parked == 1
    late = PREDICTIONS.with_columns(prediction_id=pl.col("prediction_id").replace("p1", "p9"))
    assert join_labels(late, table, now=NOW).frame["prediction_id"].to_list() == ["p9"]
    assert join_labels(PREDICTIONS.clear(), table, now=NOW).parked == 1


def test_labels_join_by_what_the_request_carried(tmp_path: Path) -> None:
    table = labels(tmp_path, Label(1, key={"card": "c1", "day": 1}), Label(0, key={"card": "c1", "day": 4}))
    window = join_labels(PREDICTIONS, table, by=("card", "day"), now=NOW)
    assert dict(window.frame.select("prediction_id", "actual").rows()) == {"p1": 1, "p4": 0}


def test_a_users_own_table_of_labels_joins_too() -> None:
    table = pl.DataFrame({"card": ["c2"], "label": ["fraud"]})
    assert join_labels(PREDICTIONS, table, by=("card",), now=NOW).frame["actual"].to_list() == ["fraud"]
    with pytest.raises(NotFound, match="card"):
        join_labels(PREDICTIONS, table.rename({"card": "cart"}), by=("cart",), now=NOW)
    with pytest.raises(Invalid):
        join_labels(PREDICTIONS, table.drop("label"), by=("card",), now=NOW)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [([0, 1], pl.Int64), ([True], pl.Boolean), (["a"], pl.String), ([0, 1.5], pl.Float64), ([0, "a"], pl.String)],
)
def test_labels_keep_their_type(tmp_path: Path, values: list[int], dtype: object) -> None:
    assert labels(tmp_path, *(Label(value, "p1") for value in values)).schema["label"] == dtype


def test_a_label_names_one_thing() -> None:
    for wrong in ({}, {"prediction_id": "p", "key": {"card": "c"}}, {"key": {"label": "x"}}):
        with pytest.raises(Invalid):
            Label(1, **wrong)  # type: ignore[arg-type]


def test_a_torn_label_write_hides_no_later_label(tmp_path: Path) -> None:
    labels(tmp_path, Label(1, "p1"))
    path = next(log_directory(tmp_path, "p", "m").glob("l-*.seg"))
    path.write_bytes(path.read_bytes()[:-3])
    assert labels(tmp_path, Label(1, "p2"))["prediction_id"].to_list() == ["p2"]


def test_no_labels_read_as_an_empty_table(tmp_path: Path) -> None:
    assert read_labels(tmp_path, "p", "m").is_empty()
    assert append_labels(tmp_path, "p", "m", [], now=NOW) == 0
