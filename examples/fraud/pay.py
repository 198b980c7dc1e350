"""Send one day's payments to the endpoint, as the shop's checkout would: python pay.py 2026-03-21 [PORT]."""

import json
import sys
import urllib.request
from datetime import UTC, datetime

from make_data import CHANGE, START

from mainspring.loop.payments import Payments

day, port = datetime.fromisoformat(sys.argv[1]).replace(tzinfo=UTC), sys.argv[2] if len(sys.argv) > 2 else "8080"

found = caught = answered = 0
for part in Payments(START, drift_on=CHANGE).day(day).iter_slices(100):
    rows = part.drop("is_fraud", "card").to_dicts()
    body = json.dumps({"instances": rows}, default=datetime.isoformat).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/models/scorer:predict", body)
    answer = json.load(urllib.request.urlopen(request, timeout=30))
    answered += len(answer["predictions"])
    for said, is_fraud in zip(answer["predictions"], part["is_fraud"], strict=True):
        found += is_fraud
        caught += is_fraud and said["probability"] > 0.2
print(f"{answered} payments by version {answer['model_version']}: {caught} of {found} frauds would have been stopped")
print(answer["prediction_ids"][-1])
