"""Tracked links and the pixel: what is not a link that may be tracked stays octet for octet."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline_common import ids, tracking
from paceline_common.templates import FIRST_WAYS, MissingVariable
from paceline_sender.domain import links, render, signature
from paceline_sender.domain.render import Sources

UNSUBSCRIBE = "https://mail.example/u/ws.job.mac"


@pytest.mark.parametrize(
    ("source", "targets"),
    [
        ('<a href="https://acme.com/x?a=1&amp;b=2">x</a>', ["https://acme.com/x?a=1&b=2"]),
        ("<A HREF='http://acme.com'>x</A>", ["http://acme.com"]),
        ("<a class=x href=https://acme.com/y>x</a>", ["https://acme.com/y"]),
        ('<a\n  href = "https://acme.com"\n>x</a>', ["https://acme.com"]),
        ('<a data-href="https://no.com" href="https://yes.com">x</a>', ["https://yes.com"]),
        ('<a title="> href=https://no.com" href="https://yes.com">x</a>', ["https://yes.com"]),
        ('<a href="https://a.com">1</a><a href="https://a.com">2</a>', ["https://a.com"]),
        ('<map><area href="https://a.com"></map>', ["https://a.com"]),
        (f'<a href="{UNSUBSCRIBE}">x</a>', []),
        (f'<a href="{UNSUBSCRIBE}?lang=de">x</a>', []),
        ('<a href="https://acme.com/Unsubscribe?x=1">x</a>', []),
        ('<a href="https://acme.com/x?action=opt-out">x</a>', []),
        ('<a href="mailto:a@b.test">x</a><a href="tel:1">y</a><a href="#z">z</a>', []),
        ('<a href="javascript:alert(1)">x</a>', []),
        ('<a href="https://acme.com/a b">x</a>', []),
        ('<a href="https://acme.com/ü">x</a>', []),
        ('<a href="https:///x">x</a>', []),
        ('<!-- <a href="https://a.com">x</a> --><script>"<a href=https://b.com>"</script>', []),
        ("<a>x</a><a href>y</a>", []),
        ('<img src="https://a.com/i.png">', []),
    ],
)
def test_links_that_may_be_tracked(source: str, targets: list[str]) -> None:
    assert list(links.trackable(source, UNSUBSCRIBE)) == targets


def test_only_the_targets_change() -> None:
    source = (
        '<p>Ä &amp; <a class="b" href=\'https://a.com/?x=1&amp;y=2\' title="t">one</a>\n'
        f'<a href="{UNSUBSCRIBE}">out</a> <a href="https://b.com">two</a></p>'
    )
    made = links.redirected(source, {"https://a.com/?x=1&y=2": "https://t.one/t/c/1&2"}, None)
    assert made == source.replace("'https://a.com/?x=1&amp;y=2'", '"https://t.one/t/c/1&amp;2"')


def test_the_pixel_is_the_last_thing_of_the_body() -> None:
    pixel = '<img src="https://t.one/p" width="1" height="1" alt="">'
    assert links.redirected("<body>x</BODY></html>", {}, "https://t.one/p") == (
        f"<body>x{pixel}</BODY></html>"
    )
    assert links.redirected("x", {}, "https://t.one/p") == f"x{pixel}"


fragments = st.sampled_from(
    ["<a href='https://a.com'>", "<a href=https://b.com x>", "</a>", "text ", "<", ">", '"', "'",
     "<!--", "-->", "<p", "&amp;", "\n", "<a ", "href=", "</body>", "<script>", "</script>", "ü"]
)  # fmt: skip


@settings(deadline=None)
@given(st.lists(fragments, max_size=15).map("".join))
def test_without_targets_nothing_changes(source: str) -> None:
    assert links.redirected(source, {}, None) == source


@settings(deadline=None)
@given(st.lists(fragments, max_size=15).map("".join))
def test_rewritten_links_lead_where_they_should_and_back(source: str) -> None:
    found = links.trackable(source, UNSUBSCRIBE)
    there = {url: f"https://t.one/{n}" for n, url in enumerate(found)}
    made = links.redirected(source, there, None)
    assert links.trackable(made, UNSUBSCRIBE) == tuple(there.values())


WS, JOB = ids.encode("ws", 3), ids.encode("job", 9)


@settings(deadline=None)
@given(
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=100),
    st.integers(1, tracking.MAX_LINKS),
)
def test_a_links_token_reads_back(path: str, number: int) -> None:
    target = f"https://acme.com/{path}"
    token = tracking.click_token(WS, JOB, number, target)
    url = tracking.click_url("t.one", token, "1." + "A" * 43)
    link = tracking.read_click(url.rpartition("/")[2])
    assert link is not None
    assert (link.workspace_id, link.job_id, link.number, link.target) == (3, 9, number, target)
    assert link.signed == tracking.click_mac_input(token)
    assert link.mac == "1." + "A" * 43


@pytest.mark.parametrize(
    "text",
    ["", "a.b.c", f"{WS}.{JOB}.1.!!.1.x", f"{WS}.{JOB}.0.aHR0cDovL2EuYg.1.x",
     f"{WS}.{JOB}.1.amF2YXNjcmlwdDphbGVydCgxKQ.1.x", f"{WS}.{JOB}.1234.aHR0cDovL2EuYg.1.x",
     f"{JOB}.{WS}.1.aHR0cDovL2EuYg.1.x", f"{WS}.{JOB}.1.aHR0cDovL2EuYg"],
)  # fmt: skip
def test_what_is_no_token_is_not_read(text: str) -> None:
    assert tracking.read_click(text) is None


def test_an_opens_token_reads_back() -> None:
    url = tracking.open_url("t.one", tracking.open_token(WS, JOB), "1.mac")
    link = tracking.read_open(url.rpartition("/")[2])
    assert link is not None
    assert (link.workspace_id, link.job_id, link.number, link.target) == (3, 9, 0, None)
    assert link.signed == f"open/{WS}.{JOB}".encode()
    assert tracking.read_open("x.y") is None


# ---- the signature


@pytest.mark.parametrize(
    ("given_", "made"),
    [
        (("Hi", "<p>Hi</p>", None, None), ("Hi", "<p>Hi</p>")),
        (("Hi\n", None, "Ann", None), ("Hi\n\n-- \nAnn\n", None)),
        (
            ("Hi", "<body><p>Hi</p></body>", "Ann\n<One>", None),
            (
                "Hi\n\n-- \nAnn\n<One>\n",
                "<body><p>Hi</p><br><br><div>Ann<br>&lt;One&gt;</div></body>",
            ),
        ),
        (("Hi", "Hi", None, "<b>Ann</b>"), ("Hi", "Hi<br><br><div><b>Ann</b></div>")),
        ((None, "Hi", "Ann", "<b>Ann</b>"), (None, "Hi<br><br><div><b>Ann</b></div>")),
    ],
)
def test_a_signature_stands_below_the_body(
    given_: tuple[str | None, str | None, str | None, str | None],
    made: tuple[str | None, str | None],
) -> None:
    assert signature.placed(*given_) == made


URL = "https://mail.example/u/ws_1.job_2.1.mac"


@pytest.mark.parametrize(
    ("text", "made"),
    [
        (f"Hi\n\nLeave: {URL}\n", f"Hi\n\n-- \nAnn\n\nLeave: {URL}\n"),
        (f"Hi\n\nNot for you?\n{URL}\n\n", f"Hi\n\n-- \nAnn\n\nNot for you?\n{URL}\n"),
        (f"Leave: {URL}\n\nHi\n", f"Leave: {URL}\n\nHi\n\n-- \nAnn\n"),
        (f"Hi, leave: {URL}", f"Hi, leave: {URL}\n\n-- \nAnn\n"),
    ],
)
def test_a_signature_stands_above_the_line_to_unsubscribe_by(text: str, made: str) -> None:
    assert signature.placed(text, None, "Ann", None, unsubscribe_url=URL) == (made, None)


LINK = f'<a href="{URL}">Leave</a>'


@pytest.mark.parametrize(
    ("html", "made"),
    [
        (f"<p>Hi</p><p>{LINK}</p>", f"<p>Hi</p><div>Ann</div><br><p>{LINK}</p>"),
        (
            f"<body><P>Hi</P><Div>Not you? {LINK}</Div> </body>",
            f"<body><P>Hi</P><div>Ann</div><br><Div>Not you? {LINK}</Div> </body>",
        ),
        (f"<div>Hi<br>{LINK}</div>", f"<div>Hi<br>{LINK}</div><br><br><div>Ann</div>"),
        (f"<p>{LINK}</p><p>Hi</p>", f"<p>{LINK}</p><p>Hi</p><br><br><div>Ann</div>"),
        (f"Hi {LINK}", f"Hi {LINK}<br><br><div>Ann</div>"),
    ],
)
def test_a_signature_stands_above_the_block_to_unsubscribe_by(html: str, made: str) -> None:
    assert signature.placed(None, html, None, "Ann", unsubscribe_url=URL) == (None, made)


@pytest.mark.parametrize("signed", ["Ann & Co", None])
def test_a_signature_stands_where_the_template_says_and_there_only(signed: str | None) -> None:
    text, html = "Hi\n{{ signature }}\nBye", "<p>{{signature}}</p>{% if no %}{% endif %}"
    assert signature.is_named(text)
    assert signature.is_named(html)
    assert not signature.is_named("{{ signature_line }} signature {{ a.signature }}")
    made = render.render(Sources("s", text, html), {}, FIRST_WAYS, FIRST_WAYS)
    assert signature.placed(made.text, made.html, signed, None, named=(True, True)) == (
        ("Hi\nAnn & Co\nBye", "<p>Ann &amp; Co</p>") if signed else ("Hi\n\nBye", "<p></p>")
    )


def test_a_signature_that_the_template_hides_stands_nowhere() -> None:
    hidden = render.render(
        Sources("s", "Hi{% if no %}{{ signature }}{% endif %}", None), {}, FIRST_WAYS, FIRST_WAYS
    )
    assert signature.placed(hidden.text, None, "Ann", None, named=(True, False)) == ("Hi", None)


def test_a_subject_has_no_signature() -> None:
    with pytest.raises(MissingVariable):
        render.render(Sources("{{ signature }}", "Hi", None), {}, FIRST_WAYS, FIRST_WAYS)
