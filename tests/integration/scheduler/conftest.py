"""A private Postgres with the whole house's schema, a private Redis, and a small world in them."""

import asyncio
import random
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from psycopg.types.json import Jsonb
from pydantic import SecretStr
from redis.asyncio import Redis

from paceline_common import events, ids
from paceline_common.address import AddressHasher
from paceline_common.db import Database, Outbox, Queries
from paceline_common.kafka.subscribe import Delivery
from paceline_common.settings import ServiceSettings
from paceline_common.telemetry import Metrics
from paceline_local.stack import Stack
from paceline_scheduler.budgets import Budgets
from paceline_scheduler.campaigns import Campaigns
from paceline_scheduler.contact import Holds
from paceline_scheduler.enroll import Enroller
from paceline_scheduler.ledger import Ledger
from paceline_scheduler.mailboxes import Mailboxes
from paceline_scheduler.metrics import METRICS
from paceline_scheduler.outcomes import Outcomes
from paceline_scheduler.pacing.redis import RedisPacing
from paceline_scheduler.rebuild import PacingState
from paceline_scheduler.reserve import Pacer
from paceline_scheduler.shaping import Shaper
from paceline_scheduler.suspend import CampaignSettler, Changes

WS = 7
DEMO_POLICY = {
    "ramp": None,
    "health_floor": False,
    "cadence_s": 1,
    "jitter_s": [0.1, 0.3],
    "grace_s": 0.05,
    "daily_cap": None,
    "windows": None,
}
HASHER = AddressHasher(b"k" * 32)
FREE_MAIL = frozenset({"gmail.com", "free.test"})
# Rows go, one by one: to empty 60 tables and their indexes by TRUNCATE takes a second, most tests
# a tenth of one. Foreign keys are triggers, so the order of the tables does not matter.
_CLEAN = """
DO $$
DECLARE
    it record;
BEGIN
    SET LOCAL session_replication_role = replica;
    FOR it IN SELECT schemaname, tablename FROM pg_tables
              WHERE schemaname IN ('scheduler', 'gateway') AND tablename <> 'alembic_version'
    LOOP
        EXECUTE 'DELETE FROM ' || it.schemaname || '.' || it.tablename;
    END LOOP;
    PERFORM setval(s.seqrelid, s.seqstart, false)
    FROM pg_sequence AS s JOIN pg_class AS c ON c.oid = s.seqrelid
    WHERE c.relnamespace IN ('scheduler'::regnamespace, 'gateway'::regnamespace);
END $$
"""


