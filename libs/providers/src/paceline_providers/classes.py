"""What a refusal means, whether an SMTP reply or a delivery report: the rules in `rules/*.toml`.

The first rule whose every condition holds decides. The last one has no
condition, so every refusal gets a verdict; what no rule knows is soft, so that
nobody is suppressed on a guess.
"""

import importlib.resources
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Any, Final, Literal, get_args

Phase = Literal["connect", "auth", "mail", "rcpt", "data", "body", "dsn"]
"""Where a reply came: the greeting up to TLS, AUTH, MAIL FROM, RCPT TO, DATA, after the
final dot, or in a delivery report."""

# The rule of a permanent refusal that tells nothing else.
NO_REASON_FOR_GOOD: Final = "permanent-for-no-known-reason"

_STATUS: Final = re.compile(r"\b([245])\.(\d{1,3})\.(\d{1,3})\b", re.ASCII)
_STATUS_CONDITION: Final = re.compile(r"none|([45x])\.(x|\d+)\.(x|\d+(?:-\d+)?)", re.ASCII)
_CODE_CONDITION: Final = re.compile(r"none|[2-5]\d{0,2}", re.ASCII)
_SAYS: Final = frozenset({"name", "class", "sentence", "source"})
_CONDITIONS: Final = frozenset({"phases", "codes", "status", "text"})


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
    """One entry of `rules/*.toml`; `sentence` is for people, `source` says who defines it.

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
        if self.codes and not ("none" if code is None else str(code)).startswith(self.codes):
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
    return first_match(rules(), code, status, text, phase)


def first_match(
    rules: Iterable[Rule], code: int | None, status: str | None, text: str, phase: Phase
) -> Rule:
    """Return the first of `rules` (of `parse_rules`) that matches."""
    if status is not None and _STATUS.fullmatch(status) is None:
        status = None
    if code is None and status is not None:
        # One digit: a whole code, such as 500, would mean something of its own.
        code = int(status[0])
    return next(rule for rule in rules if rule.matches(code, status, text, phase))


@cache
def rules() -> tuple[Rule, ...]:
    """Return all rules, in order of file name and then of place.

    Raises `ValueError` for a bad rule, as `parse_rules` does.
    """
    directory = importlib.resources.files("paceline_providers") / "rules"
    files = sorted(
        (file for file in directory.iterdir() if file.name.endswith(".toml")),
        key=lambda file: file.name,
    )
    return parse_rules(tomllib.loads(file.read_text("utf-8")) for file in files)


def parse_rules(documents: Iterable[Mapping[str, Any]]) -> tuple[Rule, ...]:
    """Build rules from parsed TOML documents (tables `[[rule]]`), in their order.

    Raises `ValueError` for a missing or unknown key, an unknown class or phase, a bad
    pattern, a name used twice, and unless the last rule, and no other, has no condition.
    """
    entries = [entry for document in documents for entry in document["rule"]]
    parsed = tuple(_rule(entry) for entry in entries)
    if len({rule.name for rule in parsed}) != len(parsed):
        raise ValueError("a rule's name is used twice")
    for entry in entries[:-1]:
        if not entry.keys() & _CONDITIONS:
            raise ValueError(f"rule {entry['name']!r}: no condition")
    if not entries or entries[-1].keys() & _CONDITIONS:
        raise ValueError("the last rule has a condition: some refusal would get no verdict")
    return parsed


def _rule(entry: Mapping[str, Any]) -> Rule:
    name = entry.get("name")
    if unknown := entry.keys() - _SAYS - _CONDITIONS - {"about"}:
        raise ValueError(f"rule {name!r}: unknown keys {sorted(unknown)}")
    if missing := sorted(key for key in _SAYS if not entry.get(key)):
        raise ValueError(f"rule {name!r}: {missing} missing")
    phases = {*entry.get("phases", ()), *([entry["about"]] if "about" in entry else ())}
    if strange := phases - set(get_args(Phase)):
        raise ValueError(f"rule {name!r}: unknown phases {sorted(strange)}")
    # A reply or a report is an answer, so never ambiguous.
    if entry["class"] not in set(OutcomeClass) - {OutcomeClass.AMBIG}:
        raise ValueError(f"rule {name!r}: unknown class {entry['class']!r}")
    # An empty list would read as "always", and one text as a list of its letters.
    for key in _CONDITIONS & entry.keys():
        if not entry[key] or isinstance(entry[key], str) != (key == "text"):
            raise ValueError(
                f"rule {name!r}: {key} wants {'a text' if key == 'text' else 'a list'}"
            )
    if bad := [code for code in entry.get("codes", ()) if not _CODE_CONDITION.fullmatch(code)]:
        raise ValueError(f"rule {name!r}: no reply codes {bad}")
    try:
        text = re.compile(entry["text"], re.IGNORECASE) if "text" in entry else None
        status = tuple(_status_pattern(written) for written in entry.get("status", ()))
    except (ValueError, re.error) as error:
        raise ValueError(f"rule {name!r}: {error}") from None
    return Rule(
        name=entry["name"],
        outcome_class=OutcomeClass(entry["class"]),
        sentence=entry["sentence"],
        source=entry["source"],
        about=entry.get("about"),
        phases=frozenset(entry["phases"]) if "phases" in entry else None,
        codes=tuple(entry.get("codes", ())),
        status=status,
        text=text,
    )


def _status_pattern(written: str) -> re.Pattern[str]:
    """Compile `5.1.1`, `x.7.20-29` (a range of details), `5.7.x` (any) or `none`."""
    parts = _STATUS_CONDITION.fullmatch(written)
    if parts is None:
        raise ValueError(f"{written!r} is no enhanced code")
    if written == "none":
        return re.compile("none")
    kind, subject, detail = parts.groups()
    first, dash, last = detail.partition("-")
    details = "|".join(map(str, range(int(first), int(last) + 1))) if dash else detail
    return re.compile(
        rf"{kind.replace('x', '[45]')}\.{subject.replace('x', '[0-9]+')}"
        rf"\.(?:{details.replace('x', '[0-9]+')})"
    )
