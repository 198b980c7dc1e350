"""The data plane answers three protocols, logs before it answers, and tells no one what they sent."""

import json
import logging
import re
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mainspring.core.clock import FixedClock
from mainspring.core.schema import Column, Schema, Signature
from mainspring.monitoring.capture import read_predictions
from mainspring.monitoring.labels import read_labels
from mainspring.serving.http import Limits
from mainspring.serving.openapi import ROUTES

from .conftest import Plane

PATH = "/v1/models/churn:predict"
ROW = {"amount": 0.0, "city": "Köln"}
UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
REGRESSION = Signature(Schema((Column("x", "float64", nullable=False),)), "regression")
MULTICLASS = Signature(Schema((Column("x", "float64", nullable=False),)), "multiclass", ("a", "b", "c"))


def test_v1_answers_label_probability_version_and_id(plane: Plane) -> None:
    answer = plane.call("POST", PATH, json={"instances": [ROW]})
    data = answer.json()
    assert answer.status_code == 200
    assert data["predictions"] == [{"label": "yes", "probability": 0.5}]
    assert data["model_version"] == "1"
    assert UUID7.fullmatch(data["prediction_id"])
    assert data["prediction_ids"] == [data["prediction_id"]]


def test_several_rows_get_an_id_each_from_one_request_id(plane: Plane) -> None:
    data = plane.call("POST", PATH, json={"instances": [ROW, {**ROW, "amount": -9.0}]}).json()
    assert [p["label"] for p in data["predictions"]] == ["yes", "no"]
    assert data["prediction_ids"] == [f"{data['prediction_id']}.{i}" for i in range(2)]


def test_every_answer_is_in_the_log_as_it_was_given(plane: Plane) -> None:
    data = plane.call("POST", PATH, json={"instances": [{**ROW, "card": "c1"}, {**ROW, "amount": 2.0}]}).json()
    log = read_predictions(plane.home, "p", "churn")
    assert log["prediction_id"].to_list() == data["prediction_ids"]
    assert log["score"].to_list() == [p["probability"] for p in data["predictions"]]
    assert log["label"].to_list() == [p["label"] for p in data["predictions"]]
    assert log["in.amount"].to_list() == [0.0, 2.0]
    assert log["extra.card"].to_list() == ["c1", None]
    assert log["latency_ms"].min() > 0


def test_regression_and_multiclass_answer_in_their_own_form(plane: Plane) -> None:
    plane.add("demand", REGRESSION, lambda columns, n: columns["x"] * 2)
    plane.add("topic", MULTICLASS, lambda columns, n: np.tile([0.1, 0.7, 0.2], (n, 1)))
    body = {"instances": [{"x": 1.5}]}
    assert plane.call("POST", "/v1/models/demand:predict", json=body).json()["predictions"] == [3.0]
    topic = plane.call("POST", "/v1/models/topic:predict", json=body).json()
    assert topic["predictions"] == [{"label": "b", "probability": 0.7}]
    tensor = {"name": "x", "shape": [1], "datatype": "FP64", "data": [1.0]}
    v2 = plane.call("POST", "/v2/models/topic/infer", json={"inputs": [tensor]}).json()
    assert {t["name"]: (t["shape"], t["data"]) for t in v2["outputs"] if t["name"] != "prediction_id"} == {
        "label": ([1], ["b"]),
        "probability": ([1], [0.7]),
        "probabilities": ([1, 3], [0.1, 0.7, 0.2]),
    }