@dataclass
class World:
    """The servers, and SQL past every policy to set a scene and look at it."""

    stack: Stack
    _events: int = field(default=0)

    @cached_property
    def _db(self) -> "psycopg.Connection[Any]":
        connection = psycopg.connect(self.stack.dsn(), autocommit=True, prepare_threshold=None)
        connection.execute("SET search_path = scheduler, pg_catalog")
        return connection

    def close(self) -> None:
        self._db.close()

    def sql(self, statement: str, *args: object) -> list[Any]:
        cursor = self._db.execute(statement.encode(), args)
        return cursor.fetchall() if cursor.description else []

    def one(self, statement: str, *args: object) -> Any:
        (row,) = self.sql(statement, *args)
        return row[0] if len(row) == 1 else row

    def clean(self) -> None:
        self.sql(_CLEAN)

    def settings(self, role: str, pool: int = 10) -> ServiceSettings:
        return ServiceSettings(
            http_port=0,
            internal_token=SecretStr("token"),
            postgres_host="127.0.0.1",
            postgres_port=self.stack.ports["postgres"],
            postgres_user=role,
            postgres_password=SecretStr(
                self.stack.passwords.get(role, "paceline_postgres_password")
            ),
            postgres_pool_size=pool,
            kafka_bootstrap="127.0.0.1:1",
            kafka_user=role,
            kafka_password=SecretStr("none"),
            keys_url="http://127.0.0.1:1",
            keys_role_id="none",
            keys_secret_id=SecretStr("none"),
        )

    def workspace(self, workspace: int = WS, timezone: str = "UTC") -> int:
        self.sql(
            "INSERT INTO gateway.workspace (workspace_id, name, timezone)"
            " OVERRIDING SYSTEM VALUE VALUES (%s, %s, %s)",
            workspace,
            f"w{workspace}",
            timezone,
        )
        return workspace

    def mailbox(
        self,
        mailbox: int,
        *,
        workspace: int = WS,
        pool: int = 1,
        policy: dict[str, Any] | None = None,
        timezone: str | None = None,
        email: str | None = None,
        provider: str = "smtp",
    ) -> int:
        address = email or f"m{mailbox}@send.test"
        self.sql(
            "INSERT INTO gateway.mailbox (workspace_id, mailbox_id, email, domain, kind, policy,"
            " timezone, smtp, imap, send_credential, read_credential, provider_set)"
            " OVERRIDING SYSTEM VALUE"
            " VALUES (%s, %s, %s, %s, 'smtp', %s, %s, '{}', '{}', '', '', %s)",
            workspace,
            mailbox,
            address,
            address.partition("@")[2],
            Jsonb(DEMO_POLICY if policy is None else policy),
            timezone,
            provider,
        )
        self.sql(
            "INSERT INTO gateway.pool (workspace_id, pool_id, name) OVERRIDING SYSTEM VALUE"
            " VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
            workspace,
            pool,
            f"p{pool}",
        )
        self.sql(
            "INSERT INTO gateway.pool_member (workspace_id, pool_id, mailbox_id, position)"
            " VALUES (%s, %s, %s, %s)",
            workspace,
            pool,
            mailbox,
            mailbox,
        )
        return mailbox

    def campaign(
        self,
        campaign: int = 5,
        *,
        workspace: int = WS,
        pool: int = 1,
        delays_s: Sequence[int] = (0,),
        status: str = "running",
    ) -> int:
        self.sql(
            "INSERT INTO gateway.campaign (workspace_id, campaign_id, name, status)"
            " OVERRIDING SYSTEM VALUE VALUES (%s, %s, %s, %s)",
            workspace,
            campaign,
            f"c{campaign}",
            status,
        )
        self.sql(
            "INSERT INTO gateway.campaign_tier (workspace_id, campaign_id, tier, position, pool_id)"
            " VALUES (%s, %s, 1, 1, %s)",
            workspace,
            campaign,
            pool,
        )
        for position, delay in enumerate(delays_s, 1):
            self.step(campaign, position, delay, workspace=workspace)
        return campaign

    def step(self, campaign: int, position: int, delay_s: int, *, workspace: int = WS) -> None:
        self.sql(
            "INSERT INTO gateway.step (workspace_id, campaign_id, position, delay_s, subject,"
            " text_template) VALUES (%s, %s, %s, %s, 's', 't')",
            workspace,
            campaign,
            position,
            delay_s,
        )

    def delivery(self, body: Any, **changes: Any) -> Delivery[Any]:
        self._events += 1
        digest = msgspec.json.encode(body)
        made = {
            "topic": "t",
            "partition": 0,
            "offset": self._events,
            "key": "k",
            "event_id": f"e{self._events}",
            "source": "tests",
            "workspace_id": ids.decode("ws", body.workspace_id),
            "time": datetime.now(UTC),
            "body": body,
            "digest": digest,
        }
        return Delivery(**{**made, **changes})

    def lead(
        self, email: str, *, workspace: int = WS, campaign: int = 5, **changes: Any
    ) -> Delivery[events.LeadEnrolled]:
        body_fields = {
            name: changes.pop(name)
            for name in list(changes)
            if name in events.LeadEnrolled.__struct_fields__
        }
        body = events.LeadEnrolled(
            workspace_id=ids.encode("ws", workspace),
            campaign_id=body_fields.pop("campaign_id", ids.encode("cmp", campaign)),
            email=email,
            **body_fields,
        )
        return self.delivery(body, **changes)

    def reserved(
        self,
        count: int,
        *,
        first: int = 1,
        campaign: int = 5,
        per_mailbox: int = 1,
        slot: str = "clock_timestamp()",
        grace: str = "60 s",
    ) -> list[int]:
        """Make jobs with leases, one mailbox each unless told, all their gates in place.

        Job, enrollment, lead and address n share their number; mailboxes begin at 1.
        """
        numbers = list(range(first, first + count))
        statements: tuple[str, ...] = (
            (
                "INSERT INTO address (workspace_id, address_id, kind, hash)"
                " SELECT %(ws)s, n, 'address', sha256(n::text::bytea)"
                " FROM unnest(%(n)s::bigint[]) n"
            ),
            (
                "INSERT INTO address (workspace_id, address_id, kind, hash)"
                " VALUES (%(ws)s, 1000000, 'domain', sha256('x.test')) ON CONFLICT DO NOTHING"
            ),
            (
                "INSERT INTO lead (workspace_id, lead_id, address_id, domain_id, email)"
                " SELECT %(ws)s, n, n, 1000000, n || '@x.test' FROM unnest(%(n)s::bigint[]) n"
            ),
            (
                "INSERT INTO enrollment (workspace_id, enrollment_id, campaign_id, lead_id,"
                " address_id, domain_id, job_id) SELECT %(ws)s, n, %(c)s, n, n, 1000000, n"
                " FROM unnest(%(n)s::bigint[]) n"
            ),
            (
                "INSERT INTO campaign_policy (workspace_id, campaign_id, version, type)"
                " VALUES (%(ws)s, %(c)s, 1, 1) ON CONFLICT DO NOTHING"
            ),
            (
                "INSERT INTO mailbox_budget (workspace_id, mailbox_id, domain, domain_ref, version,"
                " is_active, tz, cadence_ms, jitter_min_ms, jitter_max_ms, grace_ms,"
                " max_outstanding)"
                " SELECT DISTINCT %(ws)s, (n - 1) / %(per)s + 1, 'send.test',"
                " hashtextextended('send.test', 0), 1, true, 'UTC', 1000, 100, 300, 50, %(per)s"
                " FROM unnest(%(n)s::bigint[]) n ON CONFLICT DO NOTHING"
            ),
            (
                "INSERT INTO gate SELECT DISTINCT %(ws)s, v.s, v.r FROM unnest(%(n)s::bigint[]) n,"
                " LATERAL (VALUES ('workspace', %(ws)s), ('campaign', %(c)s), ('pool', 1),"
                " ('mailbox', (n - 1) / %(per)s + 1), ('domain', hashtextextended('send.test', 0)))"
                " v(s, r) ON CONFLICT DO NOTHING"
            ),
            (
                "INSERT INTO send_job (workspace_id, job_id, enrollment_id, campaign_id, step,"
                " mailbox_id, pool_id, state, slot_at, not_after) SELECT %(ws)s, n, n, %(c)s, 1,"
                f" (n - 1) / %(per)s + 1, 1, 'reserved', {slot}, {slot} + interval '{grace}'"
                " FROM unnest(%(n)s::bigint[]) n"
            ),
            (
                "INSERT INTO slot (workspace_id, job_id, fence, mailbox_id, slot_at, not_after,"
                " day, hour) SELECT workspace_id, job_id, 1, mailbox_id, slot_at, not_after,"
                " slot_at::date, date_trunc('hour', slot_at) FROM send_job"
                " WHERE job_id = ANY (%(n)s)"
            ),
            (
                "UPDATE mailbox_budget b SET outstanding = b.outstanding + s.n,"
                " day_used = b.day_used + s.n, hour_used = b.hour_used + s.n, day = s.day,"
                " hour = s.hour FROM (SELECT mailbox_id, max(day) AS day, max(hour) AS hour,"
                " count(*) AS n FROM slot WHERE job_id = ANY (%(n)s) GROUP BY mailbox_id) s"
                " WHERE s.mailbox_id = b.mailbox_id"
            ),
        )
        statements += ("SELECT setval('send_job_job_id_seq', max(job_id)) FROM send_job",)
        arguments = {"ws": WS, "c": campaign, "n": numbers, "per": per_mailbox}
        with psycopg.connect(self.stack.dsn()) as connection:
            connection.execute("SET search_path = scheduler, pg_catalog")
            for statement in statements:
                connection.execute(statement.encode(), arguments)
            # As autovacuum does within a minute: without statistics plans are guesses.
            connection.execute("ANALYZE")
        return numbers

    def login(self, role: str) -> "psycopg.Connection[Any]":
        """Return a connection of a service's own login, every transaction naming WS."""
        connection = psycopg.connect(self.stack.dsn(role), autocommit=True)
        connection.execute(f"SET app.workspace_ids = '{WS}'")
        return connection

    def outbox(self, topic: str) -> list[Any]:
        """Return the bodies waiting in the scheduler's outbox, read as their event."""
        return [
            msgspec.json.decode(bytes(body), type=events.BODIES[topic])
            for (body,) in self.sql("SELECT body FROM outbox WHERE topic = %s ORDER BY id", topic)
        ]


