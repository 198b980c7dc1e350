"""Requests are read strictly by the signature, in every protocol, and no value sent comes back in an error."""

import json
import math
from collections.abc import Callable
from datetime import datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainspring.core.schema import Column, Schema, Signature
from mainspring.serving.protocol import BadRequest, Batch, RequestParser

SIGNATURE = Signature(
    inputs=Schema(
        (
            Column("amount", "float64", nullable=False),
            Column("age", "int64", nullable=True),
            Column("count", "int64", nullable=False),
            Column("vip", "bool", nullable=False),
            Column("a/b.[0] ~c", "string", nullable=True),
            Column("at", "datetime", nullable=False),
            Column("day", "date", nullable=True),
        )
    ),
    task="binary",
    classes=("no", "yes"),
    positive="yes",
    extras=Schema((Column("card", "string"), Column("seen", "datetime"))),
)
ROW = {
    "amount": 12.5,
    "age": None,
    "count": 3,
    "vip": True,
    "a/b.[0] ~c": "x",
    "at": "2026-01-01T10:00:00+02:00",
    "day": "2026-01-02",
}
FORMS = {
    "instances": lambda rows: {"instances": rows},
    "inputs": lambda rows: {"inputs": {name: [row[name] for row in rows] for name in rows[0]}},
    "dataframe_records": lambda rows: {"dataframe_records": rows},
    "dataframe_split": lambda rows: {
        "dataframe_split": {"columns": list(rows[0]), "data": [list(row.values()) for row in rows]}
    },
}
parser = RequestParser(SIGNATURE, max_rows=100)


def parse(document: object, form: str = "instances") -> Batch:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return parser.v1(body) if form in ("instances", "inputs") else parser.invocations(body, "application/json")


def refusal(document: object, form: str = "instances") -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        parse(document, form)
    return caught.value


def with_value(name: str, value: object) -> dict[str, object]:
    return {"instances": [ROW, {**ROW, name: value}]}


@pytest.mark.parametrize("form", FORMS)
def test_every_json_form_gives_the_same_columns(form: str) -> None:
    rows = [ROW, {**ROW, "age": 40, "a/b.[0] ~c": None, "day": None}]
    batch = parse(FORMS[form](rows), form)
    assert batch.n == 2
    assert [batch.columns[name].dtype.str for name in ROW] == ["<f8", "<f8", "<i8", "|b1", "|O", "<M8[us]", "<M8[us]"]
    assert batch.columns["amount"].tolist() == [12.5, 12.5]
    assert math.isnan(batch.columns["age"][0])
    assert batch.columns["age"][1] == 40
    assert batch.columns["a/b.[0] ~c"].tolist() == ["x", None]
    assert batch.columns["at"].tolist() == [datetime(2026, 1, 1, 8)] * 2
    assert np.isnat(batch.columns["day"][1])


def test_rows_may_be_lists_in_the_order_of_the_signature() -> None:
    batch = parse({"instances": [list(ROW.values())]})
    assert batch.columns["count"].tolist() == [3]


def test_extras_are_kept_apart_and_may_be_absent() -> None:
    batch = parse({"instances": [{**ROW, "card": "c1"}, ROW]})
    assert batch.extras == {"card": ["c1", None]}
    assert set(batch.columns) == set(ROW)
    assert parse({"instances": [ROW]}).extras == {}


