"""SMTP submission against a server that misbehaves by script; the outcome stands in each name."""

import asyncio
import base64
import socket
import ssl
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.twins.smtp.server import Fault, Place, Script, ScriptedSmtp, scripted
from tests.waiting import until

from paceline_local import certificate
from paceline_providers.base import (
    REMEDIES,
    Accepted,
    Deferred,
    InDoubt,
    Milestone,
    Outcome,
    ProbeCode,
    Rejected,
    Session,
    Unsent,
    probe,
)
from paceline_providers.classes import OutcomeClass
from paceline_providers.hosts import HostPolicy
from paceline_providers.registry import PROVIDERS
from paceline_providers.smtp import SmtpProvider, SmtpSettings, Timeouts

LOOPBACK = HostPolicy("127.0.0.0/8")
SENDER, RECIPIENT = "ann@north.test", "bob@example.test"
MESSAGE = b"From: ann@north.test\r\nTo: bob@example.test\r\nSubject: x\r\n\r\nHello\r\n"
BIG = MESSAGE + b"filler line of no interest, but of some length\r\n" * 400_000
QUICK = Timeouts(
    connect=5, greeting=5, sign_in=5, envelope=5, data=5, block=5, final_dot=5, quit=1
)  # fmt: skip
HASTY = Timeouts(
    connect=0.3, greeting=0.3, sign_in=0.3, envelope=0.3, data=0.3, block=0.3, final_dot=0.3,
    quit=0.3,
)  # fmt: skip


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a CA and a certificate for localhost and 127.0.0.1."""
    folder = tmp_path_factory.mktemp("certificates")
    certificate.ensure(folder)
    return folder


@pytest.fixture
def server_tls(certificates: Path) -> ssl.SSLContext:
    """The server's side of TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    return context


def provider(
    server: ScriptedSmtp,
    *,
    tls: Any = "none",
    host: str = "127.0.0.1",
    ca_file: Path | None = None,
    timeouts: Timeouts = QUICK,
    username: str | None = "ann",
    auth: Any = "auto",
    hosts: HostPolicy = LOOPBACK,
) -> SmtpProvider:
    settings = SmtpSettings(host, server.port, tls, username, auth)
    return SmtpProvider(settings, "päss word", hosts, ca_file, timeouts)


@asynccontextmanager
async def opened(one: SmtpProvider) -> AsyncIterator[Session]:
    session = await one.open()
    assert not isinstance(session, Unsent), session
    try:
        yield session
    finally:
        await session.close()


async def submitted(
    script: Script, *, message: bytes = MESSAGE, timeouts: Timeouts = QUICK
) -> tuple[Outcome, list[Milestone], ScriptedSmtp]:
    milestones: list[Milestone] = []
    async with scripted(script) as server:
        async with opened(provider(server, timeouts=timeouts)) as session:
            outcome = await session.submit(
                SENDER,
                RECIPIENT,
                message,
                before_mail_from=lambda: True,
                on_milestone=milestones.append,
            )
        await asyncio.wait_for(server.only.ended.wait(), 5)
    return outcome, milestones, server


async def test_a_good_server_accepts_and_gets_exactly_the_message() -> None:
    outcome, milestones, server = await submitted(Script())
    assert outcome == Accepted("4TwinQueueId", 250, "2.0.0 Ok: queued as 4TwinQueueId")
    assert milestones == ["mail_from", "final_dot"]
    assert server.only.messages == [MESSAGE + b".\r\n"]
    assert server.only.verbs == ["EHLO", "AUTH", "MAIL", "RCPT", "DATA", "QUIT"]
    assert server.only.commands[2] == f"MAIL FROM:<{SENDER}> SIZE={len(MESSAGE)}"
    assert server.only.commands[3] == f"RCPT TO:<{RECIPIENT}>"


async def test_line_ends_and_leading_dots_arrive_as_the_rfc_wants() -> None:
    _, _, server = await submitted(Script(), message=b"Subject: x\n\n.\n..two\rthree\r\n.end")
    assert server.only.messages == [b"Subject: x\r\n\r\n..\r\n...two\r\nthree\r\n..end\r\n.\r\n"]


