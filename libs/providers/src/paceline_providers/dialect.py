"""What an HTTP API's refusals mean, by the rules in its `<kind>.toml`.

The first rule whose every condition holds decides; an absent condition always holds:
`statuses` (HTTP codes or their first digits), `reasons` (the API's own code words), `text`
(a regular expression over its words, without regard to case), `names_time` (whether the
answer says how long to wait). `class` is an `OutcomeClass`; `submission` says what it makes
of a send request: `rejected` (the same one would be again), `deferred` (surely not accepted,
another try may succeed) or `in_doubt`; `phase` is what the refusal speaks of; `reach` whom it
concerns, the mailbox alone if left out.
"""

import importlib.resources
import re
import tomllib
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any, Literal

from paceline_providers.base import Deferred, InDoubt, Reach, Rejected, Unsent, UnsentReason
from paceline_providers.classes import OutcomeClass, Phase
from paceline_providers.proof import Unavailable

Submission = Literal["rejected", "deferred", "in_doubt"]


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer that is not a success. `reasons`: its code words, the most telling one first."""

    status: int
    reasons: tuple[str, ...]
    text: str
    retry_after: timedelta | None


@dataclass(frozen=True, slots=True)
class ApiRule:
    """One entry; `sentence` is for people, `source` says who defines it."""

    name: str
    outcome_class: OutcomeClass
    submission: Submission
    sentence: str
    source: str
    phase: Phase
    statuses: tuple[str, ...]
    reasons: frozenset[str]
    text: re.Pattern[str] | None
    names_time: bool | None
    reach: Reach

    def matches(self, refusal: Refusal) -> bool:
        """Tell whether every condition of the rule holds."""
        if self.statuses and not str(refusal.status).startswith(self.statuses):
            return False
        if self.reasons and self.reasons.isdisjoint(refusal.reasons):
            return False
        if self.names_time is not None and self.names_time != (refusal.retry_after is not None):
            return False
        return self.text is None or self.text.search(refusal.text) is not None


@cache
def rules(kind: str) -> tuple[ApiRule, ...]:
    """Return a provider's rules in order; the last one matches everything."""
    source = importlib.resources.files("paceline_providers").joinpath(f"{kind}.toml")
    return tuple(_rule(entry) for entry in tomllib.loads(source.read_text("utf-8"))["rule"])


def rule_for(kind: str, refusal: Refusal) -> ApiRule:
    """Return the rule that decides."""
    return next(rule for rule in rules(kind) if rule.matches(refusal))


def of_submission(kind: str, refusal: Refusal) -> Deferred | Rejected | InDoubt:
    """Return what a refusal makes of a send request. A fence is the caller's to add."""
    rule = rule_for(kind, refusal)
    word = refusal.reasons[0] if refusal.reasons else None
    match rule.submission:
        case "rejected":
            return Rejected(rule.outcome_class, rule.phase, refusal.status, word, refusal.text)
        case "deferred":
            return Deferred(
                rule.outcome_class, rule.phase, refusal.status, word, refusal.text,
                refusal.retry_after, rule.reach,
            )  # fmt: skip
        case "in_doubt":
            return InDoubt(f"answered {refusal.status}: {refusal.text}")


def of_preparation(kind: str, refusal: Refusal) -> Unsent | Rejected:
    """Return what a refusal ahead of the submission makes of it."""
    rule = rule_for(kind, refusal)
    word = refusal.reasons[0] if refusal.reasons else None
    if rule.submission == "rejected":
        return Rejected(rule.outcome_class, rule.phase, refusal.status, word, refusal.text)
    # What leaves a send request in doubt says only that the provider is unwell.
    outcome_class = OutcomeClass.SOFT if rule.submission == "in_doubt" else rule.outcome_class
    reason: UnsentReason = "protocol_error"
    if outcome_class is OutcomeClass.AUTH:
        reason = "auth_failed"
    elif rule.submission == "deferred":
        reason = "throttled"
    return Unsent(
        reason, outcome_class, refusal.status, word, refusal.text, refusal.retry_after, rule.reach
    )


def of_look(kind: str, refusal: Refusal) -> Unavailable:
    """Return what a refusal of a look for proof means."""
    rule = rule_for(kind, refusal)
    outcome_class = OutcomeClass.SOFT if rule.submission == "in_doubt" else rule.outcome_class
    return Unavailable(outcome_class, refusal.text, refusal.retry_after)


def _rule(entry: dict[str, Any]) -> ApiRule:
    text = entry.get("text")
    return ApiRule(
        name=entry["name"],
        outcome_class=OutcomeClass(entry["class"]),
        submission=entry["submission"],
        sentence=entry["sentence"],
        source=entry["source"],
        phase=entry.get("phase", "body"),
        statuses=tuple(entry.get("statuses", ())),
        reasons=frozenset(entry.get("reasons", ())),
        text=None if text is None else re.compile(text, re.IGNORECASE),
        names_time=entry.get("names_time"),
        reach=entry.get("reach", "mailbox"),
    )
