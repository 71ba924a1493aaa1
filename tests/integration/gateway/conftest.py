"""The gateway's application on the real stack; one HTTP server plays the services it asks."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import msgspec
import psycopg
import pytest
from fastapi import FastAPI
from psycopg.rows import dict_row
from pydantic import SecretStr
from typer.testing import CliRunner

from paceline_common import ids
from paceline_common.address import AddressHasher
from paceline_common.admin import build as build_admin
from paceline_common.keys import KeyService
from paceline_gateway.app import build
from paceline_gateway.parts import Parts
from paceline_gateway.settings import GatewaySettings
from paceline_local.stack import Stack

OK = {"ok": True, "code": "ok", "message": "250 2.0.0 Ok", "remedy": None}


@dataclass
class Peers:
    """The other services as the gateway sees them: one answer each, every request kept.

    `bearers` are the Authorization headers received; a leg whose answer is None
    breaks the connection. `scheduler` maps the path below `/internal/`, without
    ids, to (status, body); what it does not know is not known there (404), and
    None means that it is away. `questions` are (path with ids and query, body).
    """

    url: str = ""
    send: dict[str, Any] | None = field(default_factory=lambda: dict(OK))
    read: dict[str, Any] | None = field(default_factory=lambda: dict(OK))
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    bearers: set[str | None] = field(default_factory=set)
    scheduler: dict[str, tuple[int, Any]] | None = field(default_factory=dict)
    questions: list[tuple[str, Any]] = field(default_factory=list)

    def reset(self) -> None:
        self.send, self.read, self.scheduler = dict(OK), dict(OK), {}
        self.asked.clear()
        self.questions.clear()

    def probe(self, body: dict[str, Any]) -> tuple[int, Any] | None:
        leg = "send" if "smtp" in body else "read"
        self.asked.append((leg, body))
        answer = getattr(self, leg)
        return None if answer is None else (200, answer)

    def pace(self, path: str, body: Any) -> tuple[int, Any] | None:
        self.questions.append((path, body))
        if self.scheduler is None:
            return None
        return self.scheduler.get(path.split("/")[2], (404, {"code": "unknown_mailbox"}))


def schedule_of(mailbox: str, capacity: dict[str, Any]) -> dict[str, Any]:
    """A mailbox's schedule as the scheduler answers it."""
    return {
        "mailbox_id": mailbox,
        "timezone": "Europe/Berlin",
        "state": {"reason": None, "until": None, "message": "open until 17:00"},
        "next_slots": ["2026-11-20T09:00:00Z", "2026-11-20T09:01:47Z"],
        "limits": [
            {
                "reason": "ramp_cap", "used": 3, "limit": 50, "left": 47,
                "resets_at": "2026-11-20T23:00:00Z",
            }
        ],
        "effective_capacity": capacity,
        "stage": 3,
        "health": None,
    }  # fmt: skip


@pytest.fixture(scope="session")
def peers_server() -> Iterator[Peers]:
    peers = Peers()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])) or "null")
            if self.path == "/internal/probe":
                self.answer(peers.probe(body))
            else:
                self.answer(peers.pace(self.path, body))

        def do_GET(self) -> None:
            self.answer(peers.pace(self.path, None))

        def answer(self, answer: tuple[int, Any] | None) -> None:
            peers.bearers.add(self.headers["authorization"])
            if answer is None:
                self.close_connection = True
                return
            status, body = answer
            payload = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    peers.url = f"http://127.0.0.1:{server.server_port}"
    yield peers
    server.shutdown()
    server.server_close()


@pytest.fixture
def peers(peers_server: Peers) -> Peers:
    peers_server.reset()
    return peers_server


@pytest.fixture
def sql(stack: Stack) -> Iterator["psycopg.Connection[dict[str, Any]]"]:
    """A superuser's connection."""
    with psycopg.connect(
        stack.dsn("postgres"), autocommit=True, row_factory=dict_row
    ) as connection:
        yield connection


@pytest.fixture
def admin(stack: Stack, sql: "psycopg.Connection[dict[str, Any]]") -> Iterator[Callable[..., Any]]:
    """Run `paceline-admin … --json` with the admin's own credentials; return what it printed.

    Workspaces made with it are wiped afterwards: the stack is shared, and a
    service that starts on it later would read their mailboxes and publish
    their events.
    """
    env = stack.env("admin")
    made: list[int] = []

    def run(*arguments: str, code: int = 0) -> Any:
        result = CliRunner().invoke(build_admin(), [*arguments, "--json"], env=env)
        assert result.exit_code == code, result.output
        if code:
            return result.output
        answer = json.loads(result.stdout)
        if arguments[:2] == ("workspace", "create"):
            made.append(ids.decode("ws", answer["workspace_id"]))
        return answer

    yield run
    wipe(sql, made)


