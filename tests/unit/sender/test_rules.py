"""Retry, clock, conversation, templates and decisions of the sender."""

import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline_common.templates import Occasion
from paceline_sender.domain import render, retry
from paceline_sender.domain.outcome import (
    Answer,
    App,
    Decision,
    History,
    Hold,
    Kind,
    OutcomeClass,
    decide,
    trim,
)
from paceline_sender.domain.render import MissingVariable, Sources, TemplateError
from paceline_sender.domain.schedule import CLAIM_AHEAD, ClockReading, PostgresClock

NOW = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)
RNG = random.Random(7)

# ---- retry


@settings(deadline=None)
@given(failures=st.integers(-3, 100), seed=st.integers())
def test_backoff_stays_within_a_fifth_of_its_table(failures: int, seed: int) -> None:
    wait = retry.backoff(failures, random.Random(seed))
    base = retry.BACKOFF[min(max(failures, 1), 7) - 1]
    assert base * 0.8 <= wait <= base * 1.2


def test_the_table_is_the_one_of_the_design() -> None:
    minutes = [wait.total_seconds() / 60 for wait in retry.BACKOFF]
    assert minutes == [5, 15, 30, 60, 120, 240, 480]


@settings(deadline=None)
@given(
    failures=st.integers(1, 40),
    age=st.timedeltas(timedelta(0), timedelta(hours=100)),
    seed=st.integers(),
)
def test_no_try_is_later_than_72_hours_after_the_first(
    failures: int, age: timedelta, seed: int
) -> None:
    first = NOW - age
    at = retry.retry_at(NOW, first, failures, random.Random(seed))
    if at is None:
        assert NOW + retry.BACKOFF[min(failures, 7) - 1] * 1.2 >= first + timedelta(hours=72)
    else:
        assert NOW < at < first + timedelta(hours=72)


def test_a_first_refusal_is_always_tried_again() -> None:
    assert retry.retry_at(NOW, None, 1, RNG) is not None


# ---- the slot's time on this process's clock

OFFSET = st.floats(-1e6, 1e6)
SECONDS = st.floats(0, 5)


@settings(deadline=None)
@given(offset=OFFSET, asked=st.floats(0, 1e6), there=SECONDS, back=SECONDS, slot=st.floats(-10, 60))
def test_mail_from_is_never_before_the_slot(
    offset: float, asked: float, there: float, back: float, slot: float
) -> None:
    """Whatever the clocks and the way there and back: at `reached` Postgres shows T or later."""

    def postgres(monotonic: float) -> datetime:
        return NOW + timedelta(seconds=monotonic + offset)

    answered = asked + there + back
    reading = ClockReading(postgres(asked + there), asked, answered)
    slot_at = reading.db_now + timedelta(seconds=slot)
    # Half a microsecond is what rounding to datetime's grain costs this test's own clock.
    assert postgres(reading.reached(slot_at)) >= slot_at - timedelta(microseconds=1)
    for later in (0.0, 0.3, 17.0):
        at = answered + later
        assert reading.latest(at) >= postgres(at) - timedelta(microseconds=1)


def test_the_best_reading_is_the_one_with_the_shortest_way() -> None:
    clock = PostgresClock(keep=2)
    good = ClockReading(NOW, 10.0, 10.001)
    bad = ClockReading(NOW, 11.0, 11.5)
    clock.learn(good)
    clock.learn(bad)
    assert clock.best is good
    clock.learn(bad)
    assert clock.best is bad


@settings(deadline=None)
@given(offset=st.floats(-1e5, 1e5), rtt=st.floats(0, 0.009), part=st.floats(0, 1))
def test_a_claim_is_asked_for_within_the_window(offset: float, rtt: float, part: float) -> None:
    """With a round trip below 9 ms a claim arrives neither before T - 50 ms nor after T."""
    asked = 100.0
    reading = ClockReading(NOW + timedelta(seconds=asked + rtt * part + offset), asked, asked + rtt)
    slot_at = NOW + timedelta(seconds=asked + 30 + offset)
    at = reading.estimate(slot_at - CLAIM_AHEAD)
    shown = NOW + timedelta(seconds=at + offset)
    assert timedelta(milliseconds=40) <= slot_at - shown <= timedelta(milliseconds=50)
    assert timedelta(milliseconds=50) > CLAIM_AHEAD


# ---- templates

LEAD = {"email": "bob@two.test", "first_name": "Bob", "last_name": None, "company": " "}


def values(**fields: str | None) -> dict[str, object]:
    return render.variables(
        LEAD,
        fields,
        sender_name="Ann",
        sender_email="ann@one.test",
        unsubscribe_url="https://mail.example/u/x",
    )