async def test_a_session_is_reused_after_acceptance() -> None:
    async with scripted(Script()) as server, opened(provider(server)) as session:
        for _ in range(3):
            assert session.is_reusable
            outcome = await session.submit(
                SENDER, RECIPIENT, MESSAGE, before_mail_from=lambda: True
            )
            assert isinstance(outcome, Accepted)
        assert len(server.only.messages) == 3


@pytest.mark.parametrize(
    ("place", "reply", "expected"),
    [
        ("MAIL", "421 4.3.2 shutting down", Deferred),
        ("MAIL", "451 4.7.1 try again later", Deferred),
        ("MAIL", "550 5.1.8 who are you", Rejected),
        ("MAIL", "550 5.4.5 Daily user sending limit exceeded", Deferred),
        ("MAIL", "530 5.7.0 Authentication required", Deferred),
        ("RCPT", "450 4.2.0 Greylisted", Deferred),
        ("RCPT", "452 4.5.3 too many recipients", Deferred),
        ("RCPT", "550 5.1.1 User unknown", Rejected),
        ("RCPT", "550 5.7.1 Access denied", Rejected),
        ("RCPT", "552 5.2.2 mailbox full", Deferred),
        ("DATA", "451 4.3.0 no space", Deferred),
        ("DATA", "554 5.5.1 no valid recipients", Rejected),
        ("dot", "451 4.3.0 queue file write error", Deferred),
        ("dot", "421 4.7.0 closing", Deferred),
        ("dot", "550 5.7.1 looks like spam", Rejected),
        ("dot", "552 5.3.4 too big", Rejected),
        ("dot", "554-5.7.1 line one\n554 5.7.1 line two", Rejected),
    ],
)
async def test_a_refusal_is_told_with_its_class_its_place_and_the_exact_words(
    place: Place, reply: str, expected: type[Deferred] | type[Rejected]
) -> None:
    outcome, milestones, server = await submitted(Script(replies={place: reply}))
    classes = {
        "550 5.1.8": "config", "550 5.4.5": "limit", "530 5.7.0": "auth", "452 4.5.3": "limit",
        "550 5.1.1": "hard", "550 5.7.1": "block", "554 5.5.1": "config", "552 5.3.4": "config",
        "554-5.7.1": "block",
    }  # fmt: skip
    phases = {"MAIL": "mail", "RCPT": "rcpt", "DATA": "data", "dot": "body"}
    words = "\n".join(line[4:] for line in reply.split("\n"))
    assert (
        outcome
        == expected(
            OutcomeClass(classes.get(reply[:9], "soft")),
            phases[place],  # type: ignore[arg-type]
            int(reply[:3]),
            words[:5],
            words,
        )
    )
    assert milestones == ["mail_from"] + (["final_dot"] if place == "dot" else [])
    assert server.only.verbs[-1] == "QUIT" or reply.startswith("421")


@pytest.mark.parametrize("place", ["MAIL", "RCPT", "DATA"])
@pytest.mark.parametrize("fault", ["reset", "close"])
async def test_a_connection_lost_before_the_body_is_deferred_soft(
    place: Place, fault: Fault
) -> None:
    outcome, milestones, server = await submitted(Script(faults={place: fault}))
    assert isinstance(outcome, Deferred)
    assert (outcome.outcome_class, outcome.phase) == ("soft", place.lower())
    assert outcome.code is None
    assert outcome.text
    assert milestones == ["mail_from"]
    assert server.only.messages == []


@pytest.mark.parametrize("place", ["MAIL", "RCPT", "DATA"])
async def test_a_silence_before_the_body_is_deferred_soft(place: Place) -> None:
    outcome, _, server = await submitted(Script(faults={place: "hang"}), timeouts=HASTY)
    assert isinstance(outcome, Deferred)
    assert (outcome.outcome_class, outcome.phase) == ("soft", place.lower())
    assert server.only.verbs[-1] == place
    assert server.only.lost_data == b""


@pytest.mark.parametrize(
    "reply", ["553 5.7.1 <a>: Sender address rejected: not owned", "450 4.1.8 <a>: unknown domain"]
)
async def test_what_is_held_against_the_sender_at_rcpt_counts_as_said_at_mail_from(
    reply: str,
) -> None:
    outcome, _, _ = await submitted(Script(replies={"RCPT": reply}))
    assert isinstance(outcome, Rejected if reply.startswith("5") else Deferred)
    assert (outcome.outcome_class, outcome.phase) == ("config", "mail")


