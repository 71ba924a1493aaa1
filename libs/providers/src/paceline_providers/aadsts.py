"""What an authorization server's refusals mean: Microsoft's by the rules in `aadsts.toml`,
Google's by those in `google_oauth.toml`.

A rule holds when one of its `codes` (AADSTS numbers) or `errors` (OAuth error words) was
named; the last one always holds. `class` is an `OutcomeClass`; `whose` says who can mend
it: the mailbox's user, an administrator of the organization, the operator of the OAuth app
(every mailbox of that app is concerned), or nobody, for it passes.
"""

import importlib.resources
import json
import re
import tomllib
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Literal

from paceline_providers.classes import OutcomeClass
from paceline_providers.proof import TokenRefused, TokenUnavailable

Identity = Literal["google", "microsoft"]
"""Who gives the tokens."""

_FILES: Final[dict[Identity, str]] = {"google": "google_oauth.toml", "microsoft": "aadsts.toml"}
_NUMBER: Final = re.compile(r"\bAADSTS(\d{5,8})\b")


@dataclass(frozen=True, slots=True)
class TokenRule:
    """One entry; `sentence` is for people, `source` says who defines it."""

    name: str
    outcome_class: OutcomeClass
    whose: Literal["user", "admin", "app", "nobody"]
    sentence: str
    source: str
    codes: frozenset[int]
    errors: frozenset[str]

    def matches(self, error: str, numbers: frozenset[int]) -> bool:
        """Tell whether the rule speaks of such a refusal."""
        if not self.codes and not self.errors:
            return True
        return error in self.errors or not self.codes.isdisjoint(numbers)


@cache
def rules(identity: Identity = "microsoft") -> tuple[TokenRule, ...]:
    """Return all rules in order; the last one matches everything."""
    source = importlib.resources.files("paceline_providers").joinpath(_FILES[identity])
    return tuple(_rule(entry) for entry in tomllib.loads(source.read_text("utf-8"))["rule"])


def rule_for(error: str, description: str, identity: Identity = "microsoft") -> TokenRule:
    """Return the rule for an OAuth `error` and its `error_description`.

    Both come from the token endpoint's body or from the query of a redirect back.
    """
    numbers = frozenset(int(number) for number in _NUMBER.findall(description))
    return next(rule for rule in rules(identity) if rule.matches(error, numbers))


def token_failure(
    status: int, body: bytes, identity: Identity = "microsoft"
) -> TokenRefused | TokenUnavailable:
    """Return what the token endpoint's answer, not a success, says about the grant.

    Only what the user or an administrator has to mend ends the grant. A wrong app secret
    does not: all mailboxes of the app wait for its operator. Raises nothing.
    """
    try:
        found = json.loads(body)
    except ValueError:
        found = None
    if not isinstance(found, dict) or status >= 500:
        return TokenUnavailable(f"the token endpoint answered {status}")
    error, description = str(found.get("error", "")), str(found.get("error_description", ""))
    rule = rule_for(error, description, identity)
    text = description or error or f"the token endpoint answered {status}"
    if rule.outcome_class is OutcomeClass.AUTH:
        return TokenRefused(text)
    return TokenUnavailable(text, rule.outcome_class)


def _rule(entry: dict[str, Any]) -> TokenRule:
    return TokenRule(
        name=entry["name"],
        outcome_class=OutcomeClass(entry["class"]),
        whose=entry["whose"],
        sentence=entry["sentence"],
        source=entry["source"],
        codes=frozenset(entry.get("codes", ())),
        errors=frozenset(entry.get("errors", ())),
    )
