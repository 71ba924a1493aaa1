"""A private Postgres, key service and mail host, and one campaign on them."""

import asyncio
import os
import random
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import hvac
import msgspec
import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb
from pydantic import SecretStr

from paceline_common import events, ids
from paceline_common.clock import SystemClock
from paceline_common.db import Database
from paceline_common.db.outbox import Outbox
from paceline_common.keys import KeyService
from paceline_common.storage import AttachmentFiles, ObjectStore
from paceline_common.telemetry import Metrics
from paceline_local.stack import Stack
from paceline_providers.base import Fence, ThreadHint
from paceline_providers.proof import Prover
from paceline_sender.accounts import Accounts
from paceline_sender.app import build
from paceline_sender.attachments import AttachmentLoader
from paceline_sender.compose import Composer
from paceline_sender.domain.outcome import Answer
from paceline_sender.drafts import Drafts
from paceline_sender.intents import Intents
from paceline_sender.job import Job, Session
from paceline_sender.metrics import METRICS
from paceline_sender.prepare import Preparer
from paceline_sender.reconcile import Reconciler
from paceline_sender.settings import SenderSettings
from paceline_sender.submit import Submitter
from paceline_sender.transport import Account, MailTransport

PASSWORD = "mailbox-password-7"


@dataclass(frozen=True)
class KeyLogin:
    """What `KeyService` needs to sign in as one principal."""

    keys_url: str
    keys_role_id: str
    keys_secret_id: SecretStr


@pytest.fixture(scope="session")
def house() -> Iterator[Stack]:
    run = Path(tempfile.mkdtemp(prefix="pl-sender-"))
    run.chmod(0o755)
    stack = Stack(run)
    try:
        yield stack.up(keys="twin", services=False)
    finally:
        stack.down()
        shutil.rmtree(stack.layout.state, ignore_errors=True)
        shutil.rmtree(run, ignore_errors=True)


def key_login(stack: Stack, principal: str) -> KeyLogin:
    secret = stack.passwords.folder(principal) / "paceline_keys_secret_id"
    return KeyLogin(stack.keys.url(), stack.keys.role_id(principal), SecretStr(secret.read_text()))


@pytest.fixture(scope="session")
def settings(house: Stack) -> SenderSettings:
    login = key_login(house, "sender")
    return SenderSettings(
        http_port=0,
        internal_token=SecretStr("internal-token"),
        postgres_host="127.0.0.1",
        postgres_port=house.ports["postgres"],
        postgres_user="sender",
        postgres_password=SecretStr(house.passwords.get("sender", "paceline_postgres_password")),
        kafka_bootstrap="127.0.0.1:1",
        kafka_user="sender",
        kafka_password=SecretStr("none"),
        keys_url=login.keys_url,
        keys_role_id=login.keys_role_id,
        keys_secret_id=login.keys_secret_id,
        public_url="https://mail.example",
        reply_url="http://127.0.0.1:1",
        reply_token=SecretStr("none"),
        storage_url=f"file://{house.layout.run}/files",
        host_allowlist="127.0.0.0/8",
        tls_ca_file=house.mailhost.ca_file,
        dead_after_s=0.5,
        beat_s=0.1,
    )


@dataclass
class FakeSession:
    """A connection that answers as told and remembers what it was given."""

    transport: "FakeTransport"
    account: Account
    closed: bool = False

    async def submit(
        self,
        envelope_from: str,
        recipient: str,
        data: bytes,
        *,
        before_mail_from: Callable[[], bool],
        thread: ThreadHint | None = None,
        fence: Fence | None = None,
    ) -> Answer:
        if self.transport.stall_s:
            await asyncio.sleep(self.transport.stall_s)
        if not before_mail_from():
            return Answer("unsent", reason="too_late")
        self.transport.submitted.append((envelope_from, recipient, data, datetime.now(UTC)))
        await self.transport.answering.wait()
        return self.transport.answers.get(recipient, Answer("accepted", code=250, text="2.0.0 Ok"))

    async def prepare(self, data: bytes, thread: ThreadHint | None) -> Fence | Answer | None:
        if not self.transport.drafts:
            return None
        self.transport.made.append(f"draft-{len(self.transport.made) + 1}")
        return Fence("gmail", self.transport.made[-1])

    @property
    def makes_drafts(self) -> bool:
        return self.transport.drafts

    async def discard(self, fence: Fence) -> bool:
        self.transport.discarded.append(fence.draft_id)
        return self.transport.destroys

    async def close(self) -> None:
        self.closed = True


