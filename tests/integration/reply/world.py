"""One workspace with a mailbox that sent something: what reply and bounce work on."""

import os
import secrets
import smtplib
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import hvac
import msgspec
import psycopg
from confluent_kafka import Producer
from psycopg.types.json import Jsonb
from pydantic import SecretStr
from tests.waiting import until

from paceline_common import events, ids
from paceline_common.address import AddressHasher
from paceline_common.keys import ADDRESS_HASH_SECRET, KeyService
from paceline_common.topics import Topic
from paceline_local.stack import Stack

Sql = psycopg.Connection[dict[str, Any]]
SAMPLES = Path(__file__).parents[2] / "data" / "eml"


@dataclass(frozen=True)
class KeyLogin:
    """What `KeyService` needs to sign in as one principal."""

    keys_url: str
    keys_role_id: str
    keys_secret_id: SecretStr


def key_login(stack: Stack, principal: str) -> KeyLogin:
    secret = stack.passwords.folder(principal) / "paceline_keys_secret_id"
    return KeyLogin(stack.keys.url(), stack.keys.role_id(principal), SecretStr(secret.read_text()))


@dataclass(frozen=True)
class Sent:
    """A message that one of our mailboxes sent to a lead."""

    workspace_id: int
    job_id: int
    enrollment_id: int
    mailbox_id: int
    lead_email: str
    message_id: str
    subject: str
    token: str
    unsubscribe: str

    @property
    def enrollment(self) -> str:
        return ids.encode("enr", self.enrollment_id)


