"""A forged run: what a faultless campaign would leave on the mail host, to be spoilt by tests."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from pathlib import Path

from paceline_common import topics
from paceline_demo import scenario as cast
from paceline_demo.checker import check
from paceline_demo.facts import (
    Audited,
    Claims,
    Diary,
    Enrolled,
    LogText,
    Promise,
    Quarantined,
    RowError,
)
from paceline_demo.scenario import Kind, Lead, Scenario
from paceline_demo.truth import Held, Submission, Truth, parse, read_log, read_maildir

START = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)
_DIGITS = "0123456789BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz"


def queue_id(at: datetime) -> str:
    """Return the long queue id that Postfix makes at `at`."""
    since = at - datetime(1970, 1, 1, tzinfo=UTC)
    whole, micros = since // timedelta(seconds=1), since.microseconds
    return f"{_digits(whole, 6)}{_digits(micros, 4)}z1SKTZ"


def _digits(value: int, width: int) -> str:
    text = ""
    while value or len(text) < width:
        value, digit = divmod(value, 52)
        text = _DIGITS[digit] + text
    return text


@dataclass
class Mail:
    """One forged submission of the campaign; with a `thread_id`, at a provider."""

    lead: Lead
    step: int
    mailbox: str
    at: datetime
    message_id: str
    job: str
    thread_id: str | None = None
    references: list[str] = field(default_factory=list)
    subject: str = ""
    body: str = ""
    one_click: bool = True

    def text(self) -> bytes:
        """Return the message as the mail host delivers it."""
        message = EmailMessage()
        message["Received"] = received(self.at)
        message["From"] = self.mailbox
        message["To"] = self.lead.email
        message["Subject"] = self.subject
        message["Message-ID"] = self.message_id
        if self.references:
            message["In-Reply-To"] = self.references[-1]
            message["References"] = " ".join(self.references)
        message["X-Paceline-Job"] = self.job
        if self.one_click and self.lead.kind is not Kind.VACATION:
            message["List-Unsubscribe"] = "<http://127.0.0.1:1/u/x>, <mailto:a@north.test>"
            message["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
        message.set_content(self.body)
        return bytes(message)

    def log(self) -> Iterator[str]:
        """Yield the log's lines of this submission."""
        if self.thread_id is not None:
            return
        head = f"Nov 20 09:00:00 mx postfix/smtpd[12]: {queue_id(self.at)}: "
        yield f"{head}client=unknown[127.0.0.1], sasl_method=PLAIN, sasl_username={self.mailbox}"
        if self.lead.kind is Kind.UNKNOWN:
            yield (
                f"{head}reject: RCPT from unknown[127.0.0.1]: 550 5.1.1 <{self.lead.email}>: "
                f"Recipient address rejected: User unknown; from=<{self.mailbox}> "
                f"to=<{self.lead.email}> proto=ESMTP helo=<x>"
            )
            return
        yield f"{head}message-id={self.message_id}"
        fate = "bounced (550)" if self.lead.kind is Kind.LATE else "sent (250 2.0.0)"
        yield f"{head}to=<{self.lead.email}>, relay=x, delay=0.04, dsn=2.0.0, status={fate}"

    def taken(self) -> Submission:
        """Return what the provider's book says of it."""
        return Submission(
            f"p-{self.message_id}", self.at, self.mailbox, self.message_id, self.job,
            self.thread_id, fate={self.lead.email: "sent"},
        )  # fmt: skip


def received(at: datetime) -> str:
    """Return the Received line with the queue id of `at`."""
    return (
        f"from x (unknown [127.0.0.1]) by mx.example.test (Postfix) with ESMTPA id {queue_id(at)}"
    )