@pytest.mark.parametrize("fault", ["reset", "close"])
async def test_a_connection_lost_while_the_body_is_leaving_is_deferred_soft(
    fault: Fault,
) -> None:
    script = Script(faults={"body": fault}, read_bytes=10_000, offers=("AUTH PLAIN",))
    outcome, milestones, server = await submitted(script, message=BIG)
    assert isinstance(outcome, Deferred)
    assert (outcome.outcome_class, outcome.phase) == ("soft", "body")
    assert milestones == ["mail_from"]
    assert server.only.messages == []


async def test_a_server_that_takes_no_more_of_the_body_is_deferred_soft() -> None:
    script = Script(faults={"body": "hang"}, offers=("AUTH PLAIN",))
    outcome, milestones, server = await submitted(script, message=BIG, timeouts=HASTY)
    assert isinstance(outcome, Deferred)
    assert (outcome.outcome_class, outcome.phase) == ("soft", "body")
    assert milestones == ["mail_from"]
    assert b"\r\n.\r\n" not in server.only.lost_data


async def test_a_refusal_in_mid_body_counts_by_its_words_and_the_dot_is_withheld() -> None:
    script = Script(early="552 5.3.4 Message too big", read_bytes=10_000, offers=("AUTH PLAIN",))
    outcome, milestones, _ = await submitted(script, message=BIG)
    assert outcome == Rejected(OutcomeClass.CONFIG, "body", 552, "5.3.4", "5.3.4 Message too big")
    assert milestones == ["mail_from"]


async def test_a_premature_yes_in_mid_body_is_no_acceptance() -> None:
    script = Script(early="250 2.0.0 whatever", read_bytes=10_000, offers=("AUTH PLAIN",))
    outcome, milestones, _ = await submitted(script, message=BIG)
    assert isinstance(outcome, Deferred)
    assert milestones == ["mail_from"]


async def test_a_reply_too_many_before_the_body_is_no_acceptance() -> None:
    script = Script(replies={"DATA": "354 go ahead\n250 2.0.0 queued", "dot": "550 5.7.1 no"})
    outcome, milestones, _ = await submitted(script)
    assert isinstance(outcome, Deferred)
    assert milestones == ["mail_from"]


@pytest.mark.parametrize("fault", ["reset", "close"])
async def test_a_connection_lost_after_the_final_dot_is_in_doubt(fault: Fault) -> None:
    outcome, milestones, server = await submitted(Script(faults={"dot": fault}))
    assert isinstance(outcome, InDoubt)
    assert "after the final dot" in outcome.evidence
    assert milestones == ["mail_from", "final_dot"]
    assert server.only.messages == [MESSAGE + b".\r\n"]


async def test_a_silence_after_the_final_dot_is_in_doubt() -> None:
    outcome, _, server = await submitted(Script(faults={"dot": "hang"}), timeouts=HASTY)
    assert outcome == InDoubt("no answer within 0.3 s after the final dot")
    assert server.only.messages == [MESSAGE + b".\r\n"]


@pytest.mark.parametrize("rubbish", ["hello?", "354 go on", "1x0 what"])
async def test_an_unintelligible_answer_to_the_final_dot_is_in_doubt(rubbish: str) -> None:
    outcome, _, _ = await submitted(Script(replies={"dot": rubbish}))
    assert isinstance(outcome, InDoubt)


async def test_a_slow_answer_to_the_final_dot_is_waited_for() -> None:
    outcome, _, _ = await submitted(Script(delays_s={"dot": 0.7}))
    assert isinstance(outcome, Accepted)


async def test_the_default_patience_after_the_final_dot_is_ten_minutes() -> None:
    assert Timeouts().final_dot == 600


@pytest.mark.parametrize("place", ["MAIL", "RCPT", "DATA"])
async def test_an_unintelligible_reply_before_the_body_is_deferred_soft(place: Place) -> None:
    outcome, _, server = await submitted(Script(replies={place: "gibberish"}))
    assert isinstance(outcome, Deferred)
    assert outcome.outcome_class == "soft"
    assert "gibberish" in outcome.text
    assert server.only.messages == []