@dataclass
class World:
    """Rows are made as superuser, past the services whose they are; tokens and seals are real."""

    stack: Stack
    sql: Sql
    gateway_keys: KeyService
    sender_keys: KeyService
    workspace_id: int
    mailbox_id: int
    email: str
    password: str
    hasher: AddressHasher
    address_hashes: dict[str, bytes] = field(default_factory=dict)
    accounts: list[str] = field(default_factory=list)

    @classmethod
    async def create(
        cls, stack: Stack, sql: Sql, gateway_keys: KeyService, sender_keys: KeyService
    ) -> "World":
        name = f"w{uuid.uuid4().hex[:10]}"
        workspace_id = _one(
            sql, "INSERT INTO gateway.workspace (name) VALUES (%s) RETURNING workspace_id", name
        )["workspace_id"]
        root = hvac.Client(url=stack.keys.url(), token=stack.keys.root_token())
        for scope in ("send", "read"):
            root.write_data(f"transit/keys/{scope}-{workspace_id}", data={"type": "aes256-gcm96"})
        root.adapter.close()
        hasher = AddressHasher(await gateway_keys.secret(ADDRESS_HASH_SECRET))
        world = cls(
            stack, sql, gateway_keys, sender_keys, workspace_id, 0, f"sam-{name}@north.test",
            secrets.token_hex(8), hasher,
        )  # fmt: skip
        world.mailbox_id = await world.add_mailbox(world.email)
        return world

    async def add_mailbox(self, email: str, password: str | None = None, **imap: Any) -> int:
        """Add an account on the mail host and its mailbox row; `imap` overrides its settings."""
        self.stack.mailhost.add_user(email, self.password)
        self.accounts.append(email)
        mailbox_id: int = _one(self.sql, "SELECT nextval('gateway.mailbox_mailbox_id_seq') AS n")[
            "n"
        ]
        sealed = await self.gateway_keys.seal(
            "read",
            self.workspace_id,
            msgspec.json.encode({"password": password or self.password}),
            table="mailbox",
            row=mailbox_id,
        )
        where = {
            "host": "127.0.0.1",
            "port": self.stack.ports["imap"],
            "tls": "none",
            "username": email,
            **imap,
        }
        self.rows(
            "INSERT INTO gateway.mailbox (workspace_id, mailbox_id, email, domain, kind, smtp,"
            " imap, send_credential, read_credential)"
            " VALUES (%s, %s, %s, 'north.test', 'smtp', '{}', %s, 'x', %s)",
            self.workspace_id, mailbox_id, email, Jsonb(where), sealed,
        )  # fmt: skip
        return mailbox_id

    async def add_api_mailbox(
        self, kind: str, email: str, credential: dict[str, Any], oauth: dict[str, Any]
    ) -> int:
        """Add the row of a mailbox that is read through an API with a grant."""
        mailbox_id: int = _one(self.sql, "SELECT nextval('gateway.mailbox_mailbox_id_seq') AS n")[
            "n"
        ]
        sealed = await self.gateway_keys.seal(
            "read", self.workspace_id, msgspec.json.encode(credential), table="mailbox",
            row=mailbox_id,
        )  # fmt: skip
        self.rows(
            "INSERT INTO gateway.mailbox (workspace_id, mailbox_id, email, domain, kind,"
            " send_oauth, read_oauth, send_credential, read_credential)"
            " VALUES (%s, %s, %s, 'north.test', %s, %s, %s, 'x', %s)",
            self.workspace_id, mailbox_id, email, kind, Jsonb(oauth), Jsonb(oauth), sealed,
        )  # fmt: skip
        return mailbox_id

    async def reconnect(
        self, mailbox_id: int, credential: dict[str, Any], oauth: dict[str, Any]
    ) -> None:
        """Give a mailbox a new grant, as its owner would."""
        sealed = await self.gateway_keys.seal(
            "read", self.workspace_id, msgspec.json.encode(credential), table="mailbox",
            row=mailbox_id,
        )  # fmt: skip
        self.rows(
            "UPDATE gateway.mailbox SET read_credential = %s, read_oauth = %s,"
            " version = version + 1, read_credential_version = read_credential_version + 1"
            " WHERE (workspace_id, mailbox_id) = (%s, %s)",
            sealed, Jsonb(oauth), self.workspace_id, mailbox_id,
        )  # fmt: skip

    def tokens(self, mailbox_id: int) -> list[dict[str, Any]]:
        """The refreshed tokens that reply has kept of a mailbox."""
        return self.rows(
            "SELECT * FROM reply.oauth_token WHERE (workspace_id, mailbox_id) = (%s, %s)",
            self.workspace_id, mailbox_id,
        )  # fmt: skip

    def set_policy(self, **policy: Any) -> None:
        """Set the policy of the mailbox, as its owner would."""
        self.rows(
            "UPDATE gateway.mailbox SET policy = %s, version = version + 1"
            " WHERE (workspace_id, mailbox_id) = (%s, %s)",
            Jsonb(policy), self.workspace_id, self.mailbox_id,
        )  # fmt: skip

    def rows(self, statement: str, *args: object) -> list[dict[str, Any]]:
        cursor = self.sql.execute(statement.encode(), args)
        return cursor.fetchall() if cursor.description else []

    def one(self, statement: str, *args: object) -> dict[str, Any]:
        (row,) = self.rows(statement, *args)
        return row

    def connect(self, mailbox_id: int | None = None, at: datetime | None = None) -> None:
        """Give a mailbox its cursor, as `mailbox-changed` would."""
        self.rows(
            "INSERT INTO reply.cursor (workspace_id, mailbox_id, version, is_active, connected_at)"
            " VALUES (%s, %s, 1, true, %s)",
            self.workspace_id, mailbox_id or self.mailbox_id, at or datetime.now(UTC),
        )  # fmt: skip

    def close(self) -> None:
        """Leave nothing for other tests' services to read."""
        self.disconnect()
        self.stack.mailhost.remove_users(self.accounts)

    def disconnect(self) -> None:
        """Have nobody read the workspace's mailboxes any more."""
        self.rows(
            "UPDATE reply.cursor SET is_active = false WHERE workspace_id = %s", self.workspace_id
        )

    async def sent(
        self,
        lead_email: str | None = None,
        subject: str = "Quick question about your roadmap",
        mailbox_id: int | None = None,
    ) -> Sent:
        """Add a lead, its enrollment, and a sent job with its message; step 2 waits."""
        email = lead_email or f"lee-{uuid.uuid4().hex[:8]}@client.test"
        address, domain = (
            _one(
                self.sql,
                "INSERT INTO scheduler.address (workspace_id, kind, hash) VALUES (%s, %s, %s)"
                " ON CONFLICT (workspace_id, kind, hash) DO UPDATE SET kind = excluded.kind"
                " RETURNING address_id",
                self.workspace_id, kind, value,
            )["address_id"]
            for kind, value in (
                ("address", self.hasher.address(email)), ("domain", self.hasher.domain(email)),
            )
        )  # fmt: skip
        self.address_hashes[email] = self.hasher.address(email)
        lead = self.one(
            "INSERT INTO scheduler.lead (workspace_id, address_id, domain_id, email)"
            " VALUES (%s, %s, %s, %s) ON CONFLICT (workspace_id, address_id) DO UPDATE"
            " SET email = excluded.email RETURNING lead_id",
            self.workspace_id, address, domain, email,
        )["lead_id"]  # fmt: skip
        campaign = int.from_bytes(os.urandom(4), "big")
        box = mailbox_id or self.mailbox_id
        enrollment = self.one(
            "INSERT INTO scheduler.enrollment (workspace_id, campaign_id, lead_id, address_id,"
            " domain_id, mailbox_id, step) VALUES (%s, %s, %s, %s, %s, %s, 2)"
            " RETURNING enrollment_id",
            self.workspace_id, campaign, lead, address, domain, box,
        )["enrollment_id"]  # fmt: skip
        job = self.one(
            "INSERT INTO scheduler.send_job (workspace_id, enrollment_id, campaign_id, mailbox_id,"
            " pool_id, step, state, slot_at, not_after)"
            " VALUES (%s, %s, %s, %s, 1, 1, 'sent', now(), now())"
            " RETURNING job_id",
            self.workspace_id, enrollment, campaign, box,
        )["job_id"]  # fmt: skip
        self.rows(
            "INSERT INTO scheduler.send_job (workspace_id, enrollment_id, campaign_id, mailbox_id,"
            " step, due_at) VALUES (%s, %s, %s, %s, 2, now() + interval '1 day')",
            self.workspace_id, enrollment, campaign, box,
        )  # fmt: skip
        message_id = f"<{uuid.uuid4().hex}@north.test>"
        self.rows(
            "INSERT INTO sender.message (workspace_id, job_id, enrollment_id, campaign_id, step,"
            " mailbox_id, message_id, subject, references_, submitted_at)"
            " VALUES (%s, %s, %s, %s, 1, %s, %s, %s, '{}', now())",
            self.workspace_id, job, enrollment, campaign, box, message_id, subject,
        )  # fmt: skip
        ws, public = ids.encode("ws", self.workspace_id), ids.encode("job", job)
        mac, unsubscribe = await self.sender_keys.mac(
            [f"job/{ws}/{public}".encode(), f"unsubscribe/{ws}/{public}".encode()]
        )
        return Sent(
            self.workspace_id, job, enrollment, box, email, message_id, subject,
            f"{public}.{ws}.{mac}", f"{ws}.{public}.{unsubscribe}",
        )  # fmt: skip

    def sample(self, name: str, sent: Sent, **replacements: str) -> bytes:
        """Return a sample as if it answered `sent`: its addresses, ids and token put in."""
        text = (SAMPLES / f"{name}.eml").read_text(encoding="utf-8")
        plain = "5851f42d4c957f2d"
        swaps = {
            f"ws_{plain}.job_{plain}.1." + "A" * 43: sent.unsubscribe,
            f"job_{plain}.ws_{plain}.1." + "A" * 43: sent.token,
            "<01hq3v8k2c.1@acme.test>": sent.message_id,
            "sam@acme.test": self.email,
            "lee@client.test": sent.lead_email,
            **replacements,
        }
        for old, new in swaps.items():
            text = text.replace(old, new)
        # Samples are delivered more than once; their ids must differ then.
        return text.replace(f"<{name}@", f"<{name}.{uuid.uuid4().hex[:8]}@").encode()

    def deliver(
        self, raw: bytes, to: str | None = None, envelope_from: str = "lee@else.test"
    ) -> None:
        """Hand a message to the mail host's open door, as another server would."""
        null_sender = raw.lower().startswith((b"return-path: <>", b"return-path:<>"))
        with smtplib.SMTP("127.0.0.1", self.stack.ports["smtp_in"], timeout=20) as smtp:
            smtp.sendmail("" if null_sender else envelope_from, [to or self.email], raw)

    def inbound(self) -> list[dict[str, Any]]:
        return self.rows(
            "SELECT * FROM reply.inbound_message WHERE workspace_id = %s ORDER BY inbound_id",
            self.workspace_id,
        )

    def events(self, topic: str, service: str = "reply") -> list[Any]:
        """The events that wait in a service's outbox, decoded."""
        rows = self.rows(
            f"SELECT body FROM {service}.outbox WHERE workspace_id = %s AND topic = %s ORDER BY id",
            self.workspace_id, topic,
        )  # fmt: skip
        return [msgspec.json.decode(row["body"], type=events.BODIES[topic]) for row in rows]

    def suspensions(self) -> list[tuple[str, int, str]]:
        return [
            (row["scope"], row["ref"], row["reason"])
            for row in self.rows(
                "SELECT scope, ref, reason FROM scheduler.suspension"
                " WHERE workspace_id = %s AND closed_at IS NULL ORDER BY suspension_id",
                self.workspace_id,
            )
        ]

    def suppressed(self) -> dict[str, str]:
        """Suppressed addresses of known leads, with the reason."""
        found = {
            bytes(row["hash"]): row["reason"]
            for row in self.rows(
                "SELECT hash, reason FROM scheduler.address"
                " WHERE workspace_id = %s AND suppressed_at IS NOT NULL",
                self.workspace_id,
            )
        }
        return {
            email: found[value] for email, value in self.address_hashes.items() if value in found
        }

    def enrollment_state(self, sent: Sent) -> str:
        state: str = self.one(
            "SELECT state FROM scheduler.enrollment WHERE workspace_id = %s AND enrollment_id = %s",
            self.workspace_id, sent.enrollment_id,
        )["state"]  # fmt: skip
        return state

    def cursor(self, mailbox_id: int | None = None) -> dict[str, Any]:
        return self.one(
            "SELECT * FROM reply.cursor WHERE workspace_id = %s AND mailbox_id = %s",
            self.workspace_id, mailbox_id or self.mailbox_id,
        )  # fmt: skip