@pytest.mark.parametrize(
    ("name", "value", "pointer"),
    [
        ("amount", "12.5", "/instances/1/amount"),
        ("amount", None, "/instances/1/amount"),
        ("amount", True, "/instances/1/amount"),
        ("amount", [1.0], "/instances/1/amount"),
        ("count", 1.0, "/instances/1/count"),
        ("count", 2**63, "/instances/1/count"),
        ("count", True, "/instances/1/count"),
        ("age", "forty", "/instances/1/age"),
        ("vip", 1, "/instances/1/vip"),
        ("vip", "secret-value", "/instances/1/vip"),
        ("a/b.[0] ~c", 5, "/instances/1/a~1b.[0] ~0c"),
        ("at", "yesterday", "/instances/1/at"),
        ("at", 1700000000, "/instances/1/at"),
        ("at", "0001-01-01T00:00:00+23:00", "/instances/1/at"),
        ("day", "2026-02-30", "/instances/1/day"),
        ("card", 7, "/instances/1/card"),
    ],
)
def test_a_wrong_value_is_refused_at_its_pointer_and_not_repeated(name: str, value: object, pointer: str) -> None:
    error = refusal(with_value(name, value))
    assert (error.status, error.pointer) == (422, pointer)
    assert name in error.message
    assert "secret" not in str(error)
    assert "yesterday" not in str(error)
    assert "forty" not in str(error)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b'{"instances":[NaN]}', 400),
        (b"\xff", 400),
        (b'{"instances":"\\ud800"}', 400),
        (b"[" * 100_000, 400),
        (b'{"a":' * 5_000 + b"1" + b"}" * 5_000, 400),
        (b"[]", 422),
        (b"null", 422),
        (b"{}", 422),
        (b'{"instances":[]}', 422),
        (b'{"instances":{}}', 422),
        (b'{"instances":[1]}', 422),
        (b'{"instances":null}', 422),
        (b'{"instances":[{}]}', 422),
        (b'{"inputs":{}}', 422),
        (b'{"inputs":{"amount":1}}', 422),
        (b'{"inputs":[]}', 422),
        (b'{"instances":[[1]],"inputs":{}}', 422),
        (b'{"instances":[{"amount":1e400}]}', 422),
        (b'{"instances":[' + b"9" * 5_000 + b"]}", 422),
        (b'{"instances":[[],{}]}', 422),
        (b'{"instances":[{},[]]}', 422),
    ],
)
def test_a_body_that_is_not_a_request_is_a_client_error(body: bytes, status: int) -> None:
    assert refusal(body).status == status


def test_a_repeated_key_is_refused_wherever_it_stands() -> None:
    body = json.dumps({"instances": [ROW]})
    for twice in (
        body.replace('"count": 3', '"count": 3, "count": 4'),
        body[:-1] + f', "instances": [{json.dumps(ROW)}]}}',
    ):
        error = refusal(twice.encode())
        assert "repeats the key" in error.message
    assert "'count'" in refusal(body.replace('"count": 3', '"c\\u006funt": 3, "count": 4').encode()).message


def test_colons_and_quotes_in_text_are_not_taken_for_keys() -> None:
    text = 'a:"b":\\" : {"count": 1}'
    assert parse({"instances": [{**ROW, "a/b.[0] ~c": text}]}).columns["a/b.[0] ~c"].tolist() == [text]


def test_unknown_and_missing_columns_name_the_row_and_not_what_was_sent() -> None:
    error = refusal({"instances": [{**ROW, "amoumt": "jane@example.org"}]})
    assert error.pointer == "/instances/0"
    assert 'the nearest name is "amount"' in error.message
    assert "jane" not in str(error)
    assert "amoumt" not in str(error)
    missing = {name: value for name, value in ROW.items() if name != "vip"}
    assert "'vip' is missing" in refusal({"instances": [missing]}).message


def test_too_many_rows_are_refused_as_too_large() -> None:
    for form in ("instances", "inputs", "dataframe_records"):
        error = refusal(FORMS[form]([ROW] * 101), form)
        assert error.status == 413


def test_a_parameter_that_would_have_no_effect_is_refused() -> None:
    assert parse({"instances": [ROW], "parameters": {}}).n == 1
    assert refusal({"instances": [ROW], "parameters": {"top": 3}}).status == 422


def test_csv_is_read_by_the_signature() -> None:
    names = ",".join(f'"{name}"' for name in ROW)
    good = f'{names}\r\n12.5,,3,true,"x, y",2026-01-01T08:00:00Z,2026-01-02\r\n'.encode()
    batch = parser.invocations(good, "text/csv; charset=utf-8")
    assert batch.columns["a/b.[0] ~c"].tolist() == ["x, y"]
    assert math.isnan(batch.columns["age"][0])
    for cell in ("nan", "inf", "1e999", "12,5", "0x1p3", " "):
        with pytest.raises(BadRequest) as caught:
            parser.invocations(good.replace(b"12.5", f'"{cell}"'.encode()), "text/csv")
        assert caught.value.pointer == "/1/0"
    with pytest.raises(BadRequest) as caught:
        parser.invocations(good, "application/xml")
    assert caught.value.status == 415


