import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline_gateway.domain import apikey

secrets = st.binary(min_size=apikey.SECRET_BYTES, max_size=apikey.SECRET_BYTES)


@given(secrets)
def test_an_issued_key_is_well_formed(secret: bytes) -> None:
    key = apikey.issue(secret)
    assert key.startswith("pl_")
    assert apikey.is_well_formed(key)


@given(secrets, secrets)
def test_different_secrets_give_different_keys(one: bytes, other: bytes) -> None:
    assert (apikey.issue(one) == apikey.issue(other)) == (one == other)


@given(secrets, st.integers(0, 37), st.sampled_from("0123456789abcdefghjkmnpqrstvwxyz"))
def test_one_wrong_character_is_noticed(secret: bytes, place: int, character: str) -> None:
    key = apikey.issue(secret)
    body = key[3:]
    wrong = f"pl_{body[:place]}{character}{body[place + 1 :]}"
    assert apikey.is_well_formed(wrong) == (wrong == key)


@pytest.mark.parametrize("key", ["", "pl_", "sk_" + "0" * 38, "pl_" + "0" * 37, "pl_" + "U" * 38])
def test_other_texts_are_no_keys(key: str) -> None:
    assert not apikey.is_well_formed(key)


def test_a_key_needs_160_bits() -> None:
    with pytest.raises(ValueError, match="20 random bytes"):
        apikey.issue(b"short")


def test_only_a_hash_and_a_hint_are_kept() -> None:
    key = apikey.issue(bytes(range(20)))
    assert len(apikey.digest(key)) == 32
    assert apikey.hint(key) == key[:11]


@pytest.mark.parametrize(
    ("scopes", "needed", "allowed"),
    [
        ({"write"}, "read", True),
        ({"write"}, "enroll", True),
        ({"read"}, "read", True),
        ({"read"}, "write", False),
        ({"read"}, "enroll", False),
        ({"enroll"}, "read", False),
        (set(), "read", False),
    ],
)
def test_scopes(scopes: set[str], needed: str, allowed: bool) -> None:
    assert apikey.allows(frozenset(scopes), needed) is allowed