def publish(
    stack: Stack,
    principal: str,
    topic: Topic,
    key: str,
    body: events.Event,
    event_id: str | None = None,
) -> None:
    """Publish one event with a service's own Kafka credentials; return when it is acknowledged."""
    producer = Producer(
        {
            "bootstrap.servers": f"127.0.0.1:{stack.ports['kafka']}",
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanisms": "SCRAM-SHA-512",
            "sasl.username": principal,
            "sasl.password": stack.passwords.get(principal, "paceline_kafka_password"),
        }
    )
    headers = {
        "ce_specversion": "1.0",
        "ce_id": event_id or str(uuid.uuid4()),
        "ce_type": events.event_type(topic),
        "ce_source": f"/paceline/{principal}",
        "ce_time": datetime.now(UTC).isoformat(),
        "content-type": "application/json",
    }
    if body.workspace_id:
        headers["ce_workspaceid"] = body.workspace_id
    producer.produce(
        topic.name, msgspec.json.encode(body), key.encode(), headers=list(headers.items())
    )
    assert producer.flush(20) == 0


async def arrived(world: World, count: int) -> None:
    """Wait until the mail host has delivered `count` messages."""
    box = world.stack.mailhost.maildir(world.email)
    await until(lambda: len([*box.glob("new/*"), *box.glob("cur/*")]) >= count)


def _one(sql: Sql, statement: str, *args: object) -> dict[str, Any]:
    row = sql.execute(statement.encode(), args).fetchone()
    assert row is not None
    return row
