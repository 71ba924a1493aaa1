"""The short way to judge a plain address gives what the library and `normalise` give."""

import idna
import pytest
from email_validator import EmailNotValidError
from hypothesis import example, given, settings
from hypothesis import strategies as st

from paceline_common.address import AddressHasher, InvalidAddress
from paceline_scheduler.recipient import Recipient, Recipients, judge

HASHER = AddressHasher(b"k" * 32)

_ATEXT = "abzAZ019!#$%&'*+/=?^_`{|}~-"
_LOCAL = st.one_of(
    st.lists(st.text(_ATEXT, min_size=1, max_size=20), min_size=1, max_size=4).map(".".join),
    st.sampled_from(["Info", "POSTMASTER", "a" * 64, "A" * 65, '"a b"', '"a"', "a..b", ".a", "a."]),
    st.text(_ATEXT + '."\\@<> é\u0301ß\u200b,;:()', max_size=6),
)
_LABEL = st.one_of(
    st.from_regex(r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,8}[a-zA-Z0-9])?", fullmatch=True),
    st.sampled_from(
        ["xn--bcher-kva", "XN--BCHER-KVA", "xn--", "xn--a", "bücher", "ab--cd", "a" * 63, "a" * 64,
         "test", "local", "example", "arpa", "com", "Onion", "1", "\u30c6\u30b9", "", "-a", "a_b"]
    ),
)  # fmt: skip
_END = st.sampled_from(["com", "COM", "test", "Test", "local", "org.", "arpa", "1", "xn--p1ai"])
_DOMAIN = st.one_of(
    st.tuples(st.lists(_LABEL, min_size=1, max_size=4).map(".".join), _END).map(".".join),
    st.text("aZ0-. [1]é\u3002@", max_size=12),
)
_EDGE = st.sampled_from(["", "", "", "", " ", "\t", "\r\n", "\u00a0", "<", ">"])
_AT = st.sampled_from(["@", "@", "@", "@", "", "@@", "\uff20"])
_SPELT = st.tuples(_EDGE, _LOCAL, _AT, _DOMAIN, _EDGE).map("".join)
# What A-labels stand for may be longer than they are.
_WIDE = idna.encode(".".join(["\u4f8b" * 38] * 2)).decode() + ".com"
_LONG = st.integers(1, 64).map(lambda n: f"{'b' * n}@{_WIDE.upper() if n % 2 else _WIDE}")


@settings(max_examples=2_000, deadline=None)
@given(st.one_of(_SPELT, _SPELT, _SPELT, _LONG, st.text(max_size=80)), st.booleans())
@example("Ann@Example.COM.", True)
@example("a@" + ".".join(["a" * 61] * 4) + ".com", True)
@example("a" * 64 + "@" + "a." * 94 + "c", True)
@example("a" * 64 + "@" + "a." * 94 + "cd", True)
def test_the_short_way_agrees_with_the_library(text: str, accept_test: bool) -> None:
    try:
        expected: str | None = judge(text.strip(), accept_test_domains=accept_test)
    except (EmailNotValidError, InvalidAddress):
        expected = None
    recipients = Recipients(HASHER, accept_test_domains=accept_test)
    # The second time the domain is known.
    for read in (recipients.read(text), recipients.read(text)):
        if expected is None:
            assert isinstance(read, str)
        else:
            assert read == Recipient(expected, HASHER.address(expected), HASHER.domain(expected))


@pytest.mark.parametrize(
    "text",
    ["zoe.example.org", "zoe@", "zoe@exa mple.org", "<zoe>@x.org", "zoe@x.test", "zoe@[::1]"],
)
def test_what_is_wrong_is_told_without_the_address(text: str) -> None:
    problem = Recipients(HASHER, accept_test_domains=False).read(text)
    assert isinstance(problem, str)
    assert problem
    assert "zoe" not in problem


def test_domains_are_judged_by_the_installations_setting() -> None:
    strict = Recipients(HASHER, accept_test_domains=False)
    lenient = Recipients(HASHER, accept_test_domains=True)
    assert isinstance(lenient.read("a@x.test"), Recipient)
    assert isinstance(strict.read("a@x.test"), str)
