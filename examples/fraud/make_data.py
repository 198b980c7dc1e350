"""Write the payments of the days before UNTIL and the outcomes known by then: python make_data.py 2026-03-21.

From 2026-03-23 on fraud is another: no longer large, foreign and at night, but small gift cards on new devices.
"""

import sys
from datetime import UTC, datetime
from pathlib import Path

from mainspring.loop.payments import Payments

START, CHANGE = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 23, tzinfo=UTC)

if __name__ == "__main__":
    until = datetime.fromisoformat(sys.argv[1]).replace(tzinfo=UTC)
    Payments(START, drift_on=CHANGE).write(Path(__file__).parent, START, until)
    print(f"wrote payments and chargebacks up to {until:%Y-%m-%d}")