@pytest.fixture(scope="session")
def _servers() -> Iterator[Stack]:
    run = Path(tempfile.mkdtemp(prefix="pl-sched-"))
    run.chmod(0o755)
    stack = Stack(run)
    try:
        stack.start("postgres")
        stack.schema.start(lambda _line: None)
        stack.start("redis")
        yield stack
    finally:
        stack.stop("redis")
        stack.stop("postgres")
        shutil.rmtree(run, ignore_errors=True)


@pytest.fixture
def world(_servers: Stack) -> Iterator[World]:
    made = World(_servers)
    made.clean()
    made.workspace()
    yield made
    made.close()


@dataclass
class House:
    """The scheduler's parts, as `app.py` puts them together, without Kafka."""

    db: Database
    queries: Queries
    redis: Redis
    store: RedisPacing
    state: PacingState
    pacer: Pacer
    enroller: Enroller
    outcomes: Outcomes
    changes: Changes
    settler: CampaignSettler
    mailboxes: Mailboxes
    campaigns: Campaigns
    budgets: Budgets
    ledger: Ledger
    shaper: Shaper
    holds: Holds

    async def handle(
        self, handler: Callable[..., Awaitable[None]], *deliveries: Delivery[Any]
    ) -> None:
        """Run a handler as the subscribe wrapper does."""
        async with self.db.transaction({one.workspace_id for one in deliveries}) as tx:
            await handler(tx, deliveries)

    async def enroll(self, *deliveries: Delivery[Any]) -> None:
        await self.handle(self.enroller.enroll, *deliveries)