@dataclass
class Run:
    """A run that can be spoilt, then checked."""

    home: Path
    scenario: Scenario
    mails: list[Mail]
    replies: dict[str, datetime]
    vacations: dict[str, datetime]
    reports: dict[str, datetime]
    diary: Diary
    claims: Claims
    extra_log: list[str] = field(default_factory=list)
    # Whose answers a provider files in a conversation of their own.
    astray: set[str] = field(default_factory=set)
    logs: list[LogText] = field(default_factory=list)

    def of(self, kind: Kind, step: int = 1) -> Mail:
        """Return the first mail of a step to a recipient of `kind`."""
        return next(m for m in self.mails if m.lead.kind is kind and m.step == step)

    def again(self, mail: Mail, after: timedelta, **changes: object) -> Mail:
        """Add a copy of `mail`, submitted `after` it."""
        copy = replace(mail, at=mail.at + after, **changes)  # type: ignore[arg-type]
        self.mails.append(copy)
        return copy

    def state(self, mail: Mail, **changes: object) -> None:
        """Change what the API says of the lead of `mail`, its totals with it."""
        rows = [
            replace(row, **changes) if row.email == mail.lead.email else row  # type: ignore[arg-type]
            for row in self.claims.enrollments
        ]
        self.claims = replace(self.claims, enrollments=rows, totals=_totals(rows))

    def check(self) -> dict[str, Promise]:
        """Write the maildirs and the log, read them back, return the promises by name."""
        boxes = {sender.email for sender in self.scenario.senders}
        owners = {m.lead.email for m in self.mails} | self.scenario.untouchable
        for number, mail in enumerate(self.mails):
            if mail.lead.kind not in (Kind.UNKNOWN, Kind.LATE):
                self._store(mail.lead.email, f"{number}", mail.text())
        self._answers()
        lines = [line for mail in self.mails for line in mail.log()] + self.extra_log
        taken = [mail.taken() for mail in self.mails if mail.thread_id is not None]
        truth = Truth(
            read_log(lines, START).joined(taken),
            {o: read_maildir(o, self.home / o, START) for o in owners},
            {o: [*read_maildir(o, self.home / o, START), *self._inbox(o)] for o in boxes},
        )
        secrets = {"a-password": "password of a mailbox"}
        found = check(self.scenario, truth, self.diary, self.claims, self.logs, secrets)
        return {promise.name: promise for promise in found}

    def _came(self) -> Iterator[tuple[Mail, str, bytes]]:
        """Yield what came in answer to which mail, with a name for it."""
        first = {m.lead.email: m for m in self.mails if m.step == 1}
        for email, at in self.replies.items():
            yield first[email], f"r-{email}", _answer(email, at, auto="no")
        for email, at in self.vacations.items():
            yield first[email], f"v-{email}", _answer(email, at, auto="auto-replied")
        for email, at in self.reports.items():
            yield first[email], f"d-{email}", _report(email, at)

    def _answers(self) -> None:
        for mail, name, raw in self._came():
            if mail.thread_id is None:
                self._store(mail.mailbox, name, raw)

    def _inbox(self, owner: str) -> Iterator[Held]:
        """Yield what came to a mailbox at a provider."""
        for mail, _, raw in self._came():
            if mail.mailbox == owner and mail.thread_id is not None:
                astray = mail.lead.email in self.astray
                yield parse(owner, raw, thread_id="astray" if astray else mail.thread_id)

    def _store(self, owner: str, name: str, raw: bytes) -> None:
        folder = self.home / owner / "new"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(raw)


def faultless(home: Path) -> Run:
    """Return a run that holds every promise."""
    scenario = _few(cast.build())
    mails: list[Mail] = []
    run = Run(home, scenario, mails, {}, {}, {}, Diary(), _claims(scenario))
    for part in ("postgres", "redis", "kafka", "keys", *topics.SERVICES):
        run.logs.append(LogText(Path(f"{part}.log"), '{"event": "submitted", "job": "job_1"}'))
    boxes = [sender.email for sender in scenario.senders]
    providers = {sender.email for sender in scenario.at_providers}
    # A queue id is an instant: no two mailboxes submit at the same microsecond.
    clock = {box: START + timedelta(milliseconds=7 * n) for n, box in enumerate(boxes)}
    for step in (1, 2):
        for number, lead in enumerate(scenario.expected):
            if cast.STEPS_OF[lead.kind] < step:
                continue
            box = boxes[number % len(boxes)]
            if step == 2 and box == scenario.paused:
                box = boxes[0]
            clock[box] += timedelta(seconds=1.1)
            first = f"<1.{number}@north.test>"
            mails.append(
                Mail(
                    lead, step, box, clock[box],
                    message_id=first if step == 1 else f"<2.{number}@north.test>",
                    job=f"job_{step}{number:04d}.ws_1.mac",
                    references=[] if step == 1 else [first],
                    subject="A question" if step == 1 else "Re: A question",
                    thread_id=f"t{number}" if box in providers else None,
                    body=f"{cast.greeting(lead)}\n\n({cast.marker(step)})\n",
                )
            )  # fmt: skip
    _answered(run)
    return run


