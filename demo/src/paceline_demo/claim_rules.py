"""The promises about what Paceline says: its answers against the mail host and the scenario."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

from paceline_common import topics
from paceline_demo import scenario as cast
from paceline_demo.facts import Enrolled, LogText, Promise, RowError, Run, absence, tell
from paceline_demo.scenario import Kind

# The mail host's logs hold addresses, as any mail server's do.
_WRITE_LOGS: Final = frozenset({*topics.SERVICES, "postgres", "redis", "kafka", "keys"})


def wrong_password_told(run: Run) -> Promise:
    """A mailbox with a wrong password is refused in the mail host's own words (RFC 4954 §6)."""
    told = run.claims.wrong_password
    held = "5.7.8 Error: authentication failed" in told
    return Promise("a wrong password is told", 1, int(held), held, told or "it was accepted")


def unticked_told(run: Run) -> Promise:
    """A consent that leaves out a scope is refused by its name; nothing is connected."""
    told = run.claims.unticked
    held = "gmail.modify" in told
    return Promise("an unticked scope is told", 1, int(held), held, told or "it was accepted")


def one_state(run: Run) -> Promise:
    """Every lead is enrolled once, in the state that the mail host's facts call for."""
    faults: list[str] = []
    by_email: dict[str, list[Enrolled]] = defaultdict(list)
    for row in run.claims.enrollments:
        by_email[row.email.lower()].append(row)
    right = 0
    for lead in run.scenario.expected:
        rows = by_email.get(lead.email, [])
        if len(rows) != 1:
            faults.append(f"{lead.email}: enrolled ×{len(rows)}")
        elif lead.email in run.in_doubt and rows[0].state == "active":
            right += 1
        elif rows[0].state != cast.STATE_OF[lead.kind]:
            faults.append(f"{lead.email} ({lead.kind}): {rows[0].state}, {rows[0].reason}")
        else:
            right += 1
    faults += [
        f"{email}: no lead of this run"
        for email in sorted(by_email.keys() - run.leads.keys())
        if any(row.state != "suppressed" for row in by_email[email])
    ]
    return Promise(
        "every lead in one state, the one its recipient made",
        len(run.leads),
        right,
        not faults,
        tell(faults, "GET enrollments against the maildirs"),
    )


def states_add_up(run: Run) -> Promise:
    """The report's counts per state are those of the enrollments, and add up to the leads."""
    counted = Counter(row.state for row in run.claims.enrollments)
    told = Counter({state: n for state, n in run.claims.totals.items() if n})
    faults = [
        f"{state}: report {told[state]}, enrollments {counted[state]}"
        for state in sorted(told.keys() | counted.keys())
        if told[state] != counted[state]
    ]
    total = sum(n for state, n in told.items() if state != "suppressed")
    if total != len(run.leads):
        faults.append(f"report {total}, leads {len(run.leads)}")
    shown = ", ".join(f"{state} {n}" for state, n in sorted(told.items()))
    return Promise("states add up", len(run.leads), total, not faults, tell(faults, shown))


def doubt_is_named(run: Run) -> Promise:
    """A job is in doubt only after a kill, one per mailbox at most, its submission begun."""
    allowed = run.claims.in_doubt_allowed
    names = sorted(run.in_doubt)
    unbegun = [name for name in names if name not in run.claims.begun]
    held = len(names) <= allowed and not unbegun
    shown = f"at most {allowed}: {', '.join(names) or 'none'}"
    if unbegun:
        shown += f"; never begun: {', '.join(unbegun)}"
    return Promise("doubt only where a submission was cut off", 0, len(names), held, shown)


def bad_rows_told(run: Run) -> Promise:
    """Each bad CSV row has its error: row number, column, why; and no good row has one."""
    wanted = dict(run.scenario.bad_rows)
    found: dict[int, RowError] = {}
    faults: list[str] = []
    for error in run.claims.row_errors:
        if error.row not in wanted:
            faults.append(f"row {error.row} is good: {error.message}")
        elif not error.message.strip():
            faults.append(f"row {error.row}: no reason given")
        elif not _same_column(error.column, wanted[error.row]):
            faults.append(f"row {error.row}: column {error.column}, not {wanted[error.row]}")
        else:
            found[error.row] = error
    faults += [f"row {row}: no error told" for row in wanted if row not in found]
    shown = "; ".join(f"row {row}, {e.column}: {e.message}" for row, e in sorted(found.items()))
    return Promise(
        "bad rows told by number", len(wanted), len(found), not faults, tell(faults, shown)
    )


