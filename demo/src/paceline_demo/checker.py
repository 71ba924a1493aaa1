"""The promises, measured on what the mail host and the providers hold.

Everything here is pure: facts in, promises out. The facts are theirs
(`truth.Truth`), the recipients' own diary (`Diary`) and, only where a promise
is about what Paceline says, its answers (`Claims`).
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from paceline_demo import claim_rules, mail_rules
from paceline_demo.facts import Claims, Diary, LogText, Promise, Run
from paceline_demo.scenario import Kind, Scenario
from paceline_demo.truth import Truth

RULES: Final[tuple[Callable[[Run], Promise], ...]] = (
    mail_rules.none_twice,
    mail_rules.none_missing,
    mail_rules.none_superfluous,
    mail_rules.none_after("none after a bounce", Kind.UNKNOWN, Kind.LATE),
    mail_rules.none_after("none after a reply", Kind.REPLY),
    mail_rules.none_after("none after an unsubscribe", Kind.UNSUBSCRIBE),
    mail_rules.suppressed_untouched,
    mail_rules.cadence_kept,
    mail_rules.cadence_measurable,
    mail_rules.all_mailboxes_used,
    mail_rules.one_conversation,
    mail_rules.one_thread,
    mail_rules.sticky,
    mail_rules.own_words,
    mail_rules.vacation_goes_on,
    claim_rules.wrong_password_told,
    claim_rules.unticked_told,
    claim_rules.one_state,
    claim_rules.states_add_up,
    claim_rules.doubt_is_named,
    claim_rules.bad_rows_told,
    claim_rules.receipts_told,
    claim_rules.quarantine_readable,
    claim_rules.replay_sent,
    claim_rules.no_trespass,
    claim_rules.audit_verifies,
    claim_rules.all_parts_up,
)


def check(
    scenario: Scenario,
    truth: Truth,
    diary: Diary,
    claims: Claims,
    logs: Iterable[LogText],
    secrets: Mapping[str, str],
) -> list[Promise]:
    """Return every promise, held or broken.

    `secrets` maps each text that no log may hold to what it is.
    """
    run = Run(scenario, truth, diary, claims)
    return [
        *(rule(run) for rule in RULES),
        claim_rules.nothing_leaked(logs, secrets),
    ]
