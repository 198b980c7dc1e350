"""Demand forecast: a week ahead is forecast from what is known tonight, and nothing younger slips in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import sqlalchemy as sa

from .conftest import Place


def forecast(folder: Path, file: str = "scores/next_week.parquet") -> pl.DataFrame:
    return pl.read_parquet(folder / file).select("at", "prediction").sort("at")


@pytest.mark.slow
def test_next_week_is_forecast_every_night_to_a_file_and_a_table_by_what_was_known_then(
    example: Callable[[str], Place], data_dir: Path, postgres_url: str
) -> None:
    demand = example("demand_forecast")
    demand.script("get_data.py", str(data_dir), "2012-12-10")

    # What looks back over a window is computed in batch: an endpoint is refused on its line, not left without effect.
    declared = (demand.folder / "project.py").read_text()
    (demand.folder / "project.py").write_text(declared + "hourly.serve()\n")
    refused = demand.ask("plan", code=2)["refusals"]
    assert [refusal["where"]["line"] for refusal in refused] == [len(declared.splitlines()) + 1]
    assert "looks back over a window" in refused[0]["message"]
    (demand.folder / "project.py").write_text(declared)
    assert "gets no endpoint" in " ".join(demand.ask("plan")["notes"])

    trained = demand.ask("run")
    assert trained["outcome"] == "released"
    against = trained["verdicts"][0]["facts"]
    assert against["baseline"] == "seasonal_naive"
    assert against["gain"] > 10
    assert {"ingest-rides", "run-hourly", "score-hourly-0", "score-hourly-1"} <= {
        schedule["name"] for schedule in demand.ask("schedules")
    }

    assert "--to scores/next_week.parquet" in demand.ask("score", code=2)["hint"]  # two are declared
    to_file = ("score", "--to", "scores/next_week.parquet")
    scored = demand.ask(*to_file)
    assert (scored["dataset"], scored["rows"], scored["version"]) == ("next_week", 168, 1)
    tonight = forecast(demand.folder)
    assert tonight["prediction"].is_finite().all()

    to_table = ("score", "--to", "secret://env/FORECAST_DATABASE#next_week")
    assert demand.ask(*to_table, code=2)["code"] == "not-found"  # the variable is not set, and says so
    for _ in range(2):  # a second time replaces the table's rows, it does not add to them
        assert demand.ask(*to_table, FORECAST_DATABASE=postgres_url)["rows"] == 168
    engine = sa.create_engine(postgres_url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.connect() as connection:
        rows, versions, total = connection.execute(
            sa.text("SELECT count(*), count(DISTINCT model_version), sum(prediction) FROM next_week")
        ).one()
    engine.dispose()
    assert (rows, versions) == (168, 1)
    assert abs(total - tonight["prediction"].sum()) < 1e-6

    # A week later the hours have happened. The same version, asked now with all the history there is, says of each hour
    # what it said a week before: nothing younger than a week was ever looked at.
    demand.script("get_data.py", str(data_dir), "2012-12-17")
    demand.ask("score", "--of", "rides", "--to", "scores/past.parquet")
    past = forecast(demand.folder, "scores/past.parquet").join(tonight, on="at", suffix="_then")
    assert past.height == 168
    assert (past["prediction"] - past["prediction_then"]).abs().max() < 1e-9
    happened = pl.read_csv(demand.folder / "data" / "rides.csv", try_parse_dates=True).select(
        pl.col("at").dt.cast_time_unit("us").dt.replace_time_zone("UTC"), "cnt"
    )
    error = past.join(happened, on="at").select((pl.col("prediction") - pl.col("cnt")).abs().mean()).item()
    assert error < 80

    grown = demand.ask("data", "diff", "rides", "1", "2")
    assert (grown["added"], grown["removed"]) == (168, 0)
    again = demand.ask("run")
    assert (again["outcome"], again["live_version"]) == ("released", 2)
    assert demand.ask(*to_file)["version"] == 2
    assert demand.ask("lineage", "model:hourly@2")["edges"]
    assert demand.ask("models", "rollback", "hourly", "--reason", "drill")["version"] == 1
    assert demand.ask(*to_file)["version"] == 1