def wipe(sql: "psycopg.Connection[dict[str, Any]]", workspaces: list[int]) -> None:
    """Delete every row of these workspaces."""
    tables = sql.execute(
        "SELECT format('%I.%I', table_schema, table_name) AS name FROM information_schema.columns"
        " JOIN information_schema.tables USING (table_schema, table_name)"
        " WHERE column_name = 'workspace_id' AND table_type = 'BASE TABLE'"
        " AND table_schema IN ('gateway', 'scheduler', 'sender', 'bounce', 'reply')"
    ).fetchall()
    with sql.transaction():
        # No triggers and no foreign keys: all of it goes.
        sql.execute("SET LOCAL session_replication_role = replica")
        for table in tables:
            sql.execute(
                f"DELETE FROM {table['name']} WHERE workspace_id = ANY (%s)".encode(), [workspaces]
            )


@pytest.fixture
async def app(
    stack: Stack, peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[FastAPI]:
    for name, value in stack.env("gateway").items():
        monkeypatch.setenv(name, value)
    settings = GatewaySettings(
        http_port=0, sender_url=peers.url, reply_url=peers.url, scheduler_url=peers.url,
        import_batch_rows=7,
    )  # fmt: skip
    service = build(settings)
    yield service.http
    parts: Parts = service.http.state.parts
    await parts.prober.close()
    await parts.pacing.close()
    await parts.previewer.close()
    await parts.oauth.close()
    await parts.settling.close()
    parts.keys.close()
    await service.db.close()


@pytest.fixture
def parts(app: FastAPI) -> Parts:
    made: Parts = app.state.parts
    return made


@dataclass(frozen=True)
class Login:
    """What `KeyService` needs to sign in."""

    keys_url: str
    keys_role_id: str
    keys_secret_id: SecretStr


@dataclass
class Tenant:
    """A workspace with a key, and the API as its owner sees it."""

    number: int
    key: str
    http: httpx.AsyncClient
    sql: "psycopg.Connection[dict[str, Any]]"
    stack: Stack

    @property
    def id(self) -> str:
        return ids.encode("ws", self.number)

    async def call(self, method: str, path: str, expect: int = 200, **request: Any) -> Any:
        """Send a request, demand its status, return its JSON."""
        answer = await self.http.request(method, path, **request)
        assert answer.status_code == expect, (answer.status_code, answer.text)
        return answer.json() if answer.content else None

    def rows(self, statement: str, *arguments: object) -> list[dict[str, Any]]:
        """Run SQL as superuser."""
        cursor = self.sql.execute(statement.encode(), arguments)
        return cursor.fetchall() if cursor.description else []

    def seen_by(self, role: str, statement: str, *arguments: object) -> list[dict[str, Any]]:
        """Run SQL with a service's own login, naming this workspace."""
        with psycopg.connect(self.stack.dsn(role), row_factory=dict_row) as tx:
            tx.execute("SELECT set_config('app.workspace_ids', %s, true)", [str(self.number)])
            cursor = tx.execute(statement.encode(), arguments)
            return cursor.fetchall() if cursor.description else []

    def outbox(self, topic: str) -> list[dict[str, Any]]:
        """Return the bodies on their way on `topic`, in order, with `event_id` beside them."""
        return [
            msgspec.json.decode(bytes(row["body"])) | {"event_id": str(row["event_id"])}
            for row in self.rows(
                "SELECT body, event_id FROM gateway.outbox"
                " WHERE workspace_id = %s AND topic = %s ORDER BY id",
                self.number, topic,
            )
        ]  # fmt: skip

    def audited(self) -> list[str]:
        """Return the actions recorded so far."""
        return [one["action"] for one in self.outbox("audit-recorded")]

    async def mailbox(self, email: str = "ann@sender.test", **extra: Any) -> dict[str, Any]:
        server = {"host": "mail.sender.test", "port": 465, "password": "right-pass-word"}
        body = {"email": email, "smtp": server, "imap": server | {"port": 993}, **extra}
        made: dict[str, Any] = await self.call("POST", "/v1/mailboxes", 201, json=body)
        return made

    async def pool(self, *mailboxes: str, name: str = "pool") -> str:
        body = {"name": name, "mailboxes": list(mailboxes)}
        return str((await self.call("POST", "/v1/pools", 201, json=body))["id"])

    async def campaign(self, **extra: Any) -> str:
        body = {"name": "campaign", "steps": [{"subject": "Hi", "text": "Hello"}], **extra}
        return str((await self.call("POST", "/v1/campaigns", 201, json=body))["id"])

    async def ready_campaign(self, **extra: Any) -> str:
        """A campaign that can start."""
        pool = await self.pool((await self.mailbox())["id"])
        return await self.campaign(tiers=[[pool]], **extra)


@dataclass(frozen=True)
class Enrolled:
    """A lead in a campaign as the scheduler keeps it, with its queued job."""

    enrollment_id: int
    lead_id: int
    job_id: int

    @property
    def id(self) -> str:
        return ids.encode("enr", self.enrollment_id)


def enroll(tenant: Tenant, hasher: AddressHasher, campaign: str, email: str) -> Enrolled:
    """Put the rows of an enrolled lead where the scheduler would have put them."""
    address, domain = (
        tenant.rows(
            "INSERT INTO scheduler.address (workspace_id, kind, hash) VALUES (%s, %s, %s)"
            " ON CONFLICT (workspace_id, kind, hash) DO UPDATE SET kind = excluded.kind"
            " RETURNING address_id",
            tenant.number, kind, hashed,
        )[0]["address_id"]
        for kind, hashed in (("address", hasher.address(email)), ("domain", hasher.domain(email)))
    )  # fmt: skip
    lead = tenant.rows(
        "INSERT INTO scheduler.lead (workspace_id, address_id, domain_id, email)"
        " VALUES (%s, %s, %s, %s) RETURNING lead_id",
        tenant.number, address, domain, email,
    )[0]["lead_id"]  # fmt: skip
    number = ids.decode("cmp", campaign)
    enrollment = tenant.rows(
        "INSERT INTO scheduler.enrollment (workspace_id, campaign_id, lead_id, address_id,"
        " domain_id) VALUES (%s, %s, %s, %s, %s) RETURNING enrollment_id",
        tenant.number, number, lead, address, domain,
    )[0]["enrollment_id"]  # fmt: skip
    job = tenant.rows(
        "INSERT INTO scheduler.send_job (workspace_id, enrollment_id, campaign_id, step)"
        " VALUES (%s, %s, %s, 1) RETURNING job_id",
        tenant.number, enrollment, number,
    )[0]["job_id"]  # fmt: skip
    tenant.rows(
        "UPDATE scheduler.enrollment SET job_id = %s WHERE workspace_id = %s"
        " AND enrollment_id = %s",
        job, tenant.number, enrollment,
    )  # fmt: skip
    return Enrolled(enrollment, lead, job)


@pytest.fixture
async def tenants(
    stack: Stack,
    app: FastAPI,
    admin: Callable[..., Any],
    sql: "psycopg.Connection[dict[str, Any]]",
) -> AsyncIterator[Callable[[], Tenant]]:
    opened: list[Tenant] = []

    def make() -> Tenant:
        workspace = admin("workspace", "create", "tests")["workspace_id"]
        key = admin("key", "create", workspace, "--name", "tests")["key"]
        http = httpx.AsyncClient(
            transport=httpx.ASGITransport(app, raise_app_exceptions=False),
            base_url="http://gateway",
            headers={"Authorization": f"Bearer {key}"},
        )
        opened.append(Tenant(ids.decode("ws", workspace), key, http, sql, stack))
        return opened[-1]

    yield make
    for tenant in opened:
        await tenant.http.aclose()


@pytest.fixture
async def tenant(tenants: Callable[[], Tenant]) -> Tenant:
    # paceline-admin runs an event loop of its own.
    return await asyncio.to_thread(tenants)


@pytest.fixture
async def hasher(parts: Parts) -> AddressHasher:
    return await parts.hasher()


@pytest.fixture
async def sender_keys(stack: Stack) -> AsyncIterator[KeyService]:
    """The key service as the sender may use it: to make MACs and open credentials."""
    env = stack.env("sender")
    secret = stack.passwords.get("sender", "paceline_keys_secret_id")
    async with KeyService(
        Login(env["PACELINE_KEYS_URL"], env["PACELINE_KEYS_ROLE_ID"], SecretStr(secret))
    ) as keys:
        yield keys
