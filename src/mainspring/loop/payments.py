"""Generated card payments whose fraud changes its ways on a chosen day, for the demo and the fraud example."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

COUNTRIES = ("NL", "DE", "FR", "BE", "GB", "US", "BR", "NG")
MERCHANTS = ("grocery", "travel", "electronics", "gift_cards", "restaurant", "fuel")
FRAUD_RATE = 0.08
CARDS = 2000


@dataclass(frozen=True, slots=True)
class Payments:
    """A stream of payments, the same for the same seed.

    Args:
        start: The first day.
        per_day: Payments a day.
        drift_on: From this day on fraud is no longer large, foreign and at night but small gift cards on new devices.
        reported_after: Days until a fraud is charged back.
    """

    start: datetime = datetime(2026, 3, 1, tzinfo=UTC)
    per_day: int = 400
    drift_on: datetime | None = None
    reported_after: float = 1.5
    seed: int = 7

    def day(self, day: datetime) -> pl.DataFrame:
        """Return the payments of one day with their outcome in `is_fraud`, oldest first."""
        number = (day - self.start).days
        random = np.random.default_rng([self.seed, number])
        n = self.per_day
        is_fraud = random.random(n) < FRAUD_RATE
        seconds = np.sort(random.integers(0, 86_400, n))
        hour = seconds / 3600
        usual = 20 + 60 * np.random.default_rng(self.seed).random(CARDS)
        card = random.integers(0, CARDS, n)
        amount = usual[card] * random.lognormal(0, 0.5, n)
        country = random.choice(len(COUNTRIES), n, p=[0.4, 0.2, 0.12, 0.1, 0.08, 0.06, 0.02, 0.02])
        merchant = random.choice(len(MERCHANTS), n, p=[0.36, 0.08, 0.14, 0.06, 0.24, 0.12])
        device_days = random.gamma(2, 150, n)
        # Four of five frauds follow the fashion of the time; the rest look like anybody.
        plain = is_fraud & (random.random(n) < 0.8)
        if self.drift_on is not None and day >= self.drift_on:
            amount[plain] = random.uniform(4, 15, plain.sum())
            merchant[plain] = MERCHANTS.index("gift_cards")
            device_days[plain] = random.gamma(1, 4, plain.sum())
        else:
            amount[plain] *= random.uniform(3, 9, plain.sum())
            country[plain] = random.choice([5, 6, 7], plain.sum())
            at_night = plain & (random.random(n) < 0.6)
            hour[at_night] = random.uniform(0, 5, at_night.sum())
        return pl.DataFrame(
            {
                "tx_id": [f"tx-{number:04d}-{i:05d}" for i in range(n)],
                "at": [day + timedelta(seconds=int(s)) for s in seconds],
                "card": [f"card-{c:05d}" for c in card],
                "amount": np.round(amount, 2),
                "usual_amount": np.round(usual[card], 2),
                "hour": np.round(hour, 2),
                "country": [COUNTRIES[c] for c in country],
                "merchant": [MERCHANTS[m] for m in merchant],
                "device_days": np.round(device_days, 1),
                "is_fraud": is_fraud,
            }
        ).with_columns(pl.col("at").dt.cast_time_unit("us"))

    def write(self, directory: Path, first: datetime, until: datetime) -> None:
        """Write `raw/payments/DAY.parquet` for the days in [first, until), and the chargebacks known at `until`."""
        folder = directory / "raw" / "payments"
        folder.mkdir(parents=True, exist_ok=True)
        day = first
        while day < until:
            self.day(day).drop("is_fraud").write_parquet(folder / f"{day:%Y-%m-%d}.parquet")
            day += timedelta(days=1)
        self.chargebacks(until).write_parquet(directory / "raw" / "chargebacks.parquet")

    def chargebacks(self, until: datetime) -> pl.DataFrame:
        """Return the outcomes reported before `until`: frauds when charged back, the rest when settled."""
        days = [self.start + timedelta(days=i) for i in range((until - self.start).days)]
        frames = [self.day(day).select("tx_id", "at", "is_fraud") for day in days]
        late = timedelta(days=self.reported_after)
        return (
            pl.concat(frames)
            .with_columns((pl.col("at") + late).alias("reported_at"))
            .filter(pl.col("reported_at") < until)
            .select("tx_id", "reported_at", "is_fraud")
        )