def _few(scenario: Scenario) -> Scenario:
    """Return the scenario with as many leads of each kind as there are mailboxes, one each."""
    kept: dict[Kind, list[Lead]] = {}
    for lead in (*scenario.imported, *scenario.published):
        kept.setdefault(lead.kind, []).append(lead)
    few = tuple(lead for leads in kept.values() for lead in leads[: len(scenario.senders)])
    return replace(scenario, imported=few, published=())


def _answered(run: Run) -> None:
    soon = timedelta(seconds=1)
    into: dict[Kind, dict[str, datetime]] = {
        Kind.REPLY: run.replies,
        Kind.VACATION: run.vacations,
        Kind.LATE: run.reports,
        # A provider takes what the mail host refuses, and reports.
        Kind.UNKNOWN: run.reports,
        Kind.UNSUBSCRIBE: run.diary.unsubscribed,
    }
    for mail in run.mails:
        refused = mail.lead.kind is Kind.UNKNOWN and mail.thread_id is None
        if mail.step == 1 and mail.lead.kind in into and not refused:
            into[mail.lead.kind][mail.lead.email] = mail.at + soon


def _claims(scenario: Scenario) -> Claims:
    rows = [
        Enrolled(lead.email, cast.STATE_OF[lead.kind], None, None, cast.STEPS_OF[lead.kind])
        for lead in scenario.expected
    ]
    return Claims(
        wrong_password="535 5.7.8 Error: authentication failed",
        unticked="not granted: https://www.googleapis.com/auth/gmail.modify",
        enrollments=rows,
        totals=_totals(rows),
        row_errors=[RowError(row, column, "why") for row, column in scenario.bad_rows.items()],
        receipts={"enrolled": len(scenario.imported) - 1, "duplicate": 3, "suppressed": 1},
        quarantine=[
            Quarantined("qua_1", "email: not an address", settled=True),
            Quarantined("qua_2", "the body is not JSON: it ends early", settled=False),
        ],
        installation=[
            Quarantined("qua_3", "publisher may not enroll into ws_2", settled=False),
        ],
        trespassed=0,
        audit=Audited(cast.AUDITED, None),
        parts={"kafka": True, "sender": True},
    )


def _totals(rows: list[Enrolled]) -> dict[str, int]:
    return {state: sum(r.state == state for r in rows) for state in {r.state for r in rows}}


def _answer(email: str, at: datetime, auto: str) -> bytes:
    message = EmailMessage()
    message["Received"] = received(at)
    message["From"] = email
    message["Subject"] = "Re: A question"
    message["Message-ID"] = f"<{at.timestamp()}@example.test>"
    if auto != "no":
        message["Auto-Submitted"] = f"{auto} (vacation)"
    message.set_content("an answer")
    return bytes(message)


def _report(email: str, at: datetime) -> bytes:
    return (
        f"Received: by mx.example.test (Postfix)\r\n\tid {queue_id(at)}; Fri, 20 Nov 2026\r\n"
        "From: MAILER-DAEMON@example.test\r\nAuto-Submitted: auto-replied\r\n"
        'Content-Type: multipart/report; report-type=delivery-status; boundary="b"\r\n\r\n'
        "--b\r\nContent-Type: text/plain\r\n\r\nSorry.\r\n"
        "--b\r\nContent-Type: message/delivery-status\r\n\r\n"
        "Reporting-MTA: dns; mx.example.test\r\n\r\n"
        f"Final-Recipient: rfc822; {email}\r\nAction: failed\r\nStatus: 5.1.1\r\n\r\n--b--\r\n"
    ).encode()


Spoil = Callable[[Run], None]