async def test_after_a_refusal_the_session_takes_no_more_and_says_unsent() -> None:
    script = Script(replies={"RCPT": "550 5.1.1 unknown"})
    async with scripted(script) as server, opened(provider(server)) as session:
        await session.submit(SENDER, RECIPIENT, MESSAGE, before_mail_from=lambda: True)
        assert not session.is_reusable
        again = await session.submit(SENDER, RECIPIENT, MESSAGE, before_mail_from=lambda: True)
        assert isinstance(again, Unsent)
        assert again.reason == "connection_lost"
        assert server.only.verbs.count("MAIL") == 1


async def test_held_back_means_not_a_byte_left_and_the_session_still_serves() -> None:
    milestones: list[Milestone] = []
    async with scripted(Script()) as server, opened(provider(server)) as session:
        outcome = await session.submit(
            SENDER, RECIPIENT, MESSAGE,
            before_mail_from=lambda: False, on_milestone=milestones.append,
        )  # fmt: skip
        assert isinstance(outcome, Unsent)
        assert outcome.reason == "held_back"
        assert milestones == []
        assert server.only.verbs == ["EHLO", "AUTH"]
        assert session.is_reusable
        later = await session.submit(SENDER, RECIPIENT, MESSAGE, before_mail_from=lambda: True)
        assert isinstance(later, Accepted)


async def test_a_server_that_left_before_mail_from_is_unsent_and_the_hook_is_not_asked() -> None:
    asked: list[str] = []

    def ask() -> bool:
        asked.append("may it leave?")
        return True

    async with scripted(Script()) as server, opened(provider(server)) as session:
        server.only.dismiss()
        await until(lambda: not session.is_reusable, within_s=5)
        outcome = await session.submit(SENDER, RECIPIENT, MESSAGE, before_mail_from=ask)
    assert isinstance(outcome, Unsent)
    assert outcome.reason == "connection_lost"
    assert asked == []
    assert "MAIL" not in server.only.verbs


@pytest.mark.parametrize(
    ("offers", "sender", "recipient", "message", "words"),
    [
        (("SIZE 50",), SENDER, RECIPIENT, MESSAGE, "bytes"),
        ((), SENDER, RECIPIENT, "Subject: x\r\n\r\ngrün\r\n".encode(), "8-bit"),
        (("8BITMIME",), SENDER, "jürgen@example.test", MESSAGE, "ASCII"),
        ((), "a b@north.test", RECIPIENT, MESSAGE, "forbidden"),
        ((), SENDER, "bob@example.test>\r\nRCPT TO:<eve@example.test", MESSAGE, "forbidden"),
        ((), SENDER, "bob@example.test\x00", MESSAGE, "forbidden"),
    ],
)
async def test_what_the_server_cannot_take_is_rejected_before_a_byte_leaves(
    offers: tuple[str, ...], sender: str, recipient: str, message: bytes, words: str
) -> None:
    script = Script(offers=("AUTH PLAIN", *offers))
    async with scripted(script) as server, opened(provider(server)) as session:
        outcome = await session.submit(sender, recipient, message, before_mail_from=lambda: True)
        assert isinstance(outcome, Rejected)
        assert (outcome.outcome_class, outcome.code) == ("config", None)
        assert words in outcome.text
        assert server.only.verbs == ["EHLO", "AUTH"]
        assert session.is_reusable


async def test_extensions_are_used_only_when_they_are_offered_and_needed() -> None:
    script = Script(offers=("AUTH PLAIN", "8BITMIME", "SMTPUTF8", "SIZE"))
    async with scripted(script) as server, opened(provider(server)) as session:
        text = "Subject: x\r\n\r\ngrün\r\n".encode()
        outcome = await session.submit(
            SENDER, "jürgen@example.test", text, before_mail_from=lambda: True
        )
        assert isinstance(outcome, Accepted)
    assert server.only.commands[2] == (
        f"MAIL FROM:<{SENDER}> SIZE={len(text)} BODY=8BITMIME SMTPUTF8"
    )
    plain = Script(offers=("AUTH PLAIN",))
    async with scripted(plain) as server, opened(provider(server)) as session:
        await session.submit(SENDER, RECIPIENT, MESSAGE, before_mail_from=lambda: True)
    assert server.only.commands[2] == f"MAIL FROM:<{SENDER}>"