def test_v2_answers_tensors_and_keeps_the_callers_id(plane: Plane) -> None:
    inputs = [
        {"name": "amount", "shape": [1], "datatype": "FP64", "data": [0.0]},
        {"name": "city", "shape": [1], "datatype": "BYTES", "data": ["x"]},
    ]
    data = plane.call("POST", "/v2/models/churn/versions/1/infer", json={"id": "q-1", "inputs": inputs}).json()
    assert (data["id"], data["model_name"], data["model_version"]) == ("q-1", "churn", "1")
    assert [t["name"] for t in data["outputs"]] == ["label", "probability", "prediction_id"]
    assert data["outputs"][2]["data"] == [data["parameters"]["prediction_id"]]
    one = {"inputs": inputs, "outputs": [{"name": "probability"}]}
    assert [t["name"] for t in plane.call("POST", "/v2/models/churn/infer", json=one).json()["outputs"]] == [
        "probability"
    ]
    wrong = plane.call("POST", "/v2/models/churn/infer", json={"inputs": inputs, "outputs": [{"name": "nonsense"}]})
    assert (wrong.status_code, wrong.json()["pointer"]) == (422, "/outputs/0/name")


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", json.dumps({"dataframe_records": [ROW]})),
        ("application/json", json.dumps({"dataframe_split": {"columns": list(ROW), "data": [list(ROW.values())]}})),
        ("application/json", json.dumps({"instances": [ROW]})),
        ("application/json; charset=utf-8", json.dumps({"inputs": {name: [value] for name, value in ROW.items()}})),
        ("text/csv", "amount,city\n0,x\n"),
    ],
)
def test_invocations_takes_every_form_that_mlflow_sends(plane: Plane, content_type: str, body: str) -> None:
    answer = plane.call("POST", "/invocations", content=body.encode(), headers={"content-type": content_type})
    assert answer.json()["predictions"] == [{"label": "yes", "probability": 0.5}]


def test_invocations_needs_a_default_when_there_are_several_models(make_plane: Callable[..., Plane]) -> None:
    plane = make_plane(Limits(default_model="b"))
    assert plane.call("POST", "/invocations", json={"instances": [ROW]}).status_code == 503
    plane.add("a")
    plane.add("b", function=lambda columns, n: np.ones(n))
    assert plane.call("POST", "/invocations", json={"instances": [ROW]}).json()["predictions"][0]["probability"] == 1
    other = make_plane()
    other.add("a")
    other.add("b")
    assert other.call("POST", "/invocations", json={"instances": [ROW]}).status_code == 404


def test_vertex_routes_are_other_names_of_the_same(make_plane: Callable[..., Plane]) -> None:
    plane = make_plane(aliases={"/predict": "/invocations", "/healthy": "/health/ready"})
    assert plane.call("GET", "/healthy").status_code == 503
    plane.add("a")
    assert plane.call("GET", "/healthy").status_code == 200
    assert plane.call("POST", "/predict", json={"instances": [ROW], "parameters": None}).status_code == 200


def test_a_refusal_points_at_the_place_and_repeats_nothing(plane: Plane, caplog: pytest.LogCaptureFixture) -> None:
    secret = "jane.doe@example.org"
    for body in (
        {"instances": [{**ROW, "amount": secret}]},
        {"instances": [{**ROW, secret: 1}]},
        {secret: 1},
        [secret],
    ):
        answer = plane.call("POST", PATH, json=body)
        assert answer.status_code == 422
        assert answer.headers["content-type"] == "application/problem+json"
        assert secret not in answer.text
    assert (
        plane.call("POST", PATH, json={"instances": [{**ROW, "amount": secret}]}).json()["pointer"]
        == "/instances/0/amount"
    )
    assert secret not in caplog.text


def test_a_model_that_breaks_tells_the_client_nothing(plane: Plane, caplog: pytest.LogCaptureFixture) -> None:
    def broken(columns: Any, n: int) -> np.ndarray:
        raise ValueError(f"cannot handle {columns['city'][0]}")

    plane.add("churn", function=broken, version=2)
    with caplog.at_level(logging.ERROR):
        answer = plane.call("POST", PATH, json={"instances": [{**ROW, "city": "secret-city"}]})
    assert answer.status_code == 500
    assert answer.json() == {
        "code": "internal",
        "error": "the request could not be answered",
        "status": 500,
        "request_id": answer.json()["request_id"],
    }
    assert "ValueError at" in caplog.text
    assert "secret-city" not in caplog.text


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_score_that_is_no_number_is_an_error_and_never_an_answer(plane: Plane, value: float) -> None:
    plane.add("churn", function=lambda columns, n: np.full(n, value), version=2)
    assert plane.call("POST", PATH, json={"instances": [ROW]}).status_code == 500


def test_failures_are_in_the_log_with_their_status(plane: Plane) -> None:
    answer = plane.call("POST", PATH, json={"instances": [{}]})
    row = read_predictions(plane.home, "p", "churn").row(0, named=True)
    assert (row["prediction_id"], row["status"], row["version"]) == (answer.json()["request_id"], 422, 1)


