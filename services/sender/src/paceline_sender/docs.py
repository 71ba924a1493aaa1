"""The sender's generated document: what every refusal means, and what follows from it.

The refusals are the rules of `paceline_providers`, what follows is asked of
`domain.outcome.decide`: the page has no knowledge of its own but `ELSEWHERE`.
"""

import importlib.resources
import random
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from paceline_providers import aadsts, dialect
from paceline_providers.base import Reach
from paceline_providers.classes import NO_REASON_FOR_GOOD
from paceline_providers.registry import API_PROVIDERS
from paceline_sender.domain import retry
from paceline_sender.domain.outcome import (
    REMEDIES,
    THROTTLE_HOLD_FROM,
    Answer,
    App,
    Decision,
    History,
    Kind,
    decide,
)

# What others do about the event: recipient, node and domain.
ELSEWHERE: Final[Mapping[str, str]] = {
    "accepted": "Counted as sent, for the mailbox and its domain. The next step's job is made.",
    "rejected/hard": (
        "The address is suppressed in the whole workspace and its other enrollments end."
        " Counted as hard bounce of mailbox and domain: rate, cooldown, stage."
    ),
    "rejected/block": (
        "The recipient is not suppressed. Counted as block of mailbox and domain: score, and"
        " through a failing domain all its mailboxes."
    ),
    "rejected/soft": "The recipient is not suppressed. Counted as soft bounce, without weight.",
    "failed/config": "Only this message: its enrollment ends. Nothing is counted against anyone.",
    "deferred/soft": "Nothing: the same mailbox tries again, as greylisting wants it.",
    "deferred/block": "Nothing yet: counted only when it is given up.",
    "deferred/limit": (
        "The job may leave from another mailbox of its pools. The provider's account counts the"
        " slot as used."
    ),
    "deferred/auth": "The job may leave from another mailbox of its pools.",
    "deferred/config": "The job may leave from another mailbox of its pools.",
    "in_doubt/ambig": (
        "Looked at until it is proven sent (sent mail, an answer, a report) or unsent (its draft"
        " destroyed); else it stays for a person. Never tried again before."
    ),
    "unsent/auth": "The job may leave from another mailbox of its pools.",
    "unsent/limit": "The job may leave from another mailbox of its pools.",
    "unsent/soft": "The job may leave from another mailbox of its pools.",
    "unsent/block": "The job may leave from another mailbox of its pools.",
    "unsent/config": "The job may leave from another mailbox of its pools.",
    "unsent/-": "Nothing.",
}
_REACHES: Final[Mapping[Reach, str]] = {
    "mailbox": "", "app": "; the whole app", "tenant": "; the app in this organization",
}  # fmt: skip
_NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)
_LATER: Final = timedelta(hours=2)


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of answer, with what else decides."""

    when: str
    answer: Answer
    history: History
    claimed: bool

    def decision(self) -> Decision:
        """Return what follows."""
        return decide(self.answer, self.history, _NOW, random.Random(0), claimed=self.claimed)  # noqa: S311 - the middle of a spread, shown as such

    @property
    def elsewhere(self) -> str:
        """The key of `ELSEWHERE`."""
        decision = self.decision()
        if decision.outcome == "accepted":
            return "accepted"
        return f"{decision.outcome}/{decision.outcome_class or '-'}"


def _case(when: str, kind: Kind, meaning: Any = None, **more: Any) -> Case:
    history, claimed = more.pop("history", History()), more.pop("claimed", True)
    return Case(when, Answer(kind, meaning, **more), history, claimed)


_APP: Final = App("google", "client-id")
_THIRD: Final = History(connect_failures=retry.CONNECT_FAILURES_BEFORE_HOLD - 1)
_OLD: Final = History(7, _NOW - retry.GIVE_UP_AFTER)
_WISH: Final = _NOW + _LATER

CASES: Final[tuple[Case, ...]] = (
    _case("taken", "accepted"),
    _case("refused for good", "rejected", "hard"),
    _case("refused for good", "rejected", "block"),
    _case("the message is refused for good", "rejected", "config"),
    _case("the sender's address is refused", "rejected", "config", at_sender=True),
    _case("the whole message had left, the no gives no reason", "rejected", "soft"),
    _case("refused for good, before its claim", "rejected", "config", claimed=False),
    _case("refused for now", "deferred", "soft"),
    _case("refused for now, 72 hours after the first time", "deferred", "soft", history=_OLD),
    _case("refused for now, a time is named", "deferred", "soft", retry_at=_WISH),
    _case("refused for now", "deferred", "block"),
    _case("refused for now", "deferred", "config"),
    _case("refused for now", "deferred", "hard"),
    _case("a limit is reached", "deferred", "limit"),
    _case("a limit is reached, a time is named", "deferred", "limit", retry_at=_WISH),
    _case("signed out", "deferred", "auth"),
    _case("signed out, a grant", "deferred", "auth", by_grant=True),
    _case("signed in, but the account is stopped", "deferred", "auth", at_sender=True),
    _case("no answer to a whole message", "in_doubt", "ambig"),
    _case("not signed in", "unsent", "auth"),
    _case("not signed in, a grant", "unsent", "auth", by_grant=True),
    _case("a limit before anything left", "unsent", "limit"),
    _case("not reached", "unsent", "soft"),
    _case("not reached, the third time in a row", "unsent", "soft", history=_THIRD),
    _case("asked to wait before anything left", "unsent", "soft", retry_at=_WISH),
    _case("too many sign-ins", "unsent", "soft", reason="auth_failed"),
    _case("turned away at the door", "unsent", "block"),
    _case("turned away at the door, the third time", "unsent", "block", history=_THIRD),
    _case("settings do not fit", "unsent", "config"),
    _case("settings do not fit, the third time", "unsent", "config", history=_THIRD),
    _case("the OAuth app is refused", "unsent", "config", app=_APP),
    _case(
        "the OAuth app is at its limit, a time is named",
        "unsent",
        "limit",
        app=_APP,
        retry_at=_WISH,
    ),
    _case("the OAuth app is at its limit", "deferred", "limit", app=_APP),
    _case("too late, stopping: our own doing", "unsent"),
)


def documents() -> Mapping[str, str]:
    """Return path below `docs/` → text."""
    return {"providers/outcomes.md": _outcomes()}


def _outcomes() -> str:
    lines = [
        "# Outcomes",
        "",
        "Generated by `make docs` from `libs/providers` (`rules/*.toml`, `gmail.toml`,",
        "`graph.toml`, `aadsts.toml`, `google_oauth.toml`) and from the sender's",
        "`domain/outcome.py`. A refusal is first given a class by its provider's rules; what then",
        "happens depends on the class and on how far the submission had come.",
        "",
        "*rejected*: the same message would be refused again. *deferred*: it left, or began to,",
        "and was surely not accepted. *in doubt*: nobody knows. *unsent*: nothing left, so the",
        "slot is given back, once. A wait that the provider names (`Retry-After`) is kept to;",
        f"from {int(THROTTLE_HOLD_FROM.total_seconds())} s on it holds the mailbox for that long.",
        "",
        "## What each class does",
        "",
        "| class | answer | when | job | mailbox | recipient, node, domain |",
        "|---|---|---|---|---|---|",
    ]
    lines += [_row(case) for case in CASES]
    lines += ["", "Holds of a mailbox, and what they ask of a person:", "", "| hold | remedy |"]
    lines += ["|---|---|", *(f"| `{name}` | {text} |" for name, text in REMEDIES.items())]
    lines += ["", "## SMTP replies and delivery reports", "", *_smtp()]
    for kind in API_PROVIDERS:
        lines += ["", f"## {kind.capitalize()} API", "", *_api(kind)]
    for title, identity in (("Google", "google"), ("Microsoft", "microsoft")):
        lines += ["", f"## {title} sign-in", "", *_identity(identity)]  # type: ignore[arg-type]
    return "\n".join(lines) + "\n"


def _row(case: Case) -> str:
    decision = case.decision()
    answer = case.answer
    return (
        f"| {answer.outcome_class or '-'} | {answer.kind.replace('_', ' ')} | {case.when}"
        f" | {_job(decision)} | {_mailbox(decision)} | {ELSEWHERE[case.elsewhere]} |"
    )


def _job(decision: Decision) -> str:
    match decision.outcome:
        case "accepted":
            return "`sent`"
        case "rejected":
            return f"`bounced` (`{decision.reason}`)"
        case "failed":
            return f"`failed` (`{decision.reason}`)"
        case "in_doubt":
            return "`in_doubt`"
        case "deferred" | "unsent":
            spent = "slot spent" if decision.outcome == "deferred" else "slot given back"
            return f"`queued` (`{decision.reason}`), {spent}, {_when(decision.retry_at)}"


def _when(at: datetime | None) -> str:
    if at is None:
        return "at once"
    if at == _WISH:
        return "at the time named"
    first = retry.BACKOFF[0]
    if abs(at - _NOW - first) <= first * retry.SPREAD:
        return "after 5, 15, 30, 60 min, 2, 4, 8 h (± 20 %)"
    return f"after {_span(at - _NOW)}"


def _mailbox(decision: Decision) -> str:
    if decision.hold is None:
        return "goes on"
    until = "until a person resumes it"
    if decision.hold.until is not None:
        wait = decision.hold.until - _NOW
        until = "until the time named" if wait == _LATER else f"for {_span(wait)}"
    about = "an issue" if decision.hold.app is None else "one issue for all mailboxes of the app"
    return f"held (`{decision.hold.reason}`) {until}, with {about}"


def _span(wait: timedelta) -> str:
    minutes = round(wait.total_seconds() / 60)
    return f"{minutes} min" if minutes < 120 else f"{round(minutes / 60)} h"


def _smtp() -> Iterator[str]:
    yield "First match decides. A 5yz code with class hard, block or config is *rejected*, so is"
    yield f"`{NO_REASON_FOR_GOOD}` once the whole message had left; all else is *deferred*."
    yield ""
    yield "| rule | replies | class | meaning | source |"
    yield "|---|---|---|---|---|"
    directory = importlib.resources.files("paceline_providers") / "rules"
    for file in sorted(directory.iterdir(), key=lambda one: one.name):
        if not file.name.endswith(".toml"):
            continue
        for rule in tomllib.loads(file.read_text("utf-8"))["rule"]:
            yield _rule(rule, _conditions(rule, ("codes", "status", "phases")))


def _api(kind: str) -> Iterator[str]:
    yield "First match decides. Ahead of the submission what is *deferred* here is *unsent*."
    yield ""
    yield "| rule | answers | class | meaning | source |"
    yield "|---|---|---|---|---|"
    for rule in dialect.rules(kind):
        raw = {
            "name": rule.name,
            "class": f"{rule.outcome_class.value}, {rule.submission.replace('_', ' ')}"
            + _REACHES[rule.reach],
            "sentence": rule.sentence,
            "source": rule.source,
        }
        said: list[str] = []
        if rule.statuses:
            said.append("HTTP " + ", ".join(_digits(one) for one in rule.statuses))
        said += [f"`{one}`" for one in sorted(rule.reasons)]
        if rule.names_time:
            said.append("names a time")
        if rule.text is not None:
            said.append(f"text `{_escaped(rule.text.pattern)}`")
        yield _rule(raw, "; ".join(said) or "anything else")


def _identity(identity: aadsts.Identity) -> Iterator[str]:
    yield "What an access token is not given for. Class auth ends the grant: the mailbox is held"
    yield "(`grant_revoked`); all else is *unsent*, and where the app is at fault all its mailboxes"
    yield "wait."
    yield ""
    yield "| rule | refusals | class, who mends it | meaning | source |"
    yield "|---|---|---|---|---|"
    for rule in aadsts.rules(identity):
        raw = {
            "name": rule.name,
            "class": f"{rule.outcome_class.value}, {rule.whose}",
            "sentence": rule.sentence,
            "source": rule.source,
        }
        said = [f"AADSTS{number}" for number in sorted(rule.codes)]
        said += [f"`{error}`" for error in sorted(rule.errors)]
        yield _rule(raw, "; ".join(said) or "anything else")


def _rule(rule: Mapping[str, Any], said: str) -> str:
    return (
        f"| `{rule['name']}` | {said} | {rule['class']} | {rule['sentence']}"
        f" | {_escaped(rule['source'])} |"
    )


def _conditions(rule: Mapping[str, Any], names: Sequence[str]) -> str:
    said = [
        f"{name} " + ", ".join(_digits(one) if name == "codes" else one for one in rule[name])
        for name in names
        if name in rule
    ]
    if "text" in rule:
        said.append(f"text `{_escaped(rule['text'])}`")
    return "; ".join(said) or "anything else"


def _digits(code: str) -> str:
    return code.ljust(3, "x") if code.isdecimal() else code


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
