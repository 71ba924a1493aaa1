"""One run from the first account on the mail host to the last promise."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import httpx

from paceline_demo import scenario as cast
from paceline_demo.api import ApiRefused
from paceline_demo.checker import check
from paceline_demo.facts import Claims, LogText, Promise
from paceline_demo.house import House
from paceline_demo.progress import Board, MailboxRow
from paceline_demo.providers import Providers
from paceline_demo.recipients import Recipients, accounts
from paceline_demo.report import Report
from paceline_demo.scenario import Scenario
from paceline_demo.truth import Held, Log, Submission, Truth, read_log, read_maildir
from paceline_local.parts.keys import Kind as KeyService
from paceline_local.stack import Stack

# Well above what a run takes on two busy cores; what is open then is told by the promises.
_CAMPAIGN_S: Final = 180.0
_LOOK_EVERY_S: Final = 0.5
_POLL_EVERY_S: Final = 1.5
# A kill comes in mid-campaign: step 1 is under way everywhere, step 2 has not begun.
_KILL_AFTER: Final = 40
# Of the mailbox that is paused: so many leads that some have follow-ups, so few that it has
# sent none of them, and before the kill.
_PAUSE_AFTER: Final = 6
# What a send that should not be would need to show up after the last state is final.
_SETTLE_S: Final = 2.0
# Postfix and Dovecot write addresses: that is what a mail host's log is for.
_MAIL_HOST: Final = frozenset({"postfix", "dovecot"})
_NO_SECRET: Final = ("role_id", "provisioned")


@dataclass(frozen=True, slots=True)
class Options:
    """What the run is asked for: a key service (None: as before), a service to kill."""

    keys: KeyService | None = None
    kill: str | None = None


async def drive(stack: Stack, options: Options, board: Board) -> Report:
    """Run the campaign on a stack that is up and return what the promises came to.

    Raise `ApiRefused`, `AdminFailed`, `PublishingFailed` or `httpx.TransportError`
    when it cannot be driven to its end.
    """
    scenario = cast.build()
    marks = _LogMarks(stack.layout.log)
    since = datetime.now(UTC)
    board.phase("accounts on the mail host and at the providers, two workspaces")
    providers = Providers(stack, scenario)
    house, *_ = await asyncio.gather(
        House.open(stack, scenario, providers, board),
        asyncio.to_thread(_people_in, stack, scenario),
        asyncio.to_thread(providers.open),
    )
    try:
        run = _Campaign(stack, scenario, options, board, house, providers, marks, since)
        return await run.to_the_end()
    finally:
        # Whatever happened, nothing of this run may go on sending.
        with suppress(ApiRefused, httpx.TransportError):
            await house.close()


def _people_in(stack: Stack, scenario: Scenario) -> None:
    """Give the mail host fresh accounts and empty maildirs for everybody of the scenario."""
    stack.mailhost.remove_users(scenario.addresses)
    stack.mailhost.add_users(accounts(scenario))


class _LogMarks:
    """Where each log of the stack ended when the run began."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._marks = {path: path.stat().st_size for path in folder.glob("*.log")}

    def read(self, path: Path) -> str:
        """Return what was written to a log since the run began."""
        mark = self._marks.get(path, 0)
        with path.open("rb") as stream:
            # A part that started again may have begun its log anew.
            stream.seek(mark if mark <= path.stat().st_size else 0)
            return stream.read().decode(errors="replace")

    def logs(self) -> list[LogText]:
        """Return every log of the run but the mail host's."""
        return [
            LogText(path, self.read(path))
            for path in sorted(self._folder.glob("*.log"))
            if path.stem not in _MAIL_HOST
        ]


