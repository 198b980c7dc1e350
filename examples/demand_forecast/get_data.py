"""Make tonight's two deliveries from the public bike sharing data set: python get_data.py FOLDER [FIRST_DAY]."""

import os
import sys
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl

source = Path(sys.argv[1] if len(sys.argv) > 1 else os.environ["MAINSPRING_TEST_DATA"])
tonight = datetime.fromisoformat(sys.argv[2] if len(sys.argv) > 2 else "2012-12-10")

hours = (
    pl.read_csv(source / "bike_sharing" / "hour.csv.gz", try_parse_dates=True)
    .with_columns(at=pl.col("dteday").cast(pl.Datetime("us")) + pl.duration(hours="hr"), city=pl.lit("washington"))
    .select(
        "at", "city", "hr", "weekday", "workingday", "holiday", "mnth", "weathersit", "temp", "hum", "windspeed", "cnt"
    )
)
folder = Path(__file__).parent / "data"
folder.mkdir(exist_ok=True)
hours.filter(pl.col("at") < tonight).write_csv(folder / "rides.csv")
# What is known of next week is its calendar and its weather forecast: here, the weather as it came to be.
coming = hours.filter(pl.col("at").is_between(tonight, tonight + timedelta(days=7), closed="left"))
coming.drop("cnt").write_csv(folder / "next_week.csv")
print(f"wrote {folder}/rides.csv up to {tonight:%Y-%m-%d} and {coming.height} hours of {folder}/next_week.csv")