def _same_column(told: str | None, wanted: str) -> bool:
    """Compare a column by its letters: the file says `E-mail`, the API may say `email`."""
    return _letters(told or "") == _letters(wanted)


def _letters(name: str) -> str:
    return "".join(ch for ch in name.casefold() if ch.isalpha())


def receipts_told(run: Run) -> Promise:
    """Each good row has a receipt: enrolled, duplicate or suppressed."""
    wanted = {
        "enrolled": sum(lead.kind is not Kind.SUPPRESSED for lead in run.scenario.imported),
        "duplicate": len(run.scenario.duplicate_rows),
        "suppressed": 1,
    }
    told = {outcome: run.claims.receipts.get(outcome, 0) for outcome in wanted}
    faults = [f"{o}: {told[o]} of {n}" for o, n in wanted.items() if told[o] != n]
    shown = ", ".join(f"{outcome} {n}" for outcome, n in told.items())
    return Promise(
        "receipts for every good row",
        sum(wanted.values()),
        sum(told.values()),
        not faults,
        tell(faults, shown),
    )


def quarantine_readable(run: Run) -> Promise:
    """Two malformed events and the forbidden one are quarantined, each with its reason."""
    entries = [*run.claims.quarantine, *run.claims.installation]
    faults = [f"{entry.entry_id}: no reason" for entry in entries if len(entry.reason) < 10]
    if len(run.claims.quarantine) != 2:
        faults.append(f"{len(run.claims.quarantine)} entries of the workspace, not 2")
    if len(run.claims.installation) != 1:
        faults.append(f"{len(run.claims.installation)} of the installation, not 1")
    shown = "; ".join(entry.reason for entry in entries)
    return Promise("quarantine tells why", 3, len(entries), not faults, tell(faults, shown))


def replay_sent(run: Run) -> Promise:
    """The repaired event was replayed: its lead is written to, its entry settled, no other."""
    lead = run.scenario.repaired
    settled = sum(entry.settled for entry in run.claims.quarantine)
    faults: list[str] = []
    if settled != 1:
        faults.append(f"{settled} entries settled, not 1")
    if run.reached(lead) < run.wanted(lead)[0]:
        faults.append(f"{lead.email}: {run.reached(lead)} of {run.wanted(lead)[0]}")
    return Promise(
        "the repaired lead was sent",
        run.wanted(lead)[-1],
        run.reached(lead),
        not faults,
        tell(faults, f"maildir of {lead.email}"),
    )


def no_trespass(run: Run) -> Promise:
    """The workspace that the publisher may not enroll into holds nothing."""
    seen = run.claims.trespassed
    return Promise(
        "forbidden workspace untouched", 0, seen, seen == 0, "its leads and enrollments by its key"
    )


def audit_verifies(run: Run) -> Promise:
    """The workspace's audit chain verifies, and holds at least what an operator would look for."""
    audit = run.claims.audit
    held = audit.fault is None and audit.records >= cast.AUDITED
    return Promise(
        "audit chain verifies",
        cast.AUDITED,
        audit.records,
        held,
        audit.fault or "records at least; paceline-admin audit verify",
    )


def all_parts_up(run: Run) -> Promise:
    """Nothing of the stack died on the way, but for what was killed and came back."""
    down = [name for name, ready in run.claims.parts.items() if not ready]
    total = len(run.claims.parts)
    evidence = f"not ready: {', '.join(down)}" if down else "each part's own readiness"
    return Promise("every part is up at the end", total, total - len(down), not down, evidence)


def nothing_leaked(logs: Iterable[LogText], secrets: Mapping[str, str]) -> Promise:
    """No log of ours holds a secret, a body or an address. The evidence never repeats one."""
    faults: list[str] = []
    read: set[str] = set()
    for log in logs:
        read.add(log.path.stem)
        lowered = log.text.casefold()
        found = Counter(what for text, what in secrets.items() if text.casefold() in lowered)
        faults += [f"{log.path.name}: {what} ×{count}" for what, count in found.items()]
    faults += [f"{part} has no log" for part in sorted(_WRITE_LOGS - read)]
    return absence(
        "no secret, body or address in a log", faults, f"{len(read)} logs, {len(secrets)} texts"
    )
