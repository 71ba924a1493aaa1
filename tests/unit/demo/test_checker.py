"""Every promise of the demo goes red when it is broken, on forged maildirs and logs."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from tests.unit.demo.forge import Mail, Run, Spoil, faultless

from paceline_demo import scenario as cast
from paceline_demo.facts import Audited, Enrolled, LogText, RowError
from paceline_demo.scenario import Kind

SECOND = timedelta(seconds=1)


def doubled(run: Run) -> None:
    run.again(run.of(Kind.ORDINARY), 500 * SECOND, message_id="<other@x>", job="job_other")


def doubled_message_id(run: Run) -> None:
    run.of(Kind.ORDINARY, 2).message_id = run.of(Kind.ORDINARY).message_id


def doubled_job(run: Run) -> None:
    run.of(Kind.ORDINARY, 2).job = run.of(Kind.ORDINARY).job


def doubled_refusal(run: Run) -> None:
    run.again(run.of(Kind.UNKNOWN), 500 * SECOND)


def doubled_late(run: Run) -> None:
    run.again(run.of(Kind.LATE), 500 * SECOND, message_id="<other@x>")


def missing_step_2(run: Run) -> None:
    run.mails.remove(run.of(Kind.ORDINARY, 2))


def missing_step_1_only(run: Run) -> None:
    run.mails.remove(run.of(Kind.ORDINARY, 1))


def missing_refusal(run: Run) -> None:
    run.mails.remove(run.of(Kind.UNKNOWN))


def _second_step(run: Run, kind: Kind) -> None:
    first = run.of(kind)
    run.again(
        first, 600 * SECOND, step=2, message_id="<second@x>", job="job_second",
        references=[first.message_id], subject=f"Re: {first.subject}",
        body=f"{cast.greeting(first.lead)} ({cast.marker(2)})",
    )  # fmt: skip


def after_reply(run: Run) -> None:
    _second_step(run, Kind.REPLY)


def after_unsubscribe(run: Run) -> None:
    _second_step(run, Kind.UNSUBSCRIBE)


def after_late_bounce(run: Run) -> None:
    _second_step(run, Kind.LATE)


def after_refusal(run: Run) -> None:
    _second_step(run, Kind.UNKNOWN)


def reply_never_came(run: Run) -> None:
    run.replies.popitem()


def unsubscribe_never_came(run: Run) -> None:
    run.diary.unsubscribed.popitem()


def report_never_came(run: Run) -> None:
    run.reports.popitem()


def to_the_suppressed(run: Run) -> None:
    first = run.of(Kind.ORDINARY)
    run.again(first, 500 * SECOND, lead=run.scenario.suppressed, message_id="<s@x>", job="job_s")


def to_the_forbidden(run: Run) -> None:
    first = run.of(Kind.ORDINARY)
    run.again(first, 500 * SECOND, lead=run.scenario.forbidden, message_id="<f@x>", job="job_f")


def one_millisecond_early(run: Run) -> None:
    mine = [m for m in run.mails if m.mailbox == "ben@north.test"]
    mine[5].at = mine[4].at + SECOND - timedelta(milliseconds=1)


def refusal_without_queue_id(run: Run) -> None:
    run.extra_log.append(
        "Nov 20 09:00:00 mx postfix/smtpd[12]: NOQUEUE: reject: RCPT from unknown[127.0.0.1]: "
        "550 5.1.1 <x@example.test>: unknown; from=<ada@north.test> to=<x@example.test> proto=ESMTP"
    )


def one_mailbox_idle(run: Run) -> None:
    for mail in run.mails:
        if mail.mailbox == "dan@south.test":
            mail.mailbox = "cleo@south.test"


def broken_references(run: Run) -> None:
    run.of(Kind.ORDINARY, 2).references = ["<stranger@x>"]


def absent_references(run: Run) -> None:
    run.of(Kind.VACATION, 2).references = []


def another_subject(run: Run) -> None:
    run.of(Kind.ORDINARY, 2).subject = "Something new"


def another_mailbox(run: Run) -> None:
    mail = run.of(Kind.ORDINARY, 2)
    mail.mailbox = next(s.email for s in run.scenario.senders if s.email != mail.mailbox)


def of_a_provider(run: Run, step: int = 2) -> Mail:
    return next(m for m in run.mails if m.thread_id is not None and m.step == step)


def another_thread(run: Run) -> None:
    of_a_provider(run).thread_id = "another"


def an_answer_astray(run: Run) -> None:
    run.astray.add(
        next(
            m.lead.email
            for m in run.mails
            if m.thread_id is not None and m.lead.email in run.replies | run.reports
        )
    )


def doubled_at_a_provider(run: Run) -> None:
    run.again(of_a_provider(run), 500 * SECOND, message_id="<other@x>", lead=run.scenario.repaired)


def nothing_went_on_elsewhere(run: Run) -> None:
    chained = {m.lead.email for m in run.mails if m.step == 2}
    for mail in run.mails:
        if mail.mailbox == run.scenario.paused and mail.lead.email in chained:
            mail.mailbox = run.scenario.senders[0].email


def unticked_scope_taken(run: Run) -> None:
    run.claims = replace(run.claims, unticked="")


def another_leads_words(run: Run) -> None:
    run.of(Kind.ORDINARY).body = run.of(Kind.REPLY).body


def no_way_out(run: Run) -> None:
    run.of(Kind.ORDINARY).one_click = False


def vacation_never_came(run: Run) -> None:
    run.vacations.popitem()


def stopped_by_vacation(run: Run) -> None:
    run.mails.remove(run.of(Kind.VACATION, 2))


def wrong_state(run: Run) -> None:
    run.state(run.of(Kind.REPLY), state="finished")


def enrolled_twice(run: Run) -> None:
    rows = [*run.claims.enrollments, run.claims.enrollments[0]]
    run.claims = replace(run.claims, enrollments=rows)


def not_enrolled(run: Run) -> None:
    run.claims = replace(run.claims, enrollments=run.claims.enrollments[1:])


def a_stranger_enrolled(run: Run) -> None:
    stranger = Enrolled("stranger@example.test", "active", None, None, 1)
    run.claims = replace(run.claims, enrollments=[*run.claims.enrollments, stranger])


def totals_differ(run: Run) -> None:
    totals = {**run.claims.totals, "finished": run.claims.totals["finished"] - 1, "active": 1}
    run.claims = replace(run.claims, totals=totals)


def totals_do_not_add_up(run: Run) -> None:
    run.claims = replace(run.claims, totals={**run.claims.totals, "failed": 1})


def doubt_without_a_submission(run: Run) -> None:
    run.state(run.of(Kind.ORDINARY), state="active", job_state="in_doubt")
    run.claims = replace(run.claims, in_doubt_allowed=4)


def doubt_without_a_kill(run: Run) -> None:
    mail = run.of(Kind.ORDINARY)
    run.state(mail, state="active", job_state="in_doubt")
    run.claims = replace(run.claims, begun=frozenset({mail.lead.email}))


def wrong_password_taken(run: Run) -> None:
    run.claims = replace(run.claims, wrong_password="")


def wrong_password_in_our_words(run: Run) -> None:
    run.claims = replace(run.claims, wrong_password="could not log in")


def bad_row_untold(run: Run) -> None:
    run.claims = replace(run.claims, row_errors=run.claims.row_errors[1:])


def bad_row_off_by_one(run: Run) -> None:
    first, *rest = run.claims.row_errors
    run.claims = replace(run.claims, row_errors=[replace(first, row=first.row + 1), *rest])


def bad_row_another_column(run: Run) -> None:
    first, *rest = run.claims.row_errors
    run.claims = replace(run.claims, row_errors=[replace(first, column="Company"), *rest])


def bad_row_without_reason(run: Run) -> None:
    first, *rest = run.claims.row_errors
    run.claims = replace(run.claims, row_errors=[replace(first, message=" "), *rest])


def good_row_blamed(run: Run) -> None:
    errors = [*run.claims.row_errors, RowError(1, "email", "why")]
    run.claims = replace(run.claims, row_errors=errors)


def receipt_lost(run: Run) -> None:
    run.claims = replace(run.claims, receipts={**run.claims.receipts, "duplicate": 2})


def quarantine_silent(run: Run) -> None:
    first, second = run.claims.quarantine
    run.claims = replace(run.claims, quarantine=[first, replace(second, reason="")])


def quarantine_lost(run: Run) -> None:
    run.claims = replace(run.claims, installation=[])


def replay_unsettled(run: Run) -> None:
    first, second = run.claims.quarantine
    run.claims = replace(run.claims, quarantine=[replace(first, settled=False), second])


def replay_unsent(run: Run) -> None:
    run.mails[:] = [m for m in run.mails if m.lead != run.scenario.repaired]


def trespassed(run: Run) -> None:
    run.claims = replace(run.claims, trespassed=1)


def chain_broken(run: Run) -> None:
    broken = Audited(cast.AUDITED, "record 7 does not follow record 6")
    run.claims = replace(run.claims, audit=broken)


def chain_too_short(run: Run) -> None:
    run.claims = replace(run.claims, audit=Audited(cast.AUDITED - 1, None))


def part_dead(run: Run) -> None:
    run.claims = replace(run.claims, parts={"kafka": True, "sender": False})


def secret_logged(run: Run) -> None:
    run.logs.append(LogText(Path("reply.log"), "login with A-Password failed"))


def secret_in_the_databases_log(run: Run) -> None:
    run.logs.append(LogText(Path("postgres.log"), "Key (password)=(A-Password) already exists."))


def log_not_read(run: Run) -> None:
    run.logs[:] = [log for log in run.logs if log.path.stem != "bounce"]


BREACHES: dict[str, list[Spoil]] = {
    "each step at most once": [
        doubled, doubled_message_id, doubled_job, doubled_refusal, doubled_late,
        doubled_at_a_provider,
    ],
    "no step missing": [missing_step_2, missing_step_1_only, missing_refusal],
    "no step too many": [doubled, after_reply, after_refusal, to_the_suppressed],
    "none after a bounce": [after_late_bounce, after_refusal, report_never_came],
    "none after a reply": [after_reply, reply_never_came],
    "none after an unsubscribe": [after_unsubscribe, unsubscribe_never_came],
    "suppressed addresses untouched": [to_the_suppressed, to_the_forbidden],
    "gaps never under the cadence of 1 s": [one_millisecond_early],
    "every submission measured": [refusal_without_queue_id],
    "every mailbox sent": [one_mailbox_idle],
    "one conversation per lead": [broken_references, absent_references, another_subject],
    "one thread per lead at a provider": [another_thread, an_answer_astray],
    "follow-ups from their mailbox": [another_mailbox, nothing_went_on_elsewhere],
    "own words and a way out in each message": [another_leads_words, no_way_out],
    "vacation replies stop nothing": [vacation_never_came, stopped_by_vacation],
    "every lead in one state, the one its recipient made": [
        wrong_state, enrolled_twice, not_enrolled, a_stranger_enrolled,
    ],
    "states add up": [totals_differ, totals_do_not_add_up, not_enrolled],
    "doubt only where a submission was cut off": [
        doubt_without_a_kill, doubt_without_a_submission,
    ],
    "an unticked scope is told": [unticked_scope_taken],
    "a wrong password is told": [wrong_password_taken, wrong_password_in_our_words],
    "bad rows told by number": [
        bad_row_untold, bad_row_off_by_one, bad_row_another_column, bad_row_without_reason,
        good_row_blamed,
    ],
    "receipts for every good row": [receipt_lost],
    "quarantine tells why": [quarantine_silent, quarantine_lost],
    "the repaired lead was sent": [replay_unsettled, replay_unsent],
    "forbidden workspace untouched": [trespassed],
    "audit chain verifies": [chain_broken, chain_too_short],
    "every part is up at the end": [part_dead],
    "no secret, body or address in a log": [
        secret_logged, secret_in_the_databases_log, log_not_read,
    ],
}  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return faultless(tmp_path)


def test_faultless_run_holds_every_promise(run: Run) -> None:
    promises = run.check()
    assert {name: p.evidence for name, p in promises.items() if not p.held} == {}
    assert promises.keys() == BREACHES.keys(), "a promise without a breach, or the reverse"


@pytest.mark.parametrize(
    ("promise", "spoil"),
    [(promise, spoil) for promise, spoils in BREACHES.items() for spoil in spoils],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_breach_turns_its_promise_red(run: Run, promise: str, spoil: Spoil) -> None:
    spoil(run)
    found = run.check()[promise]
    assert not found.held, found.evidence


def test_gap_of_exactly_the_cadence_holds(run: Run) -> None:
    mine = [m for m in run.mails if m.mailbox == "ben@north.test"]
    mine[5].at = mine[4].at + SECOND
    assert run.check()["gaps never under the cadence of 1 s"].held


def test_probe_to_oneself_is_no_send_of_the_campaign(run: Run) -> None:
    probe = replace(
        run.of(Kind.ORDINARY), lead=replace(run.scenario.repaired, email="ada@north.test")
    )
    probe = replace(probe, mailbox="ada@north.test", at=probe.at + timedelta(milliseconds=300))
    run.extra_log += probe.log()
    assert run.check()["gaps never under the cadence of 1 s"].held


@pytest.mark.parametrize("left", [True, False], ids=["it had left", "it had not left"])
def test_job_in_doubt_after_a_kill_is_named_and_not_missing(run: Run, left: bool) -> None:
    mail = run.of(Kind.ORDINARY, 2)
    run.state(mail, state="active", job_state="in_doubt")
    if not left:
        run.mails.remove(mail)
    run.claims = replace(run.claims, in_doubt_allowed=4, begun=frozenset({mail.lead.email}))
    promises = run.check()
    assert {name: p.evidence for name, p in promises.items() if not p.held} == {}
    assert mail.lead.email in promises["no step missing"].evidence


def test_doubt_about_step_2_does_not_excuse_a_missing_step_1(run: Run) -> None:
    mail = run.of(Kind.ORDINARY, 2)
    run.state(mail, state="active", job_state="in_doubt")
    run.mails[:] = [m for m in run.mails if m.lead != mail.lead]
    run.claims = replace(run.claims, in_doubt_allowed=4, begun=frozenset({mail.lead.email}))
    assert not run.check()["no step missing"].held


def test_first_step_in_doubt_that_never_left_needs_no_reply(run: Run) -> None:
    mail = run.of(Kind.REPLY)
    run.state(mail, state="active", job_state="in_doubt")
    run.mails.remove(mail)
    del run.replies[mail.lead.email]
    run.claims = replace(run.claims, in_doubt_allowed=4, begun=frozenset({mail.lead.email}))
    promises = run.check()
    assert {name: p.evidence for name, p in promises.items() if not p.held} == {}


def test_evidence_never_repeats_a_secret(run: Run) -> None:
    secret_logged(run)
    found = run.check()["no secret, body or address in a log"]
    assert "reply.log: password of a mailbox" in found.evidence
    assert "a-password" not in found.evidence.lower()


def test_long_evidence_is_cut(run: Run) -> None:
    run.mails.clear()
    run.replies.clear()
    run.vacations.clear()
    run.reports.clear()
    assert "and 32 more" in run.check()["no step missing"].evidence