@dataclass
class FakeTransport:
    """Opens `FakeSession`s, or refuses with `refusal`; with `drafts` each makes one."""

    drafts: bool = False
    destroys: bool = True
    made: list[str] = field(default_factory=list)
    discarded: list[str] = field(default_factory=list)
    answers: dict[str, Answer] = field(default_factory=dict)
    refusal: Answer | None = None
    stall_s: float = 0.0
    submitted: list[tuple[str, str, bytes, datetime]] = field(default_factory=list)
    sessions: list[FakeSession] = field(default_factory=list)
    answering: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.answering.set()

    async def open(self, account: Account) -> Session | Answer:
        if self.refusal is not None:
            return self.refusal
        session = FakeSession(self, account)
        self.sessions.append(session)
        return session

    def prover(self, account: Account) -> Prover | None:
        return None


@dataclass
class World:
    """One workspace with a mailbox and a two-step campaign; rows are made as superuser."""

    sql: "psycopg.Connection[dict[str, Any]]"
    workspace_id: int
    mailbox_id: int
    campaign_id: int
    pool_id: int
    email: str

    def rows(self, statement: str, *args: object) -> list[dict[str, Any]]:
        cursor = self.sql.execute(statement.encode(), args)
        return cursor.fetchall() if cursor.description else []

    def one(self, statement: str, *args: object) -> dict[str, Any]:
        (row,) = self.rows(statement, *args)
        return row

    def lead(self, email: str, **fields: Any) -> dict[str, Any]:
        """Add a lead with its address and an active enrollment; return the enrollment."""
        address, domain = (
            self.one(
                "INSERT INTO scheduler.address (workspace_id, kind, hash) VALUES (%s, %s, %s)"
                " RETURNING address_id",
                self.workspace_id, kind, os.urandom(32),
            )["address_id"]
            for kind in ("address", "domain")
        )  # fmt: skip
        standard = {name: fields.pop(name, None) for name in ("last_name", "company")}
        lead = self.one(
            "INSERT INTO scheduler.lead (workspace_id, address_id, domain_id, email, first_name,"
            " last_name, company, fields) VALUES (%s, %s, %s, %s, %s, %s, %s, %s) RETURNING *",
            self.workspace_id, address, domain, email, fields.pop("first_name", "Bob"),
            standard["last_name"], standard["company"], Jsonb(fields),
        )  # fmt: skip
        return self.one(
            "INSERT INTO scheduler.enrollment (workspace_id, campaign_id, lead_id, address_id,"
            " domain_id, mailbox_id, pool_id) VALUES (%s, %s, %s, %s, %s, %s, %s) RETURNING *",
            self.workspace_id, self.campaign_id, lead["lead_id"], address, domain,
            self.mailbox_id, self.pool_id,
        )  # fmt: skip

    def job(
        self,
        enrollment: dict[str, Any],
        *,
        step: int = 1,
        in_ms: int = 300,
        grace_ms: int = 2000,
        first_deferred_at: datetime | None = None,
    ) -> Job:
        """Add a reserved job whose slot opens in `in_ms` by the Postgres clock."""
        row = self.one(
            "INSERT INTO scheduler.send_job (workspace_id, enrollment_id, campaign_id, mailbox_id,"
            " pool_id, step, state, slot_at, not_after, first_deferred_at)"
            " SELECT %s, %s, %s, %s, %s, %s, 'reserved', t, t + make_interval(secs => %s), %s"
            " FROM (SELECT clock_timestamp() + make_interval(secs => %s)) AS s(t) RETURNING *",
            self.workspace_id, enrollment["enrollment_id"], self.campaign_id, self.mailbox_id,
            self.pool_id, step, grace_ms / 1000, first_deferred_at, in_ms / 1000,
        )  # fmt: skip
        self.rows(
            "INSERT INTO scheduler.slot (workspace_id, job_id, fence, mailbox_id, slot_at,"
            " not_after, day, hour) VALUES (%s, %s, %s, %s, %s, %s, current_date,"
            " date_trunc('hour', now()))",
            self.workspace_id, row["job_id"], row["fence"], self.mailbox_id, row["slot_at"],
            row["not_after"],
        )  # fmt: skip
        self.rows(
            "UPDATE scheduler.mailbox_budget SET outstanding = outstanding + 1,"
            " day = current_date, day_used = day_used + 1, hour = date_trunc('hour', now()),"
            " hour_used = hour_used + 1 WHERE workspace_id = %s AND mailbox_id = %s",
            self.workspace_id, self.mailbox_id,
        )  # fmt: skip
        return Job(
            workspace_id=self.workspace_id,
            job_id=row["job_id"],
            fence=row["fence"],
            mailbox_id=self.mailbox_id,
            kind="campaign",
            slot_at=row["slot_at"],
            not_after=row["not_after"],
            enrollment_id=enrollment["enrollment_id"],
            campaign_id=self.campaign_id,
            step=step,
        )

    def used(self) -> tuple[int, int, int]:
        """What the mailbox's budget counts: outstanding leases, slots of the day, of the hour."""
        row = self.one(
            "SELECT outstanding, day_used, hour_used FROM scheduler.mailbox_budget"
            " WHERE workspace_id = %s AND mailbox_id = %s",
            self.workspace_id, self.mailbox_id,
        )  # fmt: skip
        return row["outstanding"], row["day_used"], row["hour_used"]

    def job_row(self, job: Job) -> dict[str, Any]:
        return self.one(
            "SELECT * FROM scheduler.send_job WHERE workspace_id = %s AND job_id = %s",
            job.workspace_id, job.job_id,
        )  # fmt: skip

    def attempts(self, job: Job) -> list[dict[str, Any]]:
        return self.rows(
            "SELECT * FROM sender.attempt WHERE workspace_id = %s AND job_id = %s"
            " ORDER BY attempt_id",
            job.workspace_id, job.job_id,
        )  # fmt: skip

    def message(self, job: Job) -> dict[str, Any]:
        return self.one(
            "SELECT * FROM sender.message WHERE workspace_id = %s AND job_id = %s",
            job.workspace_id, job.job_id,
        )  # fmt: skip

    def events(self, topic: str) -> list[Any]:
        """The events that this workspace's sends put into the outbox, decoded."""
        rows = self.rows(
            "SELECT body FROM sender.outbox WHERE workspace_id = %s AND topic = %s ORDER BY id",
            self.workspace_id, topic,
        )  # fmt: skip
        return [msgspec.json.decode(row["body"], type=events.BODIES[topic]) for row in rows]

    def suspensions(self) -> list[dict[str, Any]]:
        return self.rows(
            "SELECT * FROM scheduler.suspension WHERE workspace_id = %s AND closed_at IS NULL",
            self.workspace_id,
        )

    @property
    def mailbox(self) -> str:
        return ids.encode("mbx", self.mailbox_id)


