"""Fetch the customers: a copy of the public telco data set, which stays where it is and out of the repository."""

import os
import shutil
import sys
from pathlib import Path

source = Path(sys.argv[1] if len(sys.argv) > 1 else os.environ["MAINSPRING_TEST_DATA"])
target = Path(__file__).parent / "data" / "customers.csv.gz"
target.parent.mkdir(exist_ok=True)
shutil.copyfile(source / "telco_churn" / "telco_customer_churn.csv.gz", target)
print(f"wrote {target}")
