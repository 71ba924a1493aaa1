"""What a provider's refusal means, by the rules in `classes.toml`."""

import importlib.resources
import re
import tomllib
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Any, Final, Literal

Phase = Literal["connect", "auth", "mail", "rcpt", "data", "body", "dsn"]
"""Where a reply came: the greeting up to TLS, AUTH, MAIL FROM, RCPT TO, DATA, after the
final dot, or in a delivery report."""

_STATUS: Final = re.compile(r"\b([245])\.(\d{1,3})\.(\d{1,3})\b")


class OutcomeClass(StrEnum):
    """What a refusal tells us about, and so what to do (PROVIDERS, head).

    HARD the recipient is bad: suppress. SOFT wait and try again. BLOCK policy
    against the sender. LIMIT the mailbox has sent enough. AUTH the credentials.
    CONFIG our own or the operator's mistake. AMBIG nobody knows: never retry blindly.
    """

    HARD = "hard"
    SOFT = "soft"
    BLOCK = "block"
    LIMIT = "limit"
    AUTH = "auth"
    CONFIG = "config"
    AMBIG = "ambig"


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of `classes.toml`; `sentence` is for people, `source` says who defines it.

    `about` is the phase that the reply speaks of when it is not the one where it came.
    """

    name: str
    outcome_class: OutcomeClass
    sentence: str
    source: str
    about: Phase | None
    phases: frozenset[str] | None
    codes: tuple[str, ...]
    status: tuple[re.Pattern[str], ...]
    text: re.Pattern[str] | None

    def matches(self, code: int | None, status: str | None, text: str, phase: Phase) -> bool:
        """Tell whether every condition of the rule holds."""
        if self.phases is not None and phase not in self.phases:
            return False
        if self.codes and not str(code or "").startswith(self.codes):
            return False
        shown = status or "none"
        if self.status and not any(pattern.fullmatch(shown) for pattern in self.status):
            return False
        return self.text is None or self.text.search(text) is not None


def enhanced_status(text: str) -> str | None:
    """Return the enhanced code (RFC 3463) at the head of a reply's text, None without one."""
    match = _STATUS.match(text)
    return match.group() if match else None


def classify(code: int | None, status: str | None, text: str, phase: Phase) -> OutcomeClass:
    """Return the class of a refusal: reply code, enhanced code, the server's words, and where.

    `code` may be None in a delivery report, whose status then gives the first digit.
    """
    return rule_for(code, status, text, phase).outcome_class


def rule_for(code: int | None, status: str | None, text: str, phase: Phase) -> Rule:
    """Return the rule that decides `classify`."""
    if code is None and status is not None:
        code = int(status[0]) * 100
    return next(rule for rule in rules() if rule.matches(code, status, text, phase))


@cache
def rules() -> tuple[Rule, ...]:
    """Return all rules in order; the last one matches everything."""
    source = importlib.resources.files("paceline_providers").joinpath("classes.toml")
    return tuple(_rule(entry) for entry in tomllib.loads(source.read_text("utf-8"))["rule"])


def _rule(entry: dict[str, Any]) -> Rule:
    phases, text = entry.get("phases"), entry.get("text")
    return Rule(
        name=entry["name"],
        outcome_class=OutcomeClass(entry["class"]),
        sentence=entry["sentence"],
        source=entry["source"],
        about=entry.get("about"),
        phases=None if phases is None else frozenset(phases),
        codes=tuple(entry.get("codes", ())),
        status=tuple(_status_pattern(status) for status in entry.get("status", ())),
        text=None if text is None else re.compile(text, re.IGNORECASE),
    )


def _status_pattern(written: str) -> re.Pattern[str]:
    """Compile `5.1.1`, `x.7.20-29` (a range of details), `5.7.x` (any) or `none`."""
    if written == "none":
        return re.compile("none")
    kind, subject, detail = written.split(".")
    first, dash, last = detail.partition("-")
    details = "|".join(map(str, range(int(first), int(last) + 1))) if dash else detail
    parts = (
        kind.replace("x", "[45]"),
        subject.replace("x", r"\d+"),
        f"(?:{details.replace('x', r'[0-9]+')})",
    )
    return re.compile(r"\.".join(parts))