@pytest.fixture
def sql(house: Stack) -> Iterator["psycopg.Connection[dict[str, Any]]"]:
    with psycopg.connect(house.dsn(), autocommit=True, row_factory=dict_row) as connection:
        yield connection


@pytest.fixture
async def world(house: Stack, sql: "psycopg.Connection[dict[str, Any]]", keys: KeyService) -> World:
    name = f"w{uuid.uuid4().hex[:8]}"
    email = f"ann-{name}@north.test"
    house.mailhost.add_user(email, PASSWORD)

    def one(statement: str, *args: object) -> dict[str, Any]:
        row = sql.execute(statement.encode(), args).fetchone()
        assert row is not None
        return row

    ws = one("INSERT INTO gateway.workspace (name) VALUES (%s) RETURNING workspace_id", name)
    workspace_id = ws["workspace_id"]
    root = hvac.Client(url=house.keys.url(), token=house.keys.root_token())
    for scope in ("send", "read"):
        root.write_data(f"transit/keys/{scope}-{workspace_id}", data={"type": "aes256-gcm96"})
    mailbox_id = one("SELECT nextval('gateway.mailbox_mailbox_id_seq') AS n")["n"]
    sealed = await keys.seal(
        "send", workspace_id, msgspec.json.encode({"password": PASSWORD}),
        table="mailbox", row=mailbox_id,
    )  # fmt: skip
    smtp = {
        "host": "127.0.0.1", "port": house.ports["smtp"], "tls": "starttls", "username": email,
        "auth": "auto",
    }  # fmt: skip
    sql.execute(
        "INSERT INTO gateway.mailbox (workspace_id, mailbox_id, email, domain, display_name, kind,"
        " smtp, imap, send_credential, read_credential)"
        " VALUES (%s, %s, %s, 'north.test', 'Ann Nörth', 'smtp', %s, '{}', %s, 'x')",
        (workspace_id, mailbox_id, email, Jsonb(smtp), sealed),
    )
    campaign_id = one(
        "INSERT INTO gateway.campaign (workspace_id, name, status) VALUES (%s, 'c', 'running')"
        " RETURNING campaign_id",
        workspace_id,
    )["campaign_id"]
    pool_id = one(
        "INSERT INTO gateway.pool (workspace_id, name) VALUES (%s, 'p') RETURNING pool_id",
        workspace_id,
    )["pool_id"]
    for position, subject, text in (
        (1, "Hello {{ first_name }}", "Hi {{ first_name }}"),
        (2, "", "Did you see this, {{ first_name }}? {{ company }}"),
    ):
        sql.execute(
            "INSERT INTO gateway.step (workspace_id, campaign_id, position, delay_s, subject,"
            " text_template, html_template) VALUES (%s, %s, %s, 0, %s, %s, %s)",
            (workspace_id, campaign_id, position, subject, text, f"<p>{text}</p>"),
        )
    sql.execute(
        "INSERT INTO scheduler.mailbox_budget (workspace_id, mailbox_id, domain, domain_ref,"
        " version, is_active, tz, cadence_ms, jitter_min_ms, jitter_max_ms, grace_ms,"
        " max_outstanding)"
        " VALUES (%s, %s, 'north.test', hashtextextended('north.test', 0), 1, true, 'UTC', 1000,"
        " 100, 300, 50, 1000)",
        (workspace_id, mailbox_id),
    )
    for scope, ref in (
        ("workspace", workspace_id), ("campaign", campaign_id), ("pool", pool_id),
        ("mailbox", mailbox_id),
    ):  # fmt: skip
        sql.execute(
            "INSERT INTO scheduler.gate (workspace_id, scope, ref) VALUES (%s, %s, %s)",
            (workspace_id, scope, ref),
        )
    sql.execute(
        "INSERT INTO scheduler.gate (workspace_id, scope, ref)"
        " VALUES (%s, 'domain', hashtextextended('north.test', 0))",
        (workspace_id,),
    )
    return World(sql, workspace_id, mailbox_id, campaign_id, pool_id, email)


