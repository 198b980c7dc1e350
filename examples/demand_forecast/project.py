"""How many bikes will be rented in each hour of next week? Learned from the past, written down every night."""

import mainspring as ms

demand = ms.Project("demand_forecast", owner="fleet", oncall="#fleet-oncall")

# Two deliveries a night: what happened, and the calendar and weather forecast of the seven days to come. -------------

rides = demand.dataset("data/rides.csv", key="at", time="at", schedule="0 2 * * *", zone="America/New_York")
next_week = demand.dataset("data/next_week.csv", key="at", time="at", schedule="0 2 * * *", zone="America/New_York")

rides.expect(ms.check.unique("at"), ms.check.not_null("at", "cnt"), ms.check.between("cnt", 0, 5_000))
next_week.expect(ms.check.unique("at"), ms.check.rows(at_least=24 * 7, at_most=24 * 7))

# The past, as of each hour. A window of 7 days covers [t - 7 days, t) and never t itself. A week ahead is forecast, so
# nothing younger than a week may be used: each figure below is known for every hour of next week, tonight. -----------


@demand.feature(entity="city", window="7d")
def same_hour_last_week(rides):
    return rides.cnt.first()


@demand.feature(entity="city", window="14d")
def same_hour_two_weeks_ago(rides):
    return rides.cnt.first()


@demand.feature(entity="city", window="7d")
def rides_in_a_week(rides):
    return rides.cnt.sum().fill_null(0)


@demand.feature(entity="city", window="7d")
def hours_in_a_week(rides):
    return rides.cnt.count()


@demand.feature(entity="city", window="35d")
def rides_in_five_weeks(rides):
    return rides.cnt.sum().fill_null(0)


@demand.feature(entity="city", window="35d")
def hours_in_five_weeks(rides):
    return rides.cnt.count()


@demand.feature
def level(rides_in_five_weeks, rides_in_a_week, hours_in_five_weeks, hours_in_a_week):
    """Rides in a usual hour of the four weeks before the last one."""
    return (rides_in_five_weeks - rides_in_a_week) / (hours_in_five_weeks - hours_in_a_week)


@demand.feature
def feels_wet(request):
    return request.hum * (request.weathersit > 2)


# model ---------------------------------------------------------------------------------------------------------------

calendar = rides[["hr", "weekday", "workingday", "holiday", "mnth"]]
weather = rides[["weathersit", "temp", "hum", "windspeed"]]


@demand.model(
    predicts=rides["cnt"],
    uses=[calendar, weather, feels_wet, same_hour_last_week, same_hour_two_weeks_ago, level],
    task="forecast",
    metric="mae",
    split=ms.by_time(test="28d"),
    schedule="0 4 * * 0",
    zone="America/New_York",
)
def hourly(X, y, trees=400, learning_rate=0.05):
    from lightgbm import LGBMRegressor

    return LGBMRegressor(
        objective="poisson",  # counts: an error of 10 weighs more at night than at rush hour
        n_estimators=trees,
        learning_rate=learning_rate,
        num_leaves=31,
        min_child_samples=40,
        random_state=0,
        n_jobs=1,
        deterministic=True,
        force_row_wise=True,
        verbose=-1,
    ).fit(X, y)


hourly.must(
    ms.gate.beats_baseline(by=5, baseline="seasonal_naive"),  # five rides an hour closer than "as last week"
    ms.gate.at_least("r2", 0.7),
    ms.gate.no_leakage(),
    ms.gate.parity(),
    ms.gate.not_worse_than_live(margin=3),
)

# Every night at three, after the deliveries. The table's address holds a password, so only its name stands here. -----

hourly.batch(to="scores/next_week.parquet", of=next_week, schedule="0 3 * * *", zone="America/New_York")
hourly.batch(to="secret://env/FORECAST_DATABASE#next_week", of=next_week, schedule="5 3 * * *", zone="America/New_York")
