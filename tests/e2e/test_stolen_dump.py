"""A stolen dump of Postgres, or of Redis, holds no usable credential.

A house of its own connects mailboxes of each kind through real consents, has both services
refresh their tokens, queues a campaign, and leaves a consent half-way. Then everything that
was secret is looked for in the dumps, and what is sealed there is tried with every other key.
"""

import base64
import re
import shutil
import struct
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, quote, urlsplit

import httpx
import hvac
import psycopg
import pytest
import pytest_asyncio
import redis
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hvac.exceptions import InvalidRequest
from psycopg.rows import dict_row
from tests.twins.gmail.oauth import CLIENT_ID as GOOGLE
from tests.twins.graph.oauth import CLIENT_ID as MICROSOFT
from tests.waiting import until

from paceline_common import ids
from paceline_demo.admin import Admin
from paceline_demo.api import Api
from paceline_local.parts.mailhost import User
from paceline_local.stack import Stack

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(400)]

PASSWORD: Final = "stolen-Marmot-2931"
SECRETS: Final = {"google": "GOCSPX-stolen-4711", "microsoft": "stolen~Q8.secret-4712"}
ANN, GIA, GUS, OLE = "ann@north.test", "gia@gmail.test", "gus@gmail.test", "ole@outlook.test"
_HEX: Final = re.compile(rb"\\\\?x((?:[0-9a-f]{2}){8,})")
_PATIENCE_S: Final = 60


