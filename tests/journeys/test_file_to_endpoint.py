"""From a data file to a live endpoint with two commands and no edit, on real data sets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ADULT = (
    "age,workclass,fnlwgt,education,education_num,marital_status,occupation,relationship,race,sex,capital_gain,"
    "capital_loss,hours_per_week,native_country,income"
)


@dataclass(frozen=True)
class Case:
    """A file, its target, names where it has no header, one request, and the metric that must be reached."""

    file: str
    target: str
    request: dict[str, Any]
    metric: tuple[str, float]
    columns: str = ""


CASES = {
    "bike": Case(
        "bike_sharing/hour.csv.gz", "cnt",
        {"season": 3, "yr": 1, "mnth": 7, "hr": 17, "holiday": 0, "weekday": 2, "workingday": 1, "weathersit": 1,
         "temp": 0.7, "atemp": 0.65, "hum": 0.5, "windspeed": 0.1},
        ("r2", 0.85),
    ),
    "churn": Case(
        "telco_churn/telco_customer_churn.csv.gz", "Churn",
        {"gender": "Female", "SeniorCitizen": 0, "Partner": "Yes", "Dependents": "No", "tenure": 1, "PhoneService": "No",
         "MultipleLines": "No phone service", "InternetService": "DSL", "OnlineSecurity": "No", "OnlineBackup": "Yes",
         "DeviceProtection": "No", "TechSupport": "No", "StreamingTV": "No", "StreamingMovies": "No",
         "Contract": "Month-to-month", "PaperlessBilling": "Yes", "PaymentMethod": "Electronic check",
         "MonthlyCharges": 29.85, "TotalCharges": None},
        ("roc_auc", 0.83),
    ),
    "elec": Case(
        "elec2/elec2.parquet", "class",
        {"date_norm": 0.5, "day": 2, "period": 0.5, "nswprice": 0.06, "nswdemand": 0.44, "vicprice": 0.003,
         "vicdemand": 0.42, "transfer": 0.41},
        ("roc_auc", 0.8),
    ),
    "sms": Case(
        "sms_spam/SMSSpamCollection.tsv.gz", "label", {"text": "WINNER!! Claim your free prize now, call 0900"},
        ("roc_auc", 0.97), "label,text",
    ),
    "banking": Case(
        "banking77/train.csv.gz", "category", {"text": "My card has still not arrived, where is it?"}, ("accuracy", 0.85)
    ),
    "adult": Case(
        "adult/adult_train_raw.csv.gz", "income",
        {"age": 39, "workclass": "State-gov", "fnlwgt": 77516, "education": "Bachelors", "education_num": 13,
         "marital_status": "Never-married", "occupation": "Adm-clerical", "relationship": "Not-in-family",
         "race": "White", "sex": "Male", "capital_gain": 2174, "capital_loss": 0, "hours_per_week": 40,
         "native_country": None},
        ("roc_auc", 0.91), ADULT,
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_commands_make_a_live_endpoint(name: str, data_dir: Path, place: Any) -> None:
    case = CASES[name]
    arguments = ["init", name, "--from", str(data_dir / case.file), "--target", case.target]
    place.say(*arguments, *(["--columns", case.columns] if case.columns else []))
    made = place.within(name)
    done = made.ask("run")
    assert done["outcome"] == "released", done["verdicts"]
    metric, least = case.metric
    assert done["metrics"][metric] >= least
    with made.served() as endpoint:
        status, answer = endpoint.post(f"/v1/models/{done['model']}:predict", {"instances": [case.request]})
        assert status == 200, answer
        assert answer["model_version"] == "1"
        assert len(answer["predictions"]) == 1
        dossier = made.ask("why", answer["prediction_ids"][0])
    assert dossier["agrees"]
    print(f"{name}: {metric} {done['metrics'][metric]:.4f}, answered {answer['predictions'][0]}")


def test_a_file_without_a_header_asks_for_names(data_dir: Path, place: Any) -> None:
    said = place.say(
        "init", "adult", "--from", str(data_dir / "adult/adult_train_raw.csv.gz"), "--target", "income", code=2
    )
    assert "has no header" in said
    assert "--columns" in said
    assert not (place.folder / "adult").exists()
