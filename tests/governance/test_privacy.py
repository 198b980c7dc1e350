"""Personal data: what is dropped or hashed never comes back, what was overlooked is found."""

import hashlib
import stat
from datetime import date
from pathlib import Path

import polars as pl
import pytest

from mainspring.core.errors import Invalid, NotFound, Refused
from mainspring.governance.privacy import detect_personal, project_key, pseudonym, transform
from mainspring.store.workspace import Workspace

KEY = bytes(range(32))


def people() -> pl.DataFrame:
    return pl.DataFrame({"email": ["a@x.org", None, "a@x.org"], "card": [4, 5, 4], "amount": [1.0, 2.0, 3.0]})


def test_dropped_columns_are_gone_and_hashed_ones_keep_only_who_is_who() -> None:
    seen = transform(people(), {"email": "hash", "card": "drop"}, KEY)
    assert seen.columns == ["email", "amount"]
    first, missing, again = seen["email"]
    assert missing is None
    assert first == again == pseudonym("a@x.org", KEY)
    assert transform(people().with_columns(email=pl.lit(None)), {"email": "hash"}, KEY)["email"].to_list() == [None] * 3
    assert transform(people().clear(), {"email": "hash"}, KEY).height == 0
    assert len(first) == 32
    assert first != hashlib.sha256(b"a@x.org").hexdigest()[:32]


def test_a_pseudonym_is_the_same_in_every_table_of_a_project_and_another_with_another_key() -> None:
    other = pl.DataFrame({"sender": ["4", "9"]})
    linked = transform(other, {"sender": "hash"}, KEY)["sender"][0]
    assert transform(people(), {"card": "hash"}, KEY)["card"][0] == linked
    assert transform(other, {"sender": "hash"}, bytes(32))["sender"][0] != linked


def test_keep_changes_nothing_and_an_unknown_treatment_or_column_is_refused() -> None:
    assert transform(people(), {"email": "keep"}, KEY).equals(people())
    with pytest.raises(Invalid, match='nearest name is "hash"'):
        transform(people(), {"email": "hsh"}, KEY)
    with pytest.raises(NotFound, match='nearest name is "email"'):
        transform(people(), {"emial": "drop"}, KEY)


def test_a_project_has_one_key_that_only_its_owner_reads(local_workspace: Workspace) -> None:
    key = project_key(local_workspace, "fraud")
    assert key == project_key(local_workspace, "fraud")
    assert key != project_key(local_workspace, "churn")
    path = local_workspace.home / "keys" / "fraud.pii"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_bytes(b"short")
    with pytest.raises(Refused, match="damaged"):
        project_key(local_workspace, "fraud")


IBANS = ["DE89 3704 0044 0532 0130 00", "GB82WEST12345698765432", "FR1420041010050500013M02606"]
CARDS = ["4111 1111 1111 1111", "5500-0000-0000-0004", "340000000000009"]
PHONES = ["+49 30 901820", "(030) 90 18 20", "0171-2345678", "001 212 555 0100"]


@pytest.mark.parametrize(
    ("values", "what"),
    [
        (["ann@example.org", "Bob.Lee+x@mail.example.co.uk", "n/a"], "e-mail addresses"),
        (IBANS, "IBANs"),
        (CARDS, "card numbers"),
        (PHONES, "telephone numbers"),
        (["write to ann@example.org", "no answer", "thanks"], "e-mail addresses in its text"),
    ],
)
def test_personal_data_is_found_by_what_it_looks_like_and_never_shown(values: list[str], what: str) -> None:
    (finding,) = detect_personal(pl.DataFrame({"contact": values, "n": range(len(values))}))
    assert finding.column == "contact"
    assert what in finding.message
    assert not any(value in finding.message for value in values)
    assert detect_personal(pl.DataFrame({"contact": values}), {"contact": "keep"}) == ()


@pytest.mark.parametrize(
    "values",
    [
        ["DE89370400440532013001", "DE00370400440532013000"],
        ["4111111111111112", "5500000000000005"],
        ["2026-01-31", "2026-02-01 10:00:00"],
        ["31/12/2025", "01.02.2026"],
        ["192.168.10.12", "12.5", "7590-VHVEG"],
        ["1000000", "2000000"],
    ],
)
def test_what_only_resembles_personal_data_is_left_in_peace(values: list[str]) -> None:
    assert detect_personal(pl.DataFrame({"x": values})) == ()


def test_card_numbers_read_as_whole_numbers_are_found_and_ordinary_numbers_are_not() -> None:
    cards = [int(f"411111111111{n:04d}") for n in range(10000)]
    luhn = [card for card in cards if detect_personal(pl.DataFrame({"x": [str(card)]}))][:50]
    assert detect_personal(pl.DataFrame({"card": luhn}))[0].severity == "error"
    assert detect_personal(pl.DataFrame({"n": cards, "day": [date(2026, 1, 1)] * 10000})) == ()


def test_the_real_data_sets_hold_no_declared_person(data_dir: Path) -> None:
    for path in ("adult/adult.parquet", "bike_sharing/hour.parquet", "elec2/elec2.parquet"):
        assert detect_personal(pl.read_parquet(data_dir / path)) == ()
    for path in ("telco_churn/telco_customer_churn.csv.gz", "banking77/train.csv.gz"):
        assert detect_personal(pl.read_csv(data_dir / path, infer_schema_length=None)) == ()