def test_a_body_beyond_the_limit_is_refused_however_it_comes(make_plane: Callable[..., Plane]) -> None:
    plane = make_plane(Limits(body=1000))
    plane.add("churn")

    async def chunks() -> Any:
        for _ in range(100):
            yield b"x" * 100

    for content in (b"x" * 1001, chunks()):
        assert plane.call("POST", PATH, content=content).status_code == 413
    assert plane.call("POST", PATH, content=b"{}", headers={"content-length": "9" * 400}).status_code == 413


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "multipart/form-data"}, 415),
        ({"content-encoding": "gzip"}, 415),
        ({"host": "evil.example"}, 421),
        ({"host": "evil.example:8080"}, 421),
        ({"host": "localhost.evil.example"}, 421),
        ({"host": "[::1"}, 421),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"host": "[::1]:8080"}, 200),
        ({"host": "LOCALHOST"}, 200),
        ({"origin": "http://localhost:3000"}, 200),
        ({"content-type": "application/x-www-form-urlencoded"}, 200),
    ],
)
def test_headers_decide_who_is_answered(plane: Plane, headers: dict[str, str], status: int) -> None:
    content = json.dumps({"instances": [ROW]}).encode()
    assert plane.call("POST", PATH, content=content, headers=headers).status_code == status


def test_no_path_answers_a_foreign_host(plane: Plane) -> None:
    for method, path, _ in ROUTES:
        path = path.format(name="churn", version="1")
        assert plane.call(method, path, headers={"host": "evil.example"}).status_code == 421


def test_every_route_listed_exists_and_no_other(plane: Plane) -> None:
    for method, path, _ in ROUTES:
        path = path.format(name="churn", version="1")
        body = {"json": {"instances": [ROW]}} if method == "POST" else {}
        assert plane.call(method, path, **body).status_code in (200, 422)
        other = plane.call("PUT", path)
        assert (other.status_code, other.headers["allow"]) == (405, method)
    for path in (
        "/",
        "/v1/models/other:predict",
        "/v1/models/churn/versions/2:predict",
        "/v1/models/churn%2f:predict",
        "//health",
    ):
        assert plane.call("GET", path).status_code == 404


def test_the_schema_lists_each_path_and_each_column(plane: Plane) -> None:
    document = plane.call("GET", "/openapi.json").json()
    listed = {(m.upper(), path) for path, methods in document["paths"].items() for m in methods}
    assert listed == {(m, path.format(name="churn", version="1")) for m, path, _ in ROUTES}
    row = document["components"]["schemas"]["churn.Row"]
    assert row["required"] == ["amount", "city"]
    assert row["properties"]["city"] == {"type": ["string", "null"], "description": "<b>where</b>"}
    page = plane.call("GET", "/docs").text
    assert "&lt;b&gt;where&lt;/b&gt;" in page
    assert "<script" not in page


def test_version_says_what_answers_and_who_approved_it(plane: Plane) -> None:
    (model,) = plane.call("GET", "/version").json()["models"]
    assert (model["model"], model["version"], model["approver"], model["code"]) == ("churn", "1", "bob", "abc")


def test_health_tells_alive_from_ready(make_plane: Callable[..., Plane]) -> None:
    plane = make_plane()
    assert [plane.call("GET", p).status_code for p in ("/health/live", "/health/ready", "/ping")] == [200, 503, 503]
    plane.add("churn")
    assert [plane.call("GET", p).status_code for p in ("/health/live", "/health/ready", "/ping")] == [200, 200, 200]
    assert plane.call("GET", "/health").json() == {
        "status": "ok",
        "models": {"churn": {"version": "1", "status": "ok"}},
    }


def test_metrics_count_requests_by_status_and_predictions(plane: Plane) -> None:
    for _ in range(3):
        plane.call("POST", PATH, json={"instances": [ROW, ROW]})
    plane.call("POST", PATH, content=b"{")
    plane.call("GET", "/nowhere-" + "x" * 50)
    text = plane.call("GET", "/metrics").text
    assert 'mainspring_requests_total{code="200",model="churn",version="1"} 3.0' in text
    assert 'mainspring_requests_total{code="400",model="churn",version="1"} 1.0' in text
    assert 'mainspring_predictions_total{model="churn",version="1"} 6.0' in text
    assert 'mainspring_request_seconds_bucket{le="+Inf",model="churn",version="1"} 4.0' in text
    assert 'mainspring_model_live{model="churn",version="1"} 1.0' in text
    assert 'prediction_log_dropped_total{model="churn"} 0.0' in text
    assert "nowhere" not in text


