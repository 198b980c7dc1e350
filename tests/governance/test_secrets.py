from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.core.errors import Invalid, NotFound
from mainspring.governance.secrets import holds_secret, mask, resolve

SAMPLES = {
    "aws": "id AKIAIOSFODNN7EXAMPLE here",
    "pem": "-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc\n-----END RSA PRIVATE KEY-----",
    "github": "ghp_" + "a1" * 18,
    "slack": "xoxb-1234567890-abcdef",
    "webhook": "https://hooks.slack.com/services/T0/B0/xyz",
    "url": "postgresql://ann:hunter2@db/x",
    "named": 'AWS_SECRET_ACCESS_KEY="wJalrXUtnFEMI"',
    "own": "ms_" + "a" * 10 + "_" + "b" * 40 + "0123abcd",
    "jwt": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmN",
}


def test_a_reference_gives_the_variable_or_the_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("hunter2\n")
    assert resolve("secret://env/KEY", environment={"KEY": "hunter2"}) == "hunter2"
    assert resolve(f"secret://file{tmp_path}/key") == "hunter2"


@pytest.mark.parametrize("text", ["hunter2", "secret://", "secret://vault/x", "secret://env/", "env://X"])
def test_what_is_no_reference_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(Invalid) as caught:
        resolve(text, environment={})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("text", ["secret://env/NOT_SET", "secret://file/no/such/file"])
def test_a_secret_that_is_not_there_is_named(text: str) -> None:
    with pytest.raises(NotFound, match=r"NOT_SET|/no/such/file"):
        resolve(text, environment={})


@pytest.mark.parametrize("name", SAMPLES)
def test_what_looks_like_a_secret_is_masked(name: str) -> None:
    text = SAMPLES[name]
    assert holds_secret(text)
    for part in ("AKIAIOSFODNN7EXAMPLE", "MIIE", "a1a1", "xoxb", "hooks.slack", "hunter2", "wJalr", "bbbb", "dozj"):
        assert part not in mask(text)


@pytest.mark.parametrize("text", ["the secret: ", "mean_amount_7d", "sha256:" + "0" * 64, "token=secret://env/KEY"])
def test_what_is_no_secret_stays(text: str) -> None:
    assert mask(text) == text


@given(st.text(max_size=200))
def test_masking_twice_changes_nothing_more(text: str) -> None:
    assert mask(mask(text)) == mask(text)