@dataclass
class House:
    """A running stack, a workspace in it, and everything that must stay secret."""

    stack: Stack
    api: Api
    http: httpx.AsyncClient
    workspace: int
    secrets: dict[str, str] = field(default_factory=dict)

    async def put(self, path: str, body: dict[str, Any]) -> Any:
        answer = await self.http.put(path, json=body)
        answer.raise_for_status()
        return answer.json()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A whole stack of its own with the real Vault, its services and the twins up."""
    made = Stack(tmp_path_factory.mktemp("stolen") / "run")
    try:
        yield made.up(keys="vault", twins=True)
    finally:
        made.down()
        shutil.rmtree(made.layout.state)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(stack: Stack) -> AsyncIterator[House]:
    stack.mailhost.add_users([User(ANN, PASSWORD)])
    for kind, client, provider, people in (
        ("gmail", GOOGLE, "google", (GIA, GUS)),
        ("graph", MICROSOFT, "microsoft", (OLE,)),
    ):
        twin = stack.twins[kind]  # type: ignore[index]
        twin.control(
            "POST", "identity", {"interactive": False, "clients": {client: SECRETS[provider]}}
        )
        for email in people:
            twin.control("POST", "mailboxes", {"email": email})
    admin = Admin(stack.env("admin"))
    made = await admin.json("workspace", "create", "Stolen")
    await admin.json("workspace", "create", "Neighbour")
    key = await admin.json("key", "create", made["workspace_id"], "--name", "stolen")
    file = stack.layout.run / "app-secret"
    file.write_text(SECRETS["google"])
    # One app is the installation's, the other the workspace's own.
    await admin.json(
        "oauth-app", "set", "google", "--client-id", GOOGLE, "--secret-file", str(file)
    )
    url = stack.services["gateway"].url()
    async with httpx.AsyncClient(
        base_url=url, headers={"Authorization": f"Bearer {key['key']}"}, timeout=60
    ) as http:
        one = House(stack, Api(url, key["key"]), http, ids.decode("ws", made["workspace_id"]))
        one.secrets |= {
            "API key": key["key"], "mailbox password": PASSWORD,
            **{f"{name} app secret": secret for name, secret in SECRETS.items()},
        }  # fmt: skip
        await one.put(
            "/v1/oauth/apps/microsoft",
            {"client_id": MICROSOFT, "client_secret": SECRETS["microsoft"]},
        )
        await _connect_all(one)
        yield one


async def _connect_all(house: House) -> None:
    ports = house.stack.ports
    server = {"host": "127.0.0.1", "username": ANN, "password": PASSWORD}
    mailboxes = [
        await house.api.post(
            "/v1/mailboxes",
            {
                "email": ANN,
                "smtp": server | {"port": ports["smtp_starttls"], "tls": "starttls"},
                "imap": server | {"port": ports["imaps"], "tls": "implicit"},
            },
        )
    ]
    for provider, email, wanted in (
        ("google", GIA, {}),
        ("google", GUS, {"access": "send_and_read", "consents": "separate"}),
        ("microsoft", OLE, {}),
    ):
        mailboxes.append(await _consent(house, provider, email, **wanted))
    # Both services refresh, and keep what they got.
    for mailbox, kind in zip(mailboxes[1:], ("gmail", "gmail", "graph"), strict=True):
        twin = house.stack.twins[kind]  # type: ignore[index]
        _remember_tokens(house, kind, mailbox["email"])
        twin.control("POST", f"mailboxes/{mailbox['email']}/tokens", {"do": "expire"})
        tested = await house.api.post(f"/v1/mailboxes/{mailbox['id']}/test")
        assert tested["ok"], tested
        _remember_tokens(house, kind, mailbox["email"])
    await _half_way(house)
    await _queue(house, [mailbox["id"] for mailbox in mailboxes])


async def _consent(house: House, provider: str, email: str, **wanted: Any) -> dict[str, Any]:
    made = await house.api.post(f"/v1/oauth/{provider}/flows", {"login_hint": email, **wanted})
    async with httpx.AsyncClient(follow_redirects=True, timeout=90) as browser:
        page = await browser.get(made["start_url"])
        assert page.status_code == 200, page.text
    found = await house.api.get(f"/v1/oauth/flows/{made['id']}")
    mailbox: dict[str, Any] = await house.api.get(f"/v1/mailboxes/{found['mailbox_id']}")
    return mailbox


async def _half_way(house: House) -> None:
    """Leave a flow between its two consents: the first grant is held, the state is open."""
    house.stack.twins["gmail"].control("POST", "mailboxes", {"email": "hal@gmail.test"})
    made = await house.api.post(
        "/v1/oauth/google/flows", {"login_hint": "hal@gmail.test", "consents": "separate"}
    )
    callbacks = 0
    async with httpx.AsyncClient(timeout=30) as browser:
        url = made["start_url"]
        while callbacks < 1 or "/callback/" in url:
            answer = await browser.get(url)
            assert answer.is_redirect, answer.text
            callbacks += "/callback/" in url
            url = answer.headers["location"]
        state = parse_qs(urlsplit(url).query)["state"][0]
        [session] = [one.value or "" for one in browser.cookies.jar]
    house.secrets |= {
        "start link": made["start_url"].rpartition("/")[2], "state": state, "session": session,
    }  # fmt: skip
    _remember_tokens(house, "gmail", "hal@gmail.test")


async def _queue(house: House, mailboxes: list[str]) -> None:
    """Queue a campaign over all mailboxes, so that Redis has something to keep."""
    pool = await house.api.post("/v1/pools", {"name": "all", "mailboxes": mailboxes})
    campaign = await house.api.post(
        "/v1/campaigns",
        {
            "name": "queued", "tiers": [[pool["id"]]],
            "steps": [{"delay_s": 0, "subject": "Hello", "text": "Good day.\n"}],
        },
    )  # fmt: skip
    csv = "\n".join(["email", *(f"lead-{n}@example.test" for n in range(20))]).encode()
    await house.api.upload(f"/v1/campaigns/{campaign['id']}/imports", "leads.csv", csv)
    await house.api.post(f"/v1/campaigns/{campaign['id']}/start")
    await until(lambda: len(_redis(house.stack)) > 200, "queued", within_s=_PATIENCE_S, every_s=0.2)


def _remember_tokens(house: House, kind: str, email: str) -> None:
    twin = house.stack.twins[kind]  # type: ignore[index]
    told = twin.control("GET", f"mailboxes/{email}/tokens")["tokens"]
    found = told if isinstance(told, list) else [one for group in told.values() for one in group]
    assert found
    for one in found:
        house.secrets[f"token {len(house.secrets)} of {email}"] = one


# ---- The dumps


def _postgres(stack: Stack) -> bytes:
    made = subprocess.run(
        ["pg_dump", "--inserts", f"--dbname={stack.dsn('postgres')}"],
        capture_output=True, check=True,
    )  # fmt: skip
    return made.stdout


def _redis(stack: Stack) -> bytes:
    with redis.Redis.from_url(stack.redis.url()) as client:
        # A compressed string would hide what it holds.
        client.config_set("rdbcompression", "no")
        client.save()
        folder = Path(client.config_get("dir")["dir"])
    found = (folder / "dump.rdb").read_bytes()
    return found + b"".join(one.read_bytes() for one in folder.rglob("*.aof"))


def _forms(secret: str) -> dict[str, bytes]:
    """Return the ways in which a secret could lie somewhere unsealed."""
    raw = secret.encode()
    # Base64 of it within longer text: less what its neighbours' bits decide.
    shifted = {
        f"base64 at {n}": base64.b64encode(b"\0" * n + raw)[4 if n else 0 : -4]
        for n in range(3)
    }  # fmt: skip
    return {
        "as it is": raw,
        "as UTF-16": secret.encode("utf-16-le"),
        "in hex": raw.hex().encode(),
        "quoted": quote(secret, safe="").encode(),
        **shifted,
    }


def _whole(dump: bytes) -> bytes:
    """Return a dump, and behind it what its bytea literals hold."""
    return dump + b"\n".join(bytes.fromhex(one.decode()) for one in _HEX.findall(dump))


async def test_the_scan_sees_a_secret_however_it_lies_there() -> None:
    secret = "1//stolen~token+x"
    raw = secret.encode()
    lying = [
        b'{"refresh_token": "' + raw + b'"}',
        secret.encode("utf-16-le"),
        b"&token=" + quote(secret, safe="").encode(),
        *(base64.b64encode(b"x" * n + raw + b"behind it") for n in range(9)),
    ]
    for one in lying:
        dump = b"INSERT INTO t VALUES (1, '\\x" + one.hex().encode() + b"');"
        assert any(form in _whole(dump) for form in _forms(secret).values()), one
        assert any(form in _whole(one) for form in _forms(secret).values()), one
    assert not any(form in _whole(b"\\x" + b"00" * 40) for form in _forms(secret).values())


async def test_a_dump_of_postgres_holds_no_secret(house: House) -> None:
    dump = _postgres(house.stack)
    whole = _whole(dump)
    # It is the real thing: addresses are there, and the sealed values.
    assert all(email.encode() in whole for email in (ANN, GIA, GUS, OLE, "lead-7@example.test"))
    for sealed in _sealed(house):
        assert sealed.value in whole, sealed
    for name, secret in house.secrets.items():
        for form, looked_for in _forms(secret).items():
            assert looked_for not in whole, f"the {name} lies in the dump {form}"


async def test_a_dump_of_redis_holds_no_secret(house: House) -> None:
    dump = _redis(house.stack)
    assert b"pace:" in dump
    for name, secret in house.secrets.items():
        for form, looked_for in _forms(secret).items():
            assert looked_for not in dump, f"the {name} lies in Redis {form}"


# ---- What is sealed


@dataclass(frozen=True)
class Sealed:
    """A sealed value: where it lies, and what its seal names."""

    where: str
    key: str
    context: str
    value: bytes = field(repr=False)


def _sealed(house: House) -> list[Sealed]:
    return list(_seals(house.stack, house.workspace))


def _seals(stack: Stack, ws: int) -> Iterator[Sealed]:
    with psycopg.connect(stack.dsn("postgres"), row_factory=dict_row) as tx:
        for row in tx.execute("SELECT * FROM gateway.mailbox WHERE workspace_id = %s", [ws]):
            for scope in ("send", "read"):
                context = f"{ws}/mailbox/{row['mailbox_id']}/{scope}"
                value = bytes(row[f"{scope}_credential"])
                yield Sealed(f"{row['email']} {scope}", f"{scope}-{ws}", context, value)
        for service, scope in (("sender", "send"), ("reply", "read")):
            for row in tx.execute(f"SELECT * FROM {service}.oauth_token".encode()):
                context = f"{ws}/oauth_token/{row['mailbox_id']}/{scope}"
                where = f"{service}'s tokens of {row['mailbox_id']}"
                yield Sealed(where, f"{scope}-{ws}", context, bytes(row["sealed"]))
        for row in tx.execute("SELECT * FROM gateway.oauth_flow WHERE held_credential NOTNULL"):
            context = f"{ws}/mailbox/{row['held']['mailbox_id']}/send"
            yield Sealed("held consent", f"send-{ws}", context, bytes(row["held_credential"]))
        for row in tx.execute("SELECT * FROM gateway.oauth_secret"):
            app = f"{row['provider']}/{row['client_id']}"
            for scope in ("send", "read"):
                context = f"{ws}/oauth_secret/{app}/{scope}"
                value = bytes(row[f"{scope}_sealed"])
                yield Sealed(f"secret of {app} {scope}", f"{scope}-{ws}", context, value)
        for table, whose in (("oauth_app", ws), ("oauth_installation_app", 0)):
            for row in tx.execute(f"SELECT * FROM gateway.{table}".encode()):
                context = f"{whose}/{table}/{row['provider']}/gateway"
                yield Sealed(
                    f"{table} {row['provider']}", "gateway", context, bytes(row["client_secret"])
                )


async def test_what_is_sealed_opens_with_its_own_key_only(house: House) -> None:
    vault = hvac.Client(url=house.stack.keys.url(), token=house.stack.keys.root_token())
    keys = [
        name
        for name in vault.secrets.transit.list_keys()["data"]["keys"]
        if vault.secrets.transit.read_key(name)["data"]["supports_decryption"]
    ]
    sealed = _sealed(house)
    # Four mailboxes with two legs, three of them refreshed by both services, two apps for both
    # legs, and the rest.
    assert len(sealed) == 8 + 6 + 4 + 1 + 2, [one.where for one in sealed]
    neighbours = [name for name in keys if name.startswith(("send-", "read-"))]
    assert len(neighbours) >= 4
    opened = ""
    for one in sealed:
        (length,) = struct.unpack_from(">xH", one.value)
        wrapped, rest = one.value[3 : 3 + length].decode(), one.value[3 + length :]
        for name in keys:
            if name == one.key:
                continue
            with pytest.raises(InvalidRequest):
                vault.secrets.transit.decrypt_data(name, wrapped)
        # Its own key opens it: the secrets are all there, and nowhere else.
        answer = vault.secrets.transit.decrypt_data(one.key, wrapped)
        data_key = AESGCM(base64.b64decode(answer["data"]["plaintext"]))
        opened += data_key.decrypt(rest[:12], rest[12:], one.context.encode()).decode()
    for name, secret in house.secrets.items():
        if "app secret" in name or name == "mailbox password":
            assert secret in opened, f"the {name} is kept nowhere"
    assert sum(one in opened for name, one in house.secrets.items() if "token" in name) >= 8


# ---- And nothing is left behind


async def test_who_leaves_takes_the_grant_along(house: House) -> None:
    listed = (await house.api.get("/v1/mailboxes"))["items"]
    numbers = {one["email"]: one["id"] for one in listed}
    for email, kind, told in (
        (GIA, "gmail", {"send": "revoked", "read": "already_gone"}),
        (OLE, "graph", {"send": "not_supported", "read": "not_supported"}),
        (ANN, None, {}),
    ):
        gone = await house.http.delete(f"/v1/mailboxes/{numbers[email]}")
        assert gone.status_code == 204, gone.text
        if kind == "gmail":
            twin = house.stack.twins["gmail"]
            assert twin.control("GET", f"mailboxes/{email}/tokens")["tokens"] == []
        number = ids.decode("mbx", numbers[email])
        assert await _audited(house, numbers[email]) == told
        with psycopg.connect(house.stack.dsn("postgres"), row_factory=dict_row) as tx:
            [row] = tx.execute(
                "SELECT send_credential, read_credential FROM gateway.mailbox"
                " WHERE workspace_id = %s AND mailbox_id = %s",
                [house.workspace, number],
            )
            assert row == {"send_credential": None, "read_credential": None}
            for service in ("sender", "reply"):
                kept = tx.execute(
                    f"SELECT 1 FROM {service}.oauth_token WHERE mailbox_id = %s".encode(),
                    [number],
                )
                assert kept.fetchall() == []
    # Whoever stays keeps what they granted.
    stays = house.stack.twins["gmail"].control("GET", f"mailboxes/{GUS}/tokens")["tokens"]
    assert stays


async def _audited(house: House, mailbox: str) -> dict[str, str]:
    """Return what the trail says of the disconnect, when it is there."""

    def found() -> list[dict[str, str]]:
        with psycopg.connect(house.stack.dsn("postgres")) as tx:
            return [
                row[0]
                for row in tx.execute(
                    "SELECT detail FROM audit.audit_record"
                    " WHERE action = 'mailbox.disconnected' AND subject = %s",
                    [mailbox],
                )
            ]

    await until(found, "the record", within_s=_PATIENCE_S, every_s=0.2)
    [detail] = found()
    return detail
