"""Fetch the questions answered up to a week: python get_data.py FOLDER [WEEK], of the public banking77 data set."""

import os
import sys
from pathlib import Path

import polars as pl

source = Path(sys.argv[1] if len(sys.argv) > 1 else os.environ["MAINSPRING_TEST_DATA"]) / "banking77"
week = int(sys.argv[2]) if len(sys.argv) > 2 else 1

asked = pl.concat([pl.read_csv(source / "train.csv.gz"), pl.read_csv(source / "test.csv.gz")])
asked = asked.sample(fraction=1.0, shuffle=True, seed=0)  # the files are sorted by queue, customers are not
answered = asked.head(3_000 + 2_000 * week)
target = Path(__file__).parent / "data" / "questions.csv"
target.parent.mkdir(exist_ok=True)
answered.write_csv(target)
print(f"wrote {answered.height} questions to {target}")