# ---- Ahead of the slot


@pytest.mark.parametrize(
    ("auth", "offers", "expected"),
    [
        ("auto", ("AUTH LOGIN PLAIN XOAUTH2",), "PLAIN"),
        ("auto", ("AUTH LOGIN",), "LOGIN"),
        ("login", ("AUTH LOGIN PLAIN",), "LOGIN"),
        ("plain", ("AUTH=LOGIN PLAIN",), "PLAIN"),
    ],
)
async def test_it_signs_in_with_the_wanted_method_once(
    auth: str, offers: tuple[str, ...], expected: str
) -> None:
    async with (
        scripted(Script(offers=offers)) as server,
        opened(provider(server, auth=auth)),
    ):
        command = server.only.commands[1].split()
        assert command[:2] == ["AUTH", expected]
        if expected == "PLAIN":
            assert base64.b64decode(command[2]).decode() == "\0ann\0päss word"
        else:
            assert base64.b64decode(command[2]).decode() == "ann"
            assert base64.b64decode(server.only.commands[2]).decode() == "päss word"
        assert server.only.verbs.count("AUTH") == 1


async def test_without_a_user_name_there_is_no_sign_in() -> None:
    async with scripted(Script()) as server, opened(provider(server, username=None)):
        assert server.only.verbs == ["EHLO"]


async def test_our_own_name_is_an_address_literal() -> None:
    async with scripted(Script()) as server, opened(provider(server)):
        assert server.only.commands[0] == "EHLO [127.0.0.1]"


async def unsent(script: Script, **changes: Any) -> tuple[Unsent, ScriptedSmtp]:
    async with scripted(script) as server:
        session = await provider(server, **changes).open()
        assert isinstance(session, Unsent), "it opened"
    return session, server


@pytest.mark.parametrize(
    ("reply", "meaning"),
    [("535 5.7.8 Bad credentials", "auth"), ("454 4.7.0 Too many logins", "soft")],
)
async def test_a_refused_sign_in_is_unsent_with_the_exact_words(reply: str, meaning: str) -> None:
    outcome, server = await unsent(Script(replies={"AUTH": reply}))
    assert outcome == Unsent(
        "auth_failed", OutcomeClass(meaning), int(reply[:3]), reply[4:9], reply[4:]
    )
    assert server.only.verbs == ["EHLO", "AUTH", "QUIT"]


async def test_a_server_with_no_way_to_sign_in_is_unsent() -> None:
    outcome, _ = await unsent(Script(offers=("AUTH GSSAPI",)))
    assert (outcome.reason, outcome.outcome_class) == ("auth_failed", "config")


@pytest.mark.parametrize(
    ("reply", "meaning"),
    [("554 5.7.1 your network is on a blocklist", "block"), ("421 4.3.2 too busy", "soft")],
)
async def test_an_unfriendly_greeting_is_unsent_with_its_words(reply: str, meaning: str) -> None:
    outcome, _ = await unsent(Script(replies={"connect": reply}))
    assert (outcome.reason, outcome.outcome_class, outcome.text) == (
        "connect_refused",
        meaning,
        reply[4:],
    )


async def test_a_slow_greeting_is_waited_for_up_to_its_limit() -> None:
    async with scripted(Script(delays_s={"connect": 0.6})) as server, opened(provider(server)):
        pass
    outcome, _ = await unsent(Script(delays_s={"connect": 0.6}), timeouts=HASTY)
    assert (outcome.reason, outcome.outcome_class) == ("connect_timeout", "soft")


@pytest.mark.parametrize("place", ["connect", "EHLO", "AUTH"])
@pytest.mark.parametrize("fault", ["reset", "close"])
async def test_a_connection_lost_ahead_of_the_slot_is_unsent(place: Place, fault: Fault) -> None:
    outcome, _ = await unsent(Script(faults={place: fault}))
    assert (outcome.reason, outcome.outcome_class) == ("protocol_error", "soft")