def tensor(name: str, datatype: str, data: list[object], shape: list[int] | None = None) -> dict[str, object]:
    return {"name": name, "datatype": datatype, "shape": shape or [len(data)], "data": data}


V2 = [
    tensor("amount", "FP64", [1.5, 2]), tensor("age", "INT64", [None, 4]), tensor("count", "INT32", [[1], [2]], [2, 1]),
    tensor("vip", "BOOL", [True, False]), tensor("a/b.[0] ~c", "BYTES", ["x", "y"]),
    tensor("at", "BYTES", ["2026-01-01T00:00:00Z"] * 2), tensor("day", "BYTES", ["2026-01-01"] * 2),
]  # fmt: skip


def test_v2_takes_one_tensor_per_column() -> None:
    batch = parser.v2(json.dumps({"id": "q1", "inputs": V2, "outputs": [{"name": "label"}]}).encode())
    assert (batch.n, batch.request_id, batch.outputs) == (2, "q1", ("label",))
    assert batch.columns["count"].tolist() == [1, 2]
    assert batch.columns["amount"].tolist() == [1.5, 2.0]


@pytest.mark.parametrize(
    ("index", "change", "pointer"),
    [
        (0, {"datatype": "BYTES"}, "/inputs/0/datatype"),
        (2, {"datatype": "FP64"}, "/inputs/2/datatype"),
        (1, {"shape": [3]}, "/inputs/1/shape"),
        (1, {"data": [1]}, "/inputs/1/data"),
        (0, {"data": [1.5, "secret"]}, "/inputs/0/data/1"),
        (3, {"shape": [-2]}, "/inputs/3/shape/0"),
        (3, {"parameters": {"binary_data_size": 4}}, "/inputs/3/parameters"),
        (4, {"name": "other"}, "/inputs"),
    ],
)
def test_v2_points_at_the_tensor_that_is_wrong(index: int, change: dict[str, object], pointer: str) -> None:
    inputs = [{**tensor, **change} if i == index else tensor for i, tensor in enumerate(V2)]
    with pytest.raises(BadRequest) as caught:
        parser.v2(json.dumps({"inputs": inputs}).encode())
    assert (caught.value.status, caught.value.pointer) == (422, pointer)
    assert "secret" not in str(caught.value)


def test_v2_takes_one_matrix_of_a_numeric_model() -> None:
    numeric = RequestParser(
        Signature(Schema((Column("a", "float64", nullable=False), Column("b", "float64"))), task="regression")
    )
    for data in ([1, 2, 3, 4], [[1, 2], [3, 4]]):
        batch = numeric.v2(json.dumps({"inputs": [tensor("input-0", "FP32", data, [2, 2])]}).encode())
        assert batch.columns["b"].tolist() == [2, 4]
    with pytest.raises(BadRequest):
        numeric.v2(json.dumps({"inputs": [tensor("input-0", "FP32", [1, 2, 3], [2, 2])]}).encode())
    with pytest.raises(BadRequest):
        numeric.v2(json.dumps({"inputs": [tensor("input-0", "FP32", [], [0, 2])]}).encode())


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5), st.just("2026-01-01T00:00:00Z"), st.just("2026-01-01"), st.lists(st.integers(), max_size=2),
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys([*ROW, "card", "zz"], VALUES)), max_size=3))
def test_rows_mean_the_same_to_the_fast_path_and_to_the_general_path(changes: list[dict[str, object]]) -> None:
    rows = [{**ROW, **change} for change in changes]
    fast = outcome(lambda: parse({"instances": rows}))
    general = outcome(lambda: parse({"dataframe_records": rows}, "dataframe_records"))
    np.testing.assert_equal(fast, general)


def outcome(read: Callable[[], Batch]) -> object:
    try:
        batch = read()
    except BadRequest as error:
        return error.message
    return batch.columns, batch.extras


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_body_breaks_the_parser(body: bytes) -> None:
    for read in (parser.v1, parser.v2, lambda b: parser.invocations(b, "text/csv")):
        with pytest.raises(BadRequest):
            read(body)
