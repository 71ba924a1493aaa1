"""One spelling per address, and hashes that follow it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline_common.address import (
    AddressHasher,
    InvalidAddress,
    normalise,
    normalise_domain,
    without_addresses,
)

KEY = bytes(range(32))

_LABELS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
_DOMAINS = st.lists(_LABELS, min_size=2, max_size=4).map(".".join)
_LOCALS = st.from_regex(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}", fullmatch=True)


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("Ann.Lee@Example.COM", "ann.lee@example.com"),
        ("  ann@example.com\n", "ann@example.com"),
        ("ann@example.com.", "ann@example.com"),
        ("ann+tag@example.com", "ann+tag@example.com"),
        ("ann@bücher.example", "ann@xn--bcher-kva.example"),
        ("ann@BÜCHER.example", "ann@xn--bcher-kva.example"),
        ("ann@XN--BCHER-KVA.example", "ann@xn--bcher-kva.example"),
        ("ann@straße.example", "ann@xn--strae-oqa.example"),
        ("ann@例え。テスト", "ann@xn--r8jz45g.xn--zckzah"),
        ("ANDRE\u0301@example.com", "andr\u00e9@example.com"),
        ("o'neil@mail_host.example", "o'neil@mail_host.example"),
        ("ann@localhost", "ann@localhost"),
    ],
)
def test_an_address_has_one_spelling(written: str, normal: str) -> None:
    assert normalise(written) == normal


@pytest.mark.parametrize(
    "text",
    [
        "", "@", "zoe", "zoe@", "@example.com", "zoe@@example.com", "a@b@example.com",
        '"a@b"@example.com', "an n@example.com", "zoe@exa mple.com", "zoe\x00@example.com",
        "zoe\u200b@example.com", "zoe@example..com", "zoe@.example.com", "zoe@-example.com",
        "zoe@example-.com", "zoe@[192.0.2.1]", "zoe@exam\u200bple..com", "zoe@\u0300x.com",
        "a" * 65 + "@example.com", "zoe@" + "a" * 64 + ".com", "zoe@" + "a." * 127 + "com",
        "zoe@example.com, bob@example.com", "Zoe <zoe@example.com>", "zoe@exa\r\nmple.com",
    ],
)  # fmt: skip
def test_what_czoeot_be_an_address_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(InvalidAddress) as refused:
        normalise(text)
    assert "zoe" not in str(refused.value)


@given(st.text(max_size=80), st.text(max_size=80))
def test_normal_form_is_stable_for_any_text(local: str, domain: str) -> None:
    try:
        once = normalise(f"{local}@{domain}")
    except InvalidAddress:
        return
    assert normalise(once) == once
    assert once.count("@") == 1
    assert once.rpartition("@")[2].isascii()
    assert not any(char.isspace() for char in once)


@given(_LOCALS, _DOMAINS)
def test_case_space_and_a_final_dot_change_nothing(local: str, domain: str) -> None:
    hasher = AddressHasher(KEY)
    wanted = hasher.address(f"{local}@{domain}")
    for spelling in (f"{local.upper()}@{domain.upper()}", f" {local}@{domain}.\t"):
        assert hasher.address(spelling) == wanted
        assert hasher.domain(spelling) == hasher.domain(domain)


@given(_LOCALS, _LOCALS, _DOMAINS)
def test_different_mailboxes_have_different_hashes(one: str, two: str, domain: str) -> None:
    hasher = AddressHasher(KEY)
    same = one.lower() == two.lower()
    assert (hasher.address(f"{one}@{domain}") == hasher.address(f"{two}@{domain}")) is same


def test_the_hash_is_keyed_and_knows_addresses_from_domains() -> None:
    hasher = AddressHasher(KEY)
    assert len(hasher.address("ann@example.com")) == 32
    assert len(hasher.domain("example.com")) == 32
    assert hasher.address("ann@example.com") != AddressHasher(KEY[::-1]).address("ann@example.com")
    assert hasher.address("ann@example.com") != hasher.domain("ann@example.com")
    # Rows hold these for ever: the construction must never change.
    assert hasher.address("Ann@example.com").hex() == (
        "2953cf237353214b9a262e370af14b8959bdd32724706208cbe7c5ad20c0dadc"
    )
    assert hasher.domain("bücher.example") == hasher.domain("xn--bcher-kva.example")


def test_a_short_key_is_refused() -> None:
    with pytest.raises(ValueError):
        AddressHasher(b"short")


@pytest.mark.parametrize("domain", ["", ".", "a..b", "exa mple.com", "x" * 64, "ann@example.com"])
def test_what_cannot_be_a_domain_is_refused(domain: str) -> None:
    with pytest.raises(InvalidAddress):
        normalise_domain(domain)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("550 5.1.1 <bob@x.test>: no such user", "550 5.1.1 <address>: no such user"),
        ("535 ann.o'neil@mail.x.test denied", "535 <address> denied"),
        ('no (bob@x.test), no a@b; "c@d"', 'no (<address>), no <address>; "<address>"'),
        ("535 5.7.8 bad password", "535 5.7.8 bad password"),
    ],
)
def test_a_servers_words_are_told_without_addresses(words: str, told: str) -> None:
    assert without_addresses(words) == told
