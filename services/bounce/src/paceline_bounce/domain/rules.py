"""What a failure means: the first rule that fits gives its class and a sentence for people.

The rules are data (`rules/*.toml`, in order of file name): each with the
conditions it sets, and where its knowledge is from. Every failure gets a
verdict; what no rule knows is soft, so that nobody is suppressed on a guess.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

BounceClass = Literal["hard", "soft", "block", "limit", "auth", "config"]

_CLASSES: Final[tuple[BounceClass, ...]] = get_args(BounceClass)
_KEYS: Final = frozenset({"name", "class", "sentence", "source", "status", "code", "text"})


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: the conditions it sets must all hold.

    `status` and `code` are matched whole (a missing one reads as the empty
    text), `text` anywhere, without regard to case.
    """

    name: str
    bounce_class: BounceClass
    sentence: str
    source: str
    status: re.Pattern[str] | None = None
    code: re.Pattern[str] | None = None
    text: re.Pattern[str] | None = None

    def fits(self, status: str, code: str, text: str) -> bool:
        """Tell whether every condition holds."""
        return (
            (self.status is None or self.status.fullmatch(status) is not None)
            and (self.code is None or self.code.fullmatch(code) is not None)
            and (self.text is None or self.text.search(text) is not None)
        )


UNKNOWN: Final = Rule(
    "unknown", "soft", "The receiving side gave no reason that we know.", "sisimai: all else soft"
)


def classify(rules: Sequence[Rule], *, status: str | None, code: int | None, text: str) -> Rule:
    """Return the first rule that fits, `UNKNOWN` if none does.

    status: an enhanced code (RFC 3463); code: an SMTP reply code; text: the diagnostic.
    """
    for rule in rules:
        if rule.fits(status or "", str(code) if code is not None else "", text):
            return rule
    return UNKNOWN


def parse_rules(documents: Iterable[Mapping[str, Any]]) -> tuple[Rule, ...]:
    """Build rules from parsed TOML documents (tables `[[rule]]`), in their order.

    Raises `ValueError` for a missing or unknown key, an unknown class, a bad
    pattern, a rule without condition or a name used twice.
    """
    rules = [_rule(entry) for document in documents for entry in document["rule"]]
    names = [rule.name for rule in rules]
    if len(set(names)) != len(names):
        raise ValueError("a rule's name is used twice")
    return tuple(rules)


def _rule(entry: Mapping[str, Any]) -> Rule:
    name = entry.get("name")
    if unknown := entry.keys() - _KEYS:
        raise ValueError(f"rule {name!r}: unknown keys {sorted(unknown)}")
    if missing := {"name", "class", "sentence", "source"} - entry.keys():
        raise ValueError(f"rule {name!r}: {sorted(missing)} missing")
    if not entry.keys() & {"status", "code", "text"}:
        raise ValueError(f"rule {name!r}: no condition")
    if entry["class"] not in _CLASSES:
        raise ValueError(f"rule {name!r}: unknown class {entry['class']!r}")
    try:
        patterns = {
            key: re.compile(entry[key], re.IGNORECASE)
            for key in ("status", "code", "text")
            if key in entry
        }
    except re.error as error:
        raise ValueError(f"rule {name!r}: {error}") from None
    return Rule(entry["name"], entry["class"], entry["sentence"], entry["source"], **patterns)