def test_series_do_not_grow_with_versions(plane: Plane) -> None:
    for version in range(2, 30):
        plane.add("churn", version=version)
        plane.call("POST", PATH, json={"instances": [ROW]})
    text = plane.call("GET", "/metrics").text
    assert len(set(re.findall(r'model="churn",version="(\d+)"', text))) == 3


def test_an_answer_may_wait_for_the_disk(plane: Plane) -> None:
    assert plane.call("POST", f"{PATH}?durable=true", json={"instances": [ROW]}).status_code == 200


@pytest.mark.parametrize("wish", ["1", "yes", "True", "", "true&durable=false"])
def test_a_wish_for_the_disk_is_kept_or_refused(plane: Plane, wish: str) -> None:
    answer = plane.call("POST", f"{PATH}?durable={wish}", json={"instances": [ROW]})
    assert (answer.status_code, answer.json()["hint"]) == (400, "?durable=true")


def test_a_full_disk_stops_only_answers_that_asked_for_it(plane: Plane) -> None:
    folder = plane.home / "log" / "p"
    folder.mkdir(parents=True)
    (folder / "churn").write_text("not a folder")
    assert plane.call("POST", PATH, json={"instances": [ROW]}).status_code == 200
    durable = plane.call("POST", f"{PATH}?durable=true", json={"instances": [ROW]})
    assert (durable.status_code, durable.headers["retry-after"]) == (503, "1")
    assert 'prediction_log_dropped_total{model="churn"} 3.0' in plane.call("GET", "/metrics").text


def test_labels_are_checked_and_kept(plane: Plane, clock: FixedClock) -> None:
    answer = plane.call("POST", PATH, json={"instances": [ROW]}).json()
    labels = [{"prediction_id": answer["prediction_id"], "label": "yes"}, {"key": {"card": "c1"}, "label": "no"}]
    assert plane.call("POST", "/v1/labels", json={"labels": labels}).json() == {"accepted": 2}
    stored = read_labels(plane.home, "p", "churn")
    assert stored["label"].to_list() == ["yes", "no"]
    assert stored["arrived_at"].to_list() == [clock.now()] * 2
    assert 'mainspring_labels_total{model="churn"} 2.0' in plane.call("GET", "/metrics").text


@pytest.mark.parametrize(
    ("label", "pointer"),
    [
        ({"prediction_id": "x", "label": "secret"}, "/labels/0/label"),
        ({"prediction_id": "x", "label": 1}, "/labels/0/label"),
        ({"key": {"secret": 1}, "label": "yes"}, "/labels/0/key"),
        ({"label": "yes"}, "/labels/0"),
    ],
)
def test_a_wrong_label_is_refused_and_none_is_kept(plane: Plane, label: dict[str, Any], pointer: str) -> None:
    good = {"prediction_id": "x", "label": "yes"}
    answer = plane.call("POST", "/v1/labels", json={"labels": [label, good]})
    assert (answer.status_code, answer.json()["pointer"]) == (422, pointer)
    assert "secret" not in answer.text
    assert read_labels(plane.home, "p", "churn").is_empty()


def test_a_large_request_and_a_slow_model_are_answered_off_the_event_loop(plane: Plane) -> None:
    seen = set()

    def where(columns: Any, n: int) -> np.ndarray:
        seen.add(threading.current_thread() is threading.main_thread())
        return np.ones(n)

    plane.add("churn", function=where, version=2)
    plane.call("POST", PATH, json={"instances": [ROW]})
    assert seen == {True}
    plane.call("POST", PATH, json={"instances": [{**ROW, "city": "x" * 70_000}]})
    assert seen == {True, False}

    def slow(columns: Any, n: int) -> np.ndarray:
        time.sleep(0.03)
        return where(columns, n)

    plane.add("churn", function=slow, version=3)
    plane.call("POST", PATH, json={"instances": [ROW]})
    seen.clear()
    plane.call("POST", PATH, json={"instances": [ROW]})
    assert seen == {False}
