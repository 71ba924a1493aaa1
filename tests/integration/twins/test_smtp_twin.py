"""The SMTP twin before clients that nobody here wrote: smtplib and aiosmtplib."""

import asyncio
import json
import smtplib
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiosmtplib
import httpx
import pytest
from tests.twins.relay import Letter, Relay, relaying
from tests.twins.smtp.inbound import Inbound
from tests.twins.smtp.twin import SmtpTwin, running
from tests.twins.smtp.wire import listening
from tests.twins.tls import ServerTls
from tests.waiting import until

ROOT = Path(__file__).parents[3]
ANN, BOB = "ann@north.test", "bob@example.test"
MESSAGE = (
    f"From: {ANN}\r\nTo: {BOB}\r\nSubject: x\r\nMessage-ID: <1@north.test>\r\n"
    "X-Paceline-Job: job_1\r\n\r\n.a dot\r\n..two\r\n"
)


@dataclass
class Here:
    """A twin and how to reach it."""

    twin: SmtpTwin
    port: int
    http: httpx.AsyncClient

    async def dialled(self, act: Callable[[smtplib.SMTP], Any]) -> Any:
        """Let smtplib do something, which blocks."""

        def run() -> Any:
            with smtplib.SMTP("127.0.0.1", self.port, timeout=5) as client:
                client.ehlo()
                return act(client)

        return await asyncio.to_thread(run)


@pytest.fixture
async def here() -> AsyncIterator[Here]:
    async with running() as (twin, port, url), httpx.AsyncClient(base_url=url) as http:
        twin.add_account(ANN, "secret").tokens.add("ya29.token")
        yield Here(twin, port, http)


def send(client: smtplib.SMTP) -> Any:
    client.login(ANN, "secret")
    return client.sendmail(ANN, [BOB], MESSAGE)


async def test_a_foreign_client_sends_and_the_truth_is_what_it_sent(here: Here) -> None:
    assert await here.dialled(send) == {}
    [one] = here.twin.submissions
    assert one.raw == MESSAGE.encode()
    assert (one.job, one.mailbox, one.recipients) == ("job_1", ANN, (BOB,))
    assert one.asked_at <= one.at
    told = (await here.http.get("/control/truth", params={"raw": 0})).json()
    assert (told["next"], told["submissions"][0]["job"]) == (1, "job_1")
    assert told["submissions"][0]["raw"] is None
    later = (await here.http.get("/control/truth", params={"after": 1})).json()
    assert later == {"submissions": [], "next": 1}


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
async def test_every_password_mechanism_signs_in_and_refuses(here: Here, mechanism: str) -> None:
    here.twin.mechanisms = (mechanism,)
    assert await here.dialled(send) == {}
    with pytest.raises(smtplib.SMTPAuthenticationError) as refused:
        await here.dialled(lambda client: client.login(ANN, "wrong"))
    assert refused.value.smtp_code == 535


@pytest.mark.parametrize(
    ("mechanism", "words"),
    [
        ("XOAUTH2", f"user={ANN}\x01auth=Bearer {{}}\x01\x01"),
        ("OAUTHBEARER", f"n,a={ANN},\x01host=h\x01port=1\x01auth=Bearer {{}}\x01\x01"),
    ],
)
async def test_a_bearer_token_signs_in_and_a_refusal_is_answered_first(
    here: Here, mechanism: str, words: str
) -> None:
    def sign_in(token: str) -> Callable[[smtplib.SMTP], Any]:
        return lambda client: client.auth(mechanism, lambda challenge=None: words.format(token))

    assert (await here.dialled(sign_in("ya29.token")))[0] == 235
    with pytest.raises(smtplib.SMTPAuthenticationError):
        await here.dialled(sign_in("ya29.other"))


async def test_an_account_sends_as_itself_alone_and_within_its_limit(here: Here) -> None:
    def forge(client: smtplib.SMTP) -> Any:
        client.login(ANN, "secret")
        return client.sendmail("eve@north.test", [BOB], MESSAGE)

    with pytest.raises(smtplib.SMTPSenderRefused):
        await here.dialled(forge)
    here.twin.accounts[ANN].messages_left = 0
    with pytest.raises(smtplib.SMTPSenderRefused) as limited:
        await here.dialled(send)
    assert b"5.4.5" in limited.value.smtp_error
    assert here.twin.submissions == []


async def dialled_and_sent(client: aiosmtplib.SMTP) -> None:
    async with client:
        await client.login(ANN, "secret")
        await client.sendmail(ANN, [BOB], MESSAGE)


@pytest.mark.parametrize("reply", ["451 4.3.0 not now", "550 5.7.1 never"])
@pytest.mark.parametrize("place", ["connect", "AUTH", "MAIL", "RCPT", "DATA", "dot"])
async def test_a_refusal_strikes_where_it_was_set_and_once(
    here: Here, place: str, reply: str
) -> None:
    # With several the client would try the next one.
    here.twin.mechanisms = ("PLAIN",)
    fault = {"operation": place, "kind": "status", "message": reply}
    assert (await here.http.post("/control/faults", json=fault)).is_success
    client = aiosmtplib.SMTP(hostname="127.0.0.1", port=here.port, start_tls=False, timeout=5)
    with pytest.raises(aiosmtplib.SMTPException) as refused:
        await dialled_and_sent(client)
    assert reply[:3] in str(refused.value)
    assert here.twin.submissions == []
    assert (await here.http.get("/control/faults")).json() == {
        "waiting": [], "done": {"status": 1},
    }  # fmt: skip
    assert await here.dialled(send) == {}