def test_a_template_is_filled_in() -> None:
    known = values(city="Bonn")
    assert render.fill("{{ first_name }} of {{ city }}, {{ sender.name }}", known) == (
        "Bob of Bonn, Ann"
    )


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("Hi {{ last_name }}", "last_name"),
        ("At {{ company }}", "company"),
        ("{{ hole }}", "hole"),
        ("{{ nothing }}", "nothing"),
        ("{{ sender.phone }}", "sender.phone"),
        ("{{ nothing | upcase }}", "nothing"),
        ("{% assign x = nothing %}{{ x }}", "nothing"),
        ("{% for x in nothing %}{% endfor %}", "nothing"),
    ],
)
def test_a_missing_variable_is_named_and_never_a_blank(source: str, name: str) -> None:
    with pytest.raises(MissingVariable) as caught:
        render.fill(source, values(hole=""))
    assert caught.value.name == name


def test_an_author_may_provide_for_a_missing_variable() -> None:
    source = '{{ last_name | default: "there" }}{% if company %} at {{ company }}{% endif %}'
    assert render.fill(source, values()) == "there"


def test_own_fields_cannot_shadow_standard_ones() -> None:
    known = values(email="evil@evil.test", sender="x", unsubscribe_url="y", first_name="Eve")
    assert known["email"] == "bob@two.test"
    assert known["first_name"] == "Bob"
    assert known["unsubscribe_url"] == "https://mail.example/u/x"


def test_html_values_are_escaped_and_text_is_not() -> None:
    known = values(note="<b>&</b>")
    assert render.fill("{{ note }}", known, html=True) == "&lt;b&gt;&amp;&lt;/b&gt;"
    assert render.fill("{{ note }}", known) == "<b>&</b>"


@settings(deadline=None)
@given(st.text(alphabet="{}%|ab \"'", max_size=40))
def test_a_value_is_never_read_as_a_template(value: str) -> None:
    if value.strip():
        assert render.fill("{{ note }}", values(note=value)) == value


@pytest.mark.parametrize(
    "source",
    [
        "{{ first_name",
        "{{ first_name | nofilter }}",
        "{% include 'x' %}",
        "{{ 1 | divided_by: 0 }}",
        "{% for i in (1..99999) %}x{% endfor %}",
    ],
)
def test_a_wrong_template_is_an_error_of_its_own(source: str) -> None:
    with pytest.raises(TemplateError):
        render.fill(source, values())


FIRST = Occasion(NOW, lambda _group, _ways: (0,))


def test_a_preview_lists_all_that_is_missing() -> None:
    sources = Sources("{{ last_name }}", "{{ a }} {{ first_name }} {{ sender.phone }}", None)
    shown = render.render(sources, values(), FIRST, FIRST, show_gaps=True)
    assert shown.missing == ("last_name", "a", "sender.phone")
    assert shown.subject == "[last_name]"
    assert shown.text == "[a] Bob [sender.phone]"


def test_what_is_sent_has_no_gaps() -> None:
    with pytest.raises(MissingVariable):
        render.render(Sources("{{ last_name }}", "x", None), values(), FIRST, FIRST)


def test_a_step_without_any_body_is_no_message() -> None:
    with pytest.raises(TemplateError):
        render.render(Sources("Hello", " ", None), values(), FIRST, FIRST)


# ---- decisions

NO_HISTORY = History()


def say(answer: Answer, history: History = NO_HISTORY, seed: int = 1) -> Decision:
    return decide(answer, history, NOW, random.Random(seed))


def test_only_hard_and_block_end_a_message_at_once() -> None:
    assert say(Answer("rejected", "hard", code=550)).outcome == "rejected"
    assert say(Answer("rejected", "block", code=550)).outcome == "rejected"
    assert say(Answer("rejected", "config", code=552)) == Decision(
        "failed", "config", "message_refused"
    )


def test_a_whole_message_refused_for_no_reason_is_not_sent_again() -> None:
    assert say(Answer("rejected", "soft", code=554)) == Decision("rejected", "soft", "refused")
    assert say(Answer("deferred", "soft", code=451)).outcome == "deferred"


def test_what_speaks_of_the_mailbox_holds_the_mailbox_and_keeps_the_message() -> None:
    limit = say(Answer("rejected", "limit", code=550))
    assert (limit.outcome, limit.retry_at) == ("deferred", NOW + timedelta(hours=24))
    assert limit.hold == Hold("limited", NOW + timedelta(hours=24))
    wished = NOW + timedelta(hours=2)
    assert say(Answer("deferred", "limit", retry_at=wished)).retry_at == wished
    auth = say(Answer("rejected", "auth", code=530))
    assert (auth.outcome, auth.hold) == ("deferred", Hold("auth_failed", None))
    sender = say(Answer("rejected", "config", code=553, at_sender=True))
    assert (sender.outcome, sender.hold) == ("deferred", Hold("sender_refused", None))