async def test_a_server_that_is_no_mail_server_is_a_protocol_error() -> None:
    outcome, _ = await unsent(Script(replies={"connect": "SSH-2.0-OpenSSH_9.2"}))
    assert outcome.reason == "protocol_error"
    assert "SSH-2.0" in outcome.text


async def test_a_port_that_nobody_listens_on_is_connect_refused() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        outcome = await provider(ScriptedSmtp(port)).open()
    assert outcome == Unsent("connect_refused", OutcomeClass.SOFT, text="Connection refused")


async def test_a_host_that_does_not_answer_is_connect_timeout() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = []
        try:
            # A full backlog drops further SYNs, as a firewall does.
            for _ in range(4):
                waiting.append(socket.socket())
                waiting[-1].setblocking(False)
                waiting[-1].connect_ex(full.getsockname())
            outcome = await provider(ScriptedSmtp(full.getsockname()[1]), timeouts=HASTY).open()
        finally:
            for one in waiting:
                one.close()
    assert isinstance(outcome, Unsent)
    assert outcome.reason == "connect_timeout"


async def test_a_host_in_a_private_network_is_not_dialled() -> None:
    outcome, server = await unsent(Script(), hosts=HostPolicy())
    assert (outcome.reason, outcome.outcome_class) == ("host_not_allowed", "config")
    assert server.connections == []


async def test_a_name_that_does_not_resolve_is_dns_failed() -> None:
    outcome, _ = await unsent(Script(), host="no-such-host.invalid")
    assert (outcome.reason, outcome.outcome_class) == ("dns_failed", "soft")
    assert "no-such-host.invalid" in outcome.text


# ---- TLS


@pytest.mark.parametrize("tls", ["implicit", "starttls"])
async def test_over_tls_nothing_but_the_greeting_is_in_the_clear(
    tls: str, server_tls: ssl.SSLContext, certificates: Path
) -> None:
    script = Script(tls=server_tls, implicit_tls=tls == "implicit")
    async with scripted(script) as server:
        secure = provider(server, tls=tls, host="localhost", ca_file=certificates / "ca.pem")
        async with opened(secure) as session:
            outcome = await session.submit(
                SENDER, RECIPIENT, MESSAGE, before_mail_from=lambda: True
            )
            assert isinstance(outcome, Accepted)
        assert server.only.was_encrypted
        start = [] if tls == "implicit" else ["EHLO", "STARTTLS"]
        assert server.only.verbs == [*start, "EHLO", "AUTH", "MAIL", "RCPT", "DATA", "QUIT"]


async def test_a_big_message_over_tls_arrives_whole(
    server_tls: ssl.SSLContext, certificates: Path
) -> None:
    script = Script(tls=server_tls, implicit_tls=True, offers=("AUTH PLAIN",))
    big = MESSAGE + b".a line that starts with a dot\r\n" * 50_000
    async with scripted(script) as server:
        secure = provider(server, tls="implicit", ca_file=certificates / "ca.pem")
        async with opened(secure) as session:
            outcome = await session.submit(SENDER, RECIPIENT, big, before_mail_from=lambda: True)
        assert isinstance(outcome, Accepted)
        assert server.only.messages == [big.replace(b"\r\n.", b"\r\n..") + b".\r\n"]


@pytest.mark.parametrize("tls", ["implicit", "starttls"])
async def test_a_certificate_for_another_name_is_tls_failed_and_no_password_leaves(
    tls: str, server_tls: ssl.SSLContext, certificates: Path
) -> None:
    script = Script(tls=server_tls, implicit_tls=tls == "implicit")
    async with scripted(script, host="127.0.0.2") as server:
        outcome = await provider(
            server, tls=tls, host="127.0.0.2", ca_file=certificates / "ca.pem"
        ).open()
        assert isinstance(outcome, Unsent)
        assert (outcome.reason, outcome.outcome_class) == ("tls_failed", "config")
        assert "127.0.0.2" in outcome.text
        assert all("AUTH" not in seen.verbs for seen in server.connections)