@pytest.fixture
async def house(world: World) -> AsyncIterator[House]:
    stack = world.stack
    admin = Redis.from_url(stack.redis.url())
    await admin.flushall()
    await admin.aclose()
    redis = Redis(
        host="127.0.0.1",
        port=stack.ports["redis"],
        username="scheduler",
        password=stack.passwords.get("scheduler", "paceline_redis_password"),
        protocol=2,
    )
    db = Database(world.settings("scheduler"))
    yield furnish(db, redis)
    await db.close()
    await redis.aclose()


def furnish(
    db: Database, redis: Redis, seed: int = 1, store: type[RedisPacing] = RedisPacing
) -> House:
    """Put the scheduler's parts together over one database and one Redis."""
    queries = Queries("paceline_scheduler")
    pacing = store(redis)
    mailboxes, campaigns, budgets = Mailboxes(queries), Campaigns(queries), Budgets(queries)
    ledger = Ledger(db, queries, timedelta(days=30))
    rng = random.Random(seed)
    state = PacingState(db, queries, pacing, ledger, rng)
    outbox = Outbox(db)
    holds = Holds(db, queries)
    wake = asyncio.Event()

    async def hasher() -> AddressHasher:
        return HASHER

    shaper = Shaper(db, queries, hasher, wake.set)
    pacer = Pacer(
        db, queries, pacing, state, outbox, ledger, shaper, Metrics(METRICS), rng, wake=wake
    )
    settler = CampaignSettler(db, queries, outbox, holds)
    return House(
        db=db,
        queries=queries,
        redis=redis,
        store=pacing,
        state=state,
        pacer=pacer,
        enroller=Enroller(queries, hasher, wake.set, campaigns, shaper, accept_test_domains=True),
        outcomes=Outcomes(queries, outbox, wake.set, holds, FREE_MAIL),
        changes=Changes(
            queries, outbox, mailboxes, campaigns, budgets, shaper, holds, settler, wake.set
        ),
        settler=settler,
        mailboxes=mailboxes,
        campaigns=campaigns,
        budgets=budgets,
        ledger=ledger,
        shaper=shaper,
        holds=holds,
    )