def test_what_never_left_goes_back_unsent() -> None:
    auth = say(Answer("unsent", "auth", code=535))
    assert (auth.outcome, auth.hold, auth.retry_at) == (
        "unsent", Hold("auth_failed", None), None,
    )  # fmt: skip
    late = say(Answer("unsent", reason="too_late"))
    assert (late.outcome, late.reason, late.hold) == ("unsent", "too_late", None)


def test_the_third_failed_connection_in_a_row_holds_the_mailbox() -> None:
    for failures in (0, 1):
        decision = say(Answer("unsent", "soft"), History(connect_failures=failures))
        assert decision.hold is None
        assert decision.retry_at is not None
        assert decision.retry_at > NOW
    third = say(Answer("unsent", "soft"), History(connect_failures=2))
    assert third.hold == Hold("connect_failed", NOW + timedelta(minutes=15))


def test_a_soft_refusal_is_given_up_after_72_hours() -> None:
    old = History(deferrals=9, first_deferred_at=NOW - timedelta(hours=71, minutes=59))
    assert say(Answer("deferred", "soft", code=451), old) == Decision(
        "rejected", "soft", "given_up"
    )
    fresh = say(Answer("deferred", "soft", code=451))
    assert fresh.outcome == "deferred"
    assert fresh.hold is None


@settings(deadline=None)
@given(
    kind=st.sampled_from(["accepted", "deferred", "rejected", "in_doubt", "unsent"]),
    outcome_class=st.sampled_from(
        [None, "hard", "soft", "block", "limit", "auth", "config", "ambig"]
    ),
    at_sender=st.booleans(),
    deferrals=st.integers(0, 20),
    age=st.none() | st.timedeltas(timedelta(0), timedelta(days=9)),
    seed=st.integers(),
)
def test_what_may_have_been_accepted_is_never_tried_again(
    kind: Kind,
    outcome_class: OutcomeClass | None,
    at_sender: bool,
    deferrals: int,
    age: timedelta | None,
    seed: int,
) -> None:
    history = History(deferrals, None if age is None else NOW - age)
    decision = say(Answer(kind, outcome_class, at_sender=at_sender), history, seed)
    if kind in ("accepted", "in_doubt"):
        assert decision.outcome == kind
        assert decision.retry_at is None
    elif kind == "unsent":
        assert decision.outcome == "unsent"
    else:
        assert decision.outcome in ("deferred", "rejected", "failed")
    if decision.outcome == "deferred":
        assert decision.retry_at is not None
        assert decision.retry_at > NOW


def test_a_servers_words_are_kept_short_and_printable() -> None:
    assert trim("550\r\n no\x00 such user") == "550   no  such user"
    assert len(trim("x" * 5000) or "") == 1000
    assert trim(None) is None


# ---- what the whole app is refused

APP = App("google", "client-id")


@pytest.mark.parametrize("kind", ["unsent", "deferred"])
@pytest.mark.parametrize("claimed", [True, False])
def test_a_limit_of_the_app_holds_the_mailbox_as_one_of_many(kind: Kind, claimed: bool) -> None:
    wish = NOW + timedelta(minutes=40)
    found = decide(
        Answer(kind, "limit", retry_at=wish, app=APP), History(connect_failures=9), NOW, RNG,
        claimed=claimed,
    )  # fmt: skip
    assert found.hold == Hold("app_limited", wish, APP)
    assert (found.outcome_class, found.reason, found.retry_at) == ("limit", "limit:app", wish)
    # The slot is spent only where a claimed request had left.
    assert found.outcome == ("deferred" if kind == "deferred" and claimed else "unsent")


def test_an_app_that_is_to_wait_a_moment_closes_no_gates() -> None:
    wish = NOW + timedelta(seconds=20)
    found = decide(Answer("unsent", "limit", retry_at=wish, app=APP), History(), NOW, RNG)
    assert (found.hold, found.retry_at) == (None, wish)
    # It is no limit of the mailbox that would throttle it.
    assert found.outcome_class == "soft"


def test_a_limit_of_the_app_that_names_no_time_is_asked_about_again() -> None:
    found = decide(Answer("deferred", "limit", app=APP), History(), NOW, RNG)
    assert found.hold == Hold("app_limited", NOW + retry.APP_HOLD, APP)


def test_a_refused_app_is_no_failed_connection_of_its_mailboxes() -> None:
    found = decide(Answer("unsent", "config", app=APP), History(connect_failures=9), NOW, RNG)
    assert found.hold == Hold("app_refused", NOW + retry.CONNECT_HOLD, APP)
    assert (found.outcome, found.reason) == ("unsent", "app_refused")