@pytest.mark.parametrize("tls", ["implicit", "starttls"])
async def test_a_certificate_of_an_unknown_authority_is_tls_failed(
    tls: str, server_tls: ssl.SSLContext
) -> None:
    outcome, _ = await unsent(
        Script(tls=server_tls, implicit_tls=tls == "implicit"), tls=tls, host="localhost"
    )
    assert outcome.reason == "tls_failed"
    assert "issuer" in outcome.text or "self-signed" in outcome.text


async def test_tls_older_than_1_2_is_tls_failed(certificates: Path) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    old.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    with warnings.catch_warnings(action="ignore"):
        old.minimum_version = ssl.TLSVersion.TLSv1
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    outcome, _ = await unsent(
        Script(tls=old, implicit_tls=True), tls="implicit", ca_file=certificates / "ca.pem"
    )
    assert outcome.reason == "tls_failed"


async def test_starttls_that_is_not_offered_is_tls_failed_and_no_password_leaves() -> None:
    outcome, server = await unsent(Script(), tls="starttls")
    assert outcome.reason == "tls_failed"
    assert "AUTH" not in server.only.verbs


async def test_a_refused_starttls_is_tls_failed(server_tls: ssl.SSLContext) -> None:
    outcome, server = await unsent(
        Script(tls=server_tls, replies={"STARTTLS": "454 4.7.0 TLS not available"}),
        tls="starttls",
    )
    assert outcome.reason == "tls_failed"
    assert "TLS not available" in outcome.text
    assert "AUTH" not in server.only.verbs


async def test_what_was_injected_behind_starttls_is_discarded(
    server_tls: ssl.SSLContext, certificates: Path
) -> None:
    script = Script(
        tls=server_tls,
        injected="250-injected.test\r\n250-SIZE 1\r\n250 AUTH LOGIN\r\n",
        offers=("AUTH PLAIN",),
    )
    async with scripted(script) as server:
        session = await provider(
            server, tls="starttls", host="localhost", ca_file=certificates / "ca.pem"
        ).open()
        if isinstance(session, Unsent):
            assert session.reason == "tls_failed"
            return
        outcome = await session.submit(SENDER, RECIPIENT, MESSAGE, before_mail_from=lambda: True)
        await session.close()
        assert isinstance(outcome, Accepted)
        assert any(command.startswith("AUTH PLAIN") for command in server.only.commands)


async def test_implicit_tls_towards_a_port_in_the_clear_is_tls_failed() -> None:
    outcome, _ = await unsent(Script(), tls="implicit")
    assert outcome.reason == "tls_failed"


# ---- The connection test


@pytest.mark.parametrize(
    ("script", "code", "words"),
    [
        (Script(), "ok", "queued as"),
        (Script(replies={"AUTH": "535 5.7.8 Bad credentials"}), "auth_failed", "Bad credentials"),
        (Script(replies={"MAIL": "553 5.7.1 not owned"}), "sender_refused", "not owned"),
        (Script(replies={"MAIL": "530 5.7.0 sign in"}), "auth_failed", "sign in"),
        (Script(replies={"RCPT": "550 5.1.1 unknown"}), "message_refused", "unknown"),
        (Script(replies={"dot": "550 5.7.1 spam"}), "message_refused", "spam"),
        (Script(faults={"dot": "close"}), "message_refused", "final dot"),
        (Script(replies={"connect": "554 go away"}), "connect_refused", "go away"),
        (Script(faults={"EHLO": "close"}), "protocol_error", ""),
    ],
)
async def test_a_probe_tells_the_exact_words_and_a_remedy(
    script: Script, code: ProbeCode, words: str
) -> None:
    async with scripted(script) as server:
        result = await probe(provider(server), SENDER, MESSAGE)
    assert result.code == code
    assert words in result.message
    assert result.remedy == REMEDIES[code]
    assert result.ok is (code == "ok")
    assert bool(result.remedy) is not result.ok


async def test_the_registry_builds_from_stored_json() -> None:
    async with scripted(Script()) as server:
        stored = {
            "host": "127.0.0.1", "port": server.port, "tls": "none", "username": "ann",
            "auth": "plain", "added_later": True,
        }  # fmt: skip
        built = PROVIDERS["smtp"](stored, {"password": "secret"}, LOOPBACK)
        assert (await probe(built, SENDER, MESSAGE)).ok
        assert "secret" not in repr(built)
