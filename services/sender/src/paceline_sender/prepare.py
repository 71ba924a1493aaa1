"""Ahead of T: load, open the credential, render, build, connect, sign in, leave a draft.

`Preparer` holds leased slots in the event loop's timer heap. Shortly before
its slot a job is loaded together with the others that are due, its message is
built, its mailbox's connection opened; then it goes to the `Submitter`. What
cannot be sent fails here, before anything was claimed.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

from sqlalchemy import Row

from paceline_common import failpoints, telemetry
from paceline_common.clock import Clock
from paceline_common.db.session import Database
from paceline_common.db.sql import Queries, number_array
from paceline_common.kafka.quarantine import Fault, classify
from paceline_common.keys import KeyService, KeyServiceError, SealBroken
from paceline_common.storage import StorageUnavailable
from paceline_common.telemetry import Metrics
from paceline_providers.base import Fence, ThreadHint
from paceline_sender.accounts import account_of, opened_all
from paceline_sender.compose import Built, Composer, Macs, Unbuildable
from paceline_sender.domain import message
from paceline_sender.domain.outcome import REMEDIES, Answer
from paceline_sender.domain.schedule import ClockReading
from paceline_sender.drafts import Drafts
from paceline_sender.intents import Intents
from paceline_sender.job import HoldRequest, Job, Ready, Report, Session
from paceline_sender.submit import Submitter
from paceline_sender.transport import Account

_GATHER_S: Final = 0.002
_RETRY_S: Final = 0.2
_KEYS_AWAY_HOLD: Final = timedelta(seconds=30)
_MAILBOX_AWAY_HOLD: Final = timedelta(minutes=15)
_BATCHES_AT_ONCE: Final = 4

log = telemetry.logger("sender.prepare")


class Transport(Protocol):
    """Opens mailboxes."""

    async def open(self, account: Account) -> Session | Answer:
        """Connect and sign in; an `unsent` answer says why that did not work. Never raises
        for what a server or the network does."""
        ...


class Preparer:
    """Holds slots until shortly before their time and hands finished messages on.

    `hold` may be called at any time; `run` lives as long as the process and,
    once `submitter.stopping` is set, gives back what is merely held, waits for
    what is claimed, and returns.
    """

    def __init__(
        self,
        db: Database,
        keys: KeyService,
        transport: Transport,
        submitter: Submitter,
        clock: Clock,
        metrics: Metrics,
        *,
        composer: Composer,
        drafts: Drafts,
        intents: Intents,
        prepare_ahead: timedelta,
        jobs_per_batch: int,
    ) -> None:
        self._db = db
        self._keys = keys
        self._transport = transport
        self._submitter = submitter
        self._clock = clock
        self._metrics = metrics
        self._composer = composer
        self._drafts = drafts
        self._intents = intents
        self._prepare_ahead = prepare_ahead
        self._jobs_per_batch = jobs_per_batch
        self._queries = Queries("paceline_sender")
        self._held: dict[tuple[int, int, int], tuple[Job, asyncio.TimerHandle]] = {}
        self._due: list[Job] = []
        self._in_hand: set[tuple[int, int, int]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._batches = asyncio.Semaphore(_BATCHES_AT_ONCE)

    def hold(self, jobs: Iterable[Job]) -> None:
        """Take leased slots; one that is held already is the same lease told twice."""
        loop = asyncio.get_running_loop()
        for job in jobs:
            if job.key in self._held or job.key in self._in_hand:
                continue
            wait = self._submitter.seconds_until(job.slot_at - self._prepare_ahead)
            timer = loop.call_later(max(wait, 0.0), self._release, job.key)
            self._held[job.key] = (job, timer)
        self._metrics.gauge("paceline_held_jobs").set(len(self._held))

    async def run(self) -> None:
        """Prepare what comes due until the process stops; then drain."""
        stop = asyncio.create_task(self._submitter.stopping.wait())
        stop.add_done_callback(lambda _: self._wake.set())
        try:
            while not self._submitter.stopping.is_set():
                await self._wake.wait()
                self._wake.clear()
                if self._due:
                    # What comes due in the same moment is loaded in one go.
                    await asyncio.sleep(_GATHER_S)
                while self._due:
                    await self._batches.acquire()
                    batch = self._due[: self._jobs_per_batch]
                    del self._due[: self._jobs_per_batch]
                    self._spawn(self._prepare_batch(batch))
            await self._drain()
        finally:
            stop.cancel()

    def _release(self, key: tuple[int, int, int]) -> None:
        job, _ = self._held.pop(key)
        self._metrics.gauge("paceline_held_jobs").set(len(self._held))
        self._in_hand.add(key)
        self._due.append(job)
        self._wake.set()

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _drain(self) -> None:
        while self._held or self._due or self._tasks:
            for job, timer in self._held.values():
                timer.cancel()
                self._in_hand.add(job.key)
                self._due.append(job)
            self._held.clear()
            for job in self._due:
                self._spawn(self._give_back(job, "sender_stopping"))
            self._due.clear()
            if self._tasks:
                await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)

    # ---- a batch

    async def _prepare_batch(self, batch: Sequence[Job]) -> None:
        begun: set[tuple[int, int, int]] = set()
        try:
            by_key = {job.key: job for job in batch}
            # Without rows the leases have run out: the scheduler takes the jobs back. A job
            # without a row has moved on since: cancelled, suspended, or somebody else's.
            rows = await self._load(batch)
            found = [(by_key[row.workspace_id, row.job_id, row.fence], row) for row in rows]
            if found:
                begun = await self._build_and_send(found)
        except Exception as error:  # noqa: BLE001 - one batch's bug must not stop the others
            log.error("batch dropped", count=len(batch), **telemetry.describe_error(error))
        finally:
            self._in_hand -= {job.key for job in batch} - begun
            self._batches.release()

    async def _load(self, batch: Sequence[Job]) -> Sequence[Row[Any]]:
        last = max(job.not_after for job in batch)
        while True:
            try:
                async with self._db.transaction(job.workspace_id for job in batch) as tx:
                    asked = self._clock.monotonic()
                    result = await tx.execute(
                        self._queries["load_jobs"],
                        {
                            "workspaces": number_array(job.workspace_id for job in batch),
                            "jobs": number_array(job.job_id for job in batch),
                            "fences": number_array(job.fence for job in batch),
                            "as_mailbox": None,
                            "preview": False,
                        },
                    )
                    answered = self._clock.monotonic()
                    rows = result.all()
            except Exception as error:
                if classify(error) is not Fault.DEPENDENCY:
                    raise
                log.warning("load failed", count=len(batch), **telemetry.describe_error(error))
                if self._clock.now() > last:
                    return ()
                await asyncio.sleep(_RETRY_S)
            else:
                if rows:
                    self._submitter.postgres_clock.learn(
                        ClockReading(rows[0].db_now, asked, answered)
                    )
                return rows

    async def _build_and_send(
        self, found: Sequence[tuple[Job, Row[Any]]]
    ) -> set[tuple[int, int, int]]:
        """Start one task per job, which ends with letting go of it; return the jobs' keys."""
        begun = {job.key for job, _ in found}
        try:
            macs = await self._macs([job for job, _ in found])
            credentials = await self._credentials([row for _, row in found])
        except KeyServiceError as error:
            log.warning("key service failed", **telemetry.describe_error(error))
            for job, _ in found:
                self._spawn(
                    self._give_back(
                        job, "key_service_unavailable", self._clock.now() + _KEYS_AWAY_HOLD
                    )
                )
            return begun
        for job, row in found:
            job_mac, unsubscribe_mac = macs[job.key]
            credential = credentials[row.workspace_id, row.mailbox_id]
            self._spawn(self._prepare(job, row, job_mac, unsubscribe_mac, credential))
            # One message is built per turn of the loop: others' slots open meanwhile.
            await asyncio.sleep(0)
        return begun

    async def _macs(self, jobs: Sequence[Job]) -> dict[tuple[int, int, int], tuple[str, str]]:
        inputs = [message.job_mac_input(job.workspace, job.public_id) for job in jobs]
        inputs += [message.unsubscribe_mac_input(job.workspace, job.public_id) for job in jobs]
        macs = await self._keys.mac(inputs)
        count = len(jobs)
        return {job.key: (macs[n], macs[n + count]) for n, job in enumerate(jobs)}

    async def _credentials(
        self, rows: Sequence[Row[Any]]
    ) -> dict[tuple[int, int], Mapping[str, Any] | SealBroken | None]:
        """Return each mailbox's credential; None without a mailbox, the error if it is broken."""
        found: dict[tuple[int, int], Mapping[str, Any] | SealBroken | None] = {}
        sealed: dict[int, dict[int, bytes]] = {}
        for row in rows:
            if row.credential is None:
                found[row.workspace_id, row.mailbox_id] = None
            else:
                sealed.setdefault(row.workspace_id, {})[row.mailbox_id] = bytes(row.credential)
        answers = await asyncio.gather(
            *(opened_all(self._keys, workspace, values) for workspace, values in sealed.items())
        )
        for workspace, credentials in zip(sealed, answers, strict=True):
            found |= {(workspace, mailbox): one for mailbox, one in credentials.items()}
        return found

    # ---- one job

    async def _prepare(
        self,
        job: Job,
        row: Row[Any],
        job_mac: str,
        unsubscribe_mac: str,
        credential: Mapping[str, Any] | SealBroken | None,
    ) -> None:
        job = replace(
            job, enrollment_id=row.enrollment_id, campaign_id=row.campaign_id, step=row.step
        )
        try:
            if row.from_email is None or credential is None or not row.is_active:
                retry_at = self._clock.now() + _MAILBOX_AWAY_HOLD
                await self._give_back(job, "mailbox_not_available", retry_at)
                return
            if isinstance(credential, SealBroken):
                await self._hold_mailbox(job, row)
                return
            try:
                built = await self._composer.compose(job, row, Macs(job_mac, unsubscribe_mac))
            except Unbuildable as fault:
                await self._fail(job, row, fault.reason, str(fault))
                return
            except (KeyServiceError, StorageUnavailable) as error:
                log.warning("message not made", job=job.public_id, reason_code=_away(error))
                retry_at = self._clock.now() + _KEYS_AWAY_HOLD
                await self._give_back(job, _away(error), retry_at)
                return
            account = account_of(row, credential)
            # It is not needed for as long as the submission may take.
            credential = None
            session = await self._open(built, account)
            del account
            if session is not None:
                await self._submit(built, session)
        except Exception as error:  # noqa: BLE001 - one job's bug must not stop the others
            log.error(
                "job dropped",
                job=job.public_id,
                mailbox=job.mailbox,
                **telemetry.describe_error(error),
            )
        finally:
            self._in_hand.discard(job.key)

    async def _open(self, built: Built, account: Account) -> Session | None:
        """Open the mailbox; None when that did not work and the job was given back."""
        job, row = built.job, built.row
        left_s = max(self._submitter.seconds_until(job.not_after), 0.0)
        try:
            async with asyncio.timeout(left_s):
                session = await self._transport.open(account)
        except TimeoutError:
            await self._give_back(job, "too_late")
            return None
        if isinstance(session, Answer):
            await self._submitter.not_prepared(job, session, built.history, row.provider)
            return None
        return session

    async def _submit(self, built: Built, session: Session) -> None:
        job, row = built.job, built.row
        thread = None
        # What this mailbox sent last may belong to another conversation than this message.
        if row.previous_message_id in built.references:
            thread = ThreadHint(row.thread_id, row.previous_id)
        left: Fence | None = None
        try:
            if session.makes_drafts:
                await self._intents.note(job, row.provider)
            fence = await session.prepare(built.data, thread)
            if isinstance(fence, Answer):
                await self._submitter.not_prepared(job, fence, built.history, row.provider)
                return
            self._submitter.prepared(job)
            if fence is not None:
                failpoints.hit("sender.draft_made")
            needed = await self._submitter.submit(
                Ready(
                    job=job,
                    session=session,
                    provider=row.provider,
                    envelope_from=built.envelope_from,
                    recipient=row.to_email,
                    message_id=built.message_id,
                    subject=built.subject,
                    references=built.references,
                    data=built.data,
                    history=built.history,
                    variant=built.variant,
                    thread=thread,
                    fence=fence,
                )
            )
            left = None if needed else fence
        finally:
            if left is None:
                await session.close()
        if left is not None:
            # The next message of the mailbox does not wait for that.
            self._spawn(self._discard(session, job, left))

    async def _discard(self, session: Session, job: Job, fence: Fence) -> None:
        """Destroy a draft that nobody needs; what fails here is tried again by `Drafts`."""
        try:
            if await session.discard(fence):
                failpoints.hit("sender.draft_destroyed")
                await self._drafts.forget(job.workspace_id, job.job_id, fence)
        except Exception as error:  # noqa: BLE001 - tidying up must not stop anything
            log.warning("draft left over", job=job.public_id, **telemetry.describe_error(error))
        finally:
            await session.close()

    async def _fail(self, job: Job, row: Row[Any], reason: str, detail: str) -> None:
        log.info("job failed", job=job.public_id, reason_code=reason)
        await self._submitter.report(
            Report(
                job=job,
                outcome="failed",
                reason=reason,
                claimed=False,
                provider=row.provider or "",
                text=detail,
            )
        )

    async def _hold_mailbox(self, job: Job, row: Row[Any]) -> None:
        await self._submitter.report(
            Report(
                job=job,
                outcome="unsent",
                reason="credential_unreadable",
                claimed=False,
                provider=row.provider,
                outcome_class="config",
                hold=HoldRequest("credential_unreadable", None, REMEDIES["credential_unreadable"]),
            )
        )

    async def _give_back(self, job: Job, reason: str, retry_at: datetime | None = None) -> None:
        try:
            await self._submitter.report(
                Report(
                    job=job,
                    outcome="unsent",
                    reason=reason,
                    claimed=False,
                    provider="",
                    retry_at=retry_at,
                )
            )
        finally:
            self._in_hand.discard(job.key)


def _away(error: KeyServiceError | StorageUnavailable) -> str:
    if isinstance(error, StorageUnavailable):
        return "storage_unavailable"
    return "key_service_unavailable"