@pytest.fixture
async def keys(house: Stack) -> AsyncIterator[KeyService]:
    """The gateway's key service: it may seal."""
    async with KeyService(key_login(house, "gateway")) as service:
        yield service


@dataclass
class Sender:
    """The sender's parts on a transport of the test's choice."""

    preparer: Preparer
    submitter: Submitter
    drafts: Drafts
    reconciler: Reconciler
    transport: Any
    metrics: Metrics
    db: Database
    running: "asyncio.Task[None] | None" = None

    def start(self) -> None:
        self.running = asyncio.create_task(self.preparer.run())

    async def stop(self) -> None:
        self.submitter.stopping.set()
        if self.running is not None:
            await self.running


@pytest.fixture
async def mail(house: Stack, settings: SenderSettings) -> AsyncIterator[MailTransport]:
    """The real transport, for every kind of mailbox."""
    db = Database(settings)
    async with KeyService(key_login(house, "sender")) as service:
        transport = MailTransport(settings, SystemClock(), db, service)
        yield transport
        await transport.close()
    await db.close()


@pytest.fixture
async def make_sender(
    house: Stack, settings: SenderSettings
) -> AsyncIterator[Callable[[Any], Sender]]:
    made: list[Sender] = []
    service = KeyService(key_login(house, "sender"))

    def make(transport: Any, seed: int = 1) -> Sender:
        db = Database(settings)
        metrics = Metrics(METRICS)
        clock = SystemClock()
        instance_id = str(uuid.uuid4())
        submitter = Submitter(
            db,
            Outbox(db),
            clock,
            metrics,
            random.Random(seed),
            stopping=asyncio.Event(),
            instance_id=instance_id,
            jobs_per_batch=100,
        )
        accounts = Accounts(db, service)
        drafts = Drafts(db, accounts, transport, every_s=0.2)
        intents = Intents(
            db, accounts, transport, service, first_look=timedelta(minutes=1), late_by={},
            every_s=0.2, jobs_per_batch=100,
        )  # fmt: skip
        preparer = Preparer(
            db,
            service,
            transport,
            submitter,
            clock,
            metrics,
            composer=Composer(
                service,
                AttachmentLoader(AttachmentFiles(ObjectStore.of(settings), service), clock),
                public_url="https://mail.example",
                message_max_bytes=settings.message_max_bytes,
            ),
            drafts=drafts,
            intents=intents,
            prepare_ahead=timedelta(seconds=10),
            jobs_per_batch=100,
        )
        reconciler = Reconciler(
            db,
            submitter,
            clock,
            metrics,
            instance_id=instance_id,
            beat_s=settings.beat_s,
            dead_after_s=settings.dead_after_s,
            submission_limit_s=settings.submission_limit_s,
            reconcile_s=0.2,
        )
        sender = Sender(preparer, submitter, drafts, reconciler, transport, metrics, db)
        made.append(sender)
        return sender

    yield make
    for sender in made:
        if isinstance(sender.transport, FakeTransport):
            # What a failed test left waiting for its answer would wait for ever.
            sender.transport.answering.set()
        await sender.stop()
        await sender.db.close()
    service.close()


@pytest.fixture
def transport() -> FakeTransport:
    return FakeTransport()


@pytest.fixture
async def sender(make_sender: Callable[[Any], Sender], transport: FakeTransport) -> Sender:
    made = make_sender(transport)
    await made.reconciler.beat_once()
    made.start()
    return made


@pytest.fixture
async def own_keys(house: Stack) -> AsyncIterator[KeyService]:
    """The key service as the sender itself may use it."""
    async with KeyService(key_login(house, "sender")) as service:
        yield service


@pytest.fixture
async def client(settings: SenderSettings) -> AsyncIterator[httpx.AsyncClient]:
    """What speaks to the sender's `/internal`."""
    service = build(settings)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(service.http),
        base_url="http://sender",
        headers={"Authorization": "Bearer internal-token"},
    ) as client:
        yield client
    await service.db.close()
    service.keys.close()