async def test_what_was_taken_and_answered_by_nothing_is_in_the_truth(here: Here) -> None:
    here.twin.fail("dot", "reset_after")
    here.twin.fail("dot", "done_then_status", message="451 4.3.0 no")
    with pytest.raises((smtplib.SMTPServerDisconnected, ConnectionResetError)):
        await here.dialled(send)
    with pytest.raises(smtplib.SMTPDataError):
        await here.dialled(send)
    assert [one.job for one in here.twin.submissions] == ["job_1", "job_1"]


async def test_a_share_of_faults_is_drawn_by_seed(here: Here) -> None:
    here.twin.fail("RCPT", "status", times=1000, share=0.5, message="451 4.3.0 no")

    def many(client: smtplib.SMTP) -> list[int]:
        client.login(ANN, "secret")
        client.mail(ANN)
        return [client.rcpt(BOB)[0] for _ in range(40)]

    codes = await here.dialled(many)
    assert 10 < codes.count(451) < 30


async def test_starttls_is_demanded_before_a_password_and_its_name_goes_wrong_on_command() -> None:
    secure = ServerTls()
    trust = ssl.create_default_context(cadata=secure.authority.pem().decode())
    twin = SmtpTwin(secure=secure)
    twin.add_account(ANN, "secret")
    async with running(twin) as (_, port, url), httpx.AsyncClient(base_url=url) as http:
        here = Here(twin, port, http)

        def secured(client: smtplib.SMTP) -> Any:
            client.starttls(context=trust)
            return send(client)

        with pytest.raises(smtplib.SMTPNotSupportedError):
            await here.dialled(send)
        assert await here.dialled(secured) == {}
        await http.post("/control/tls", json={"name": "wrong"})
        with pytest.raises(ssl.SSLCertVerificationError):
            await here.dialled(secured)
        await http.post("/control/tls", json={"name": "right"})
        assert await here.dialled(secured) == {}
    assert len(twin.submissions) == 2


async def test_a_relay_gets_what_was_taken_and_reports_go_back_to_the_sender() -> None:
    came: dict[str, list[bytes]] = {ANN: [], BOB: []}
    far = Inbound("far.test", came.__contains__, lambda to, raw: came[to].append(raw))
    async with (
        listening(far) as far_port,
        running(relay_to=("127.0.0.1", far_port)) as (twin, port, url),
        httpx.AsyncClient(base_url=url) as http,
    ):
        twin.add_account(ANN, "secret")

        def both(client: smtplib.SMTP) -> Any:
            client.login(ANN, "secret")
            return client.sendmail(ANN, [BOB, "nobody@example.test"], MESSAGE)

        await Here(twin, port, http).dialled(both)
        await until(lambda: bool(came[BOB] and came[ANN]))
        assert (await http.get("/control/relay")).json() == {"waiting": 0}
    [copy], [report] = came[BOB], came[ANN]
    assert copy.endswith(MESSAGE.encode())
    assert copy.startswith(f"Return-Path: <{ANN}>".encode())
    assert b"Final-Recipient: rfc822; nobody@example.test" in report
    assert b"Status: 5.1.1" in report
    assert b"X-Paceline-Job: job_1" in report
    assert len(twin.submissions) == 1


async def test_a_relay_waits_for_a_host_that_is_away() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    came: list[bytes] = []
    far = Inbound("far.test", lambda _: True, lambda _, raw: came.append(raw))
    relay = Relay("127.0.0.1", port, refused=lambda *_: None)
    async with relaying(relay):
        relay.put(Letter(ANN, BOB, MESSAGE.encode()))
        await asyncio.sleep(0)
        async with listening(far, port=port):
            await until(lambda: relay.waiting == 0)
    assert len(came) == 1


@pytest.mark.parametrize("kind", ["smtp", "gmail", "graph"])
async def test_a_process_tells_the_port_it_has_found_and_serves_tls(kind: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", f"tests.twins.{kind}", "--tls", cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        where = json.loads(await asyncio.wait_for(process.stdout.readline(), 30))
        # Its authority is asked for without trust, as one looks at a key for the first time.
        async with httpx.AsyncClient(base_url=where["url"], verify=False) as http:
            pem = (await http.get("/control/ca")).text
        trust = ssl.create_default_context(cadata=pem)
        if kind == "smtp":
            assert where["url"].startswith("http://")
            with smtplib.SMTP("127.0.0.1", where["smtp_port"], timeout=5) as client:
                client.starttls(context=trust)
        else:
            assert where["url"].startswith("https://")
            async with httpx.AsyncClient(base_url=where["url"], verify=trust) as http:
                assert (await http.get("/control/ready")).is_success
    finally:
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 10) == 0
