"""SMTP submission to the real Postfix of the stack."""

import asyncio
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from paceline_local.process import wait_until
from paceline_local.stack import Stack
from paceline_providers.base import Accepted, Rejected, Session, Unsent, probe
from paceline_providers.hosts import HostPolicy
from paceline_providers.smtp import SmtpProvider, SmtpSettings

PORTS = {"none": "smtp", "starttls": "smtp_starttls", "implicit": "smtps"}


@pytest.fixture(scope="module")
def people(stack: Stack) -> Iterator[dict[str, str]]:
    """Two accounts of the mail host, address → password."""
    mark = secrets.token_hex(4)
    accounts = {f"ann-{mark}@north.test": "päss wörd", f"bob-{mark}@example.test": "secret"}
    for email, password in accounts.items():
        stack.mailhost.add_user(email, password)
    yield accounts
    stack.mailhost.remove_users(accounts)


@pytest.fixture(scope="module")
def ann(people: dict[str, str]) -> str:
    return next(iter(people))


@pytest.fixture(scope="module")
def bob(people: dict[str, str]) -> str:
    return list(people)[1]


def provider(
    stack: Stack, user: str, password: str, *, tls: Any = "implicit", auth: Any = "auto"
) -> SmtpProvider:
    settings = SmtpSettings("localhost", stack.ports[PORTS[tls]], tls, user, auth)
    return SmtpProvider(settings, password, HostPolicy("localhost"), stack.mailhost.ca_file)


def message(sender: str, recipient: str, subject: str, body: bytes) -> bytes:
    head = f"From: {sender}\r\nTo: {recipient}\r\nSubject: {subject}\r\n\r\n"
    return head.encode() + body


def found(maildir: Path, subject: str) -> list[bytes]:
    texts = [file.read_bytes() for file in maildir.glob("new/*")]
    return [text for text in texts if f"Subject: {subject}".encode() in text]


async def opened(one: SmtpProvider) -> Session:
    session = await one.open()
    assert not isinstance(session, Unsent), session
    return session


@pytest.mark.parametrize("auth", ["plain", "login"])
@pytest.mark.parametrize("tls", ["none", "starttls", "implicit"])
async def test_a_message_arrives_once_and_unchanged(
    stack: Stack, people: dict[str, str], ann: str, bob: str, tls: str, auth: str
) -> None:
    subject = secrets.token_hex(8)
    body = b".\r\n..dots\r\n" + b"x" * 900 + b"\r\nlast line without an end"
    session = await opened(provider(stack, ann, people[ann], tls=tls, auth=auth))
    outcome = await session.submit(
        ann, bob, message(ann, bob, subject, body), before_mail_from=lambda: True
    )
    await session.close()
    assert isinstance(outcome, Accepted)
    assert outcome.provider_message_id is not None
    assert outcome.text.endswith(f"queued as {outcome.provider_message_id}")
    maildir = stack.mailhost.maildir(bob)
    assert await asyncio.to_thread(wait_until, lambda: bool(found(maildir, subject)), 20)
    [text] = found(maildir, subject)
    assert text.replace(b"\r\n", b"\n").endswith(body.replace(b"\r\n", b"\n") + b"\n")


async def test_a_held_back_message_never_arrives_and_the_next_one_does(
    stack: Stack, people: dict[str, str], ann: str, bob: str
) -> None:
    held, sent = secrets.token_hex(8), secrets.token_hex(8)
    session = await opened(provider(stack, ann, people[ann]))
    await session.submit(ann, bob, message(ann, bob, held, b"x"), before_mail_from=lambda: False)
    outcome = await session.submit(
        ann, bob, message(ann, bob, sent, b"x"), before_mail_from=lambda: True
    )
    assert isinstance(outcome, Accepted)
    await session.close()
    maildir = stack.mailhost.maildir(bob)
    assert await asyncio.to_thread(wait_until, lambda: bool(found(maildir, sent)), 20)
    assert found(maildir, held) == []


async def test_an_unknown_recipient_is_rejected_hard(
    stack: Stack, people: dict[str, str], ann: str
) -> None:
    session = await opened(provider(stack, ann, people[ann]))
    outcome = await session.submit(
        ann, "nobody-here@example.test", b"x", before_mail_from=lambda: True
    )
    await session.close()
    assert isinstance(outcome, Rejected)
    assert (outcome.outcome_class, outcome.phase, outcome.code, outcome.status) == (
        "hard", "rcpt", 550, "5.1.1",
    )  # fmt: skip
    assert "nobody-here@example.test" in outcome.text


async def test_somebody_elses_address_is_refused_as_the_mailboxs_fault(
    stack: Stack, people: dict[str, str], ann: str, bob: str
) -> None:
    session = await opened(provider(stack, ann, people[ann]))
    outcome = await session.submit(bob, bob, b"x", before_mail_from=lambda: True)
    await session.close()
    assert isinstance(outcome, Rejected)
    assert (outcome.outcome_class, outcome.phase) == ("config", "mail")


async def test_a_probe_succeeds_and_a_wrong_password_shows_the_exact_words(
    stack: Stack, people: dict[str, str], ann: str
) -> None:
    text = message(ann, ann, "Paceline connection test", b"one line")
    assert (await probe(provider(stack, ann, people[ann]), ann, text)).ok
    wrong = await probe(provider(stack, ann, "wrong"), ann, text)
    assert wrong.code == "auth_failed"
    assert "authentication failed" in wrong.message
    assert "password" in wrong.remedy


async def test_the_wrong_tls_mode_is_told_apart_from_a_wrong_password(
    stack: Stack, people: dict[str, str], ann: str
) -> None:
    text = message(ann, ann, "Paceline connection test", b"one line")
    settings = SmtpSettings("localhost", stack.ports["smtp"], "implicit", ann)
    hosts, ca_file = HostPolicy("localhost"), stack.mailhost.ca_file
    result = await probe(SmtpProvider(settings, people[ann], hosts, ca_file), ann, text)
    assert result.code == "tls_failed"