class _Campaign:
    """The campaign of one run, its onlookers and its check."""

    def __init__(
        self,
        stack: Stack,
        scenario: Scenario,
        options: Options,
        board: Board,
        house: House,
        providers: Providers,
        marks: _LogMarks,
        since: datetime,
    ) -> None:
        self._stack, self._scenario, self._options = stack, scenario, options
        self._board, self._house, self._marks, self._since = board, house, marks, since
        self._providers = providers
        self._recipients = Recipients(
            scenario, stack.mailhost, stack.ports["smtp"], lambda line: board.event(line)
        )
        self._log = Log(())

    async def to_the_end(self) -> Report:
        house, board = self._house, self._board
        board.phase("connecting mailboxes: by password, and by consent at two providers")
        await house.connect_mailboxes()
        board.phase("campaign, suppression, import")
        await house.make_campaign()
        await house.suppress(self._scenario.suppressed.email)
        async with _alongside(self._recipients.play(), self._watch()):
            await house.start()
            await house.import_csv()
            board.phase("publishing from outside")
            await house.publish()
            await house.repair()
            board.phase("the campaign runs")
            await self._to_rest()
            await asyncio.sleep(_SETTLE_S)
        board.phase("checking the promises")
        return await self._report()

    async def _to_rest(self) -> None:
        """Wait until no enrollment has anything ahead.

        On the way one mailbox is paused, and killed what is to be killed.
        """
        deadline = time.monotonic() + _CAMPAIGN_S
        kill = self._options.kill
        paused = False
        while time.monotonic() < deadline:
            sent = sum(one.mailbox == self._scenario.paused for one in self._campaign_mail())
            if not paused and sent >= _PAUSE_AFTER:
                await self._house.pause(self._scenario.paused)
                paused = True
            if kill and len(self._campaign_mail()) >= _KILL_AFTER:
                await self._kill(kill)
                kill = None
            if await self._house.at_rest(len(self._scenario.expected)):
                return
            await asyncio.sleep(_POLL_EVERY_S)
        self._board.say(f"not at rest after {_CAMPAIGN_S:.0f} s")

    async def _kill(self, service: str) -> None:
        self._board.say(f"SIGKILL to {service}, after {len(self._campaign_mail())} submissions")
        self._stack.kill(service)
        await asyncio.to_thread(self._stack.restart, service)
        self._board.say(f"{service} is back")

    async def _watch(self) -> None:
        """Keep the board: the mail host's log as it grows, the API now and then."""
        polled = 0.0
        totals: Mapping[str, int] = {}
        boxes: Mapping[str, tuple[datetime | None, str]] = {}
        while True:
            known = {s.queue_id for s in self._log.submissions}
            self._log = await asyncio.to_thread(self._read_log)
            for submission in self._campaign_mail():
                if submission.queue_id not in known:
                    self._board.event(_told(submission))
            if time.monotonic() - polled >= _POLL_EVERY_S:
                polled = time.monotonic()
                # The board may be old for a moment; the API may be what was killed.
                with suppress(ApiRefused, httpx.TransportError):
                    totals, boxes = await self._house.totals(), await self._house.mailboxes()
            sent = Counter(s.mailbox for s in self._campaign_mail())
            self._board.update(
                [MailboxRow(email, sent[email], *boxes[email]) for email in boxes],
                totals,
                sent.total(),
            )
            await asyncio.sleep(_LOOK_EVERY_S)

    def _read_log(self) -> Log:
        lines = self._marks.read(self._stack.mailhost.log_path).splitlines()
        return read_log(lines, self._since).joined(self._providers.submissions())

    def _campaign_mail(self) -> list[Submission]:
        """Return what the sending mailboxes submitted to anybody but themselves."""
        return [
            submission
            for sender in self._scenario.senders
            for submission in self._log.of(sender.email)
            if submission.recipients != (sender.email,)
        ]

    async def _report(self) -> Report:
        parts = await asyncio.to_thread(self._stack.status)
        claims = await self._house.claims(
            {row.process: row.ready for row in parts},
            # Each mailbox has one lease: so many submissions a killed sender can leave open.
            in_doubt_allowed=len(self._scenario.senders) if self._options.kill == "sender" else 0,
        )
        promises = await asyncio.to_thread(self._check, claims)
        return Report(
            ok=all(promise.held for promise in promises),
            took_s=round(self._board.elapsed_s, 1),
            leads=self._leads(claims),
            promises=promises,
            parts={row.part: row.version for row in parts if row.part != "keys"}
            | {"vault": "twin" if self._stack.keys.kind == "twin" else self._stack.keys.version()},
            urls=self._house.urls(),
        )

    def _check(self, claims: Claims) -> list[Promise]:
        truth = self._truth()
        secrets = self._secrets()
        return check(
            self._scenario, truth, self._recipients.diary, claims, self._marks.logs(), secrets
        )

    def _truth(self) -> Truth:
        def maildirs(owners: set[str]) -> dict[str, list[Held]]:
            host = self._stack.mailhost
            return {o: read_maildir(o, host.maildir(o), self._since) for o in sorted(owners)}

        senders = {sender.email for sender in self._scenario.senders}
        own = {sender.email for sender in self._scenario.on_the_mail_host}
        return Truth(
            self._read_log(),
            maildirs(set(self._scenario.addresses) - senders),
            maildirs(own) | self._providers.inboxes(),
        )

    def _secrets(self) -> dict[str, str]:
        """Return what no log may hold: every secret, every address, words of every body."""
        scenario = self._scenario
        held = {
            path.read_text().strip(): f"secret {path.parent.name}/{path.name}"
            for path in self._stack.layout.secrets.rglob("*")
            if path.is_file() and not any(word in path.name for word in _NO_SECRET)
        }
        held |= {sender.password: "password of a mailbox" for sender in scenario.senders}
        held |= dict.fromkeys(self._providers.tokens(), "token of a mailbox")
        held[scenario.wrong_password] = "the wrong password"
        held |= self._house.secrets()
        held |= dict.fromkeys(scenario.addresses, "address")
        held |= {cast.marker(n): f"body of step {n}" for n in range(1, cast.STEPS + 1)}
        return {text: what for text, what in held.items() if text}

    def _leads(self, claims: Claims) -> dict[str, int]:
        scenario = self._scenario
        return {
            "in the CSV": scenario.csv.count(b"\n") - 1,
            "bad rows": len(scenario.bad_rows),
            "duplicates": len(scenario.duplicate_rows),
            "suppressed before": 1,
            "published": len(cast.events(scenario, "", "", ("", ""))),
            "quarantined": len(claims.quarantine) + len(claims.installation),
            "enrolled": len(claims.enrollments),
            **{state: n for state, n in sorted(claims.totals.items()) if n},
        }


@asynccontextmanager
async def _alongside(*onlookers: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run endless coroutines beside the block; one that fails fails the block when it ends."""
    tasks = [asyncio.create_task(onlooker) for onlooker in onlookers]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled() and (fault := task.exception()):
            raise fault


def _told(submission: Submission) -> str:
    to = ", ".join(submission.recipients) or "…"
    return f"{submission.mailbox} → {to}{' refused' if submission.refused else ''}"
