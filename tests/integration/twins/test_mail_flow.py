"""The twins beside real Postfix and Dovecot: what leaves arrives, what comes back is in thread."""

import base64
import secrets
import smtplib
from collections.abc import Callable, Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

import httpx
import pytest

from paceline_demo.truth import files
from paceline_local.parts.mailhost import User, vacation_script
from paceline_local.parts.twins import DOMAINS, Kind, Twin
from paceline_local.process import wait_until
from paceline_local.stack import Stack

PASSWORD = "of a loopback account"
PATIENCE_S = 30


class Sender:
    """One account of a twin, as its API's client."""

    def __init__(self, twin: Twin, email: str) -> None:
        self.twin, self.email = twin, email
        tokens = twin.control("POST", "mailboxes", {"email": email})
        headers = {"Authorization": f"Bearer {tokens['access_token']}"}
        self.http = httpx.Client(base_url=twin.url(), headers=headers, trust_env=False)

    def send(self, to: str, subject: str) -> dict[str, Any]:
        """Send a message; returns the twin's truth about it."""
        mark = f"job_{secrets.token_hex(4)}"
        raw = (
            f"From: {self.email}\r\nTo: {to}\r\nSubject: {subject}\r\n"
            f"Message-ID: <{mark}@{self.email.partition('@')[2]}>\r\nX-Paceline-Job: {mark}\r\n"
            "\r\nGood day\r\n"
        ).encode()
        if self.twin.kind == "gmail":
            body = {"raw": base64.urlsafe_b64encode(raw).decode()}
            answer = self.http.post("gmail/v1/users/me/messages/send", json=body)
        else:
            headers = {"Content-Type": "text/plain"}
            content = base64.b64encode(raw)
            answer = self.http.post("v1.0/me/sendMail", content=content, headers=headers)
        assert answer.is_success, answer.text
        truth = self.twin.control("GET", "truth")["submissions"]
        [found] = [one for one in truth if one["job"] == mark]
        return dict(found)

    def inbox(self) -> list[tuple[str, EmailMessage]]:
        """Return what is in the inbox, each with its conversation."""
        if self.twin.kind == "gmail":
            listed = self.http.get("gmail/v1/users/me/messages?labelIds=INBOX").json()
            whole = [
                self.http.get(f"gmail/v1/users/me/messages/{one['id']}?format=raw").json()
                for one in listed.get("messages", ())
            ]
            return [
                (one["threadId"], parsed(base64.urlsafe_b64decode(one["raw"]))) for one in whole
            ]
        found = self.http.get("v1.0/me/mailFolders/inbox/messages?$top=100").json()["value"]
        return [
            (
                one["conversationId"],
                parsed(self.http.get(f"v1.0/me/messages/{one['id']}/$value").content),
            )
            for one in found
        ]

    def awaited(self, wanted: Callable[[EmailMessage], bool]) -> tuple[str, EmailMessage]:
        """Wait for a message in the inbox."""
        held: list[tuple[str, EmailMessage]] = []

        def there() -> bool:
            held[:] = [one for one in self.inbox() if wanted(one[1])]
            return bool(held)

        assert wait_until(there, PATIENCE_S), [str(one["Subject"]) for _, one in self.inbox()]
        return held[0]


def parsed(raw: bytes) -> EmailMessage:
    found = message_from_bytes(raw, policy=policy.default)
    assert isinstance(found, EmailMessage)
    return found


def thread_of(truth: dict[str, Any]) -> str:
    return str(truth.get("thread_id") or truth["conversation_id"])


@pytest.fixture(scope="module")
def house(stack: Stack) -> Stack:
    return stack.up(services=False, twins=True)


@pytest.fixture(scope="module", params=list(DOMAINS))
def sender(request: pytest.FixtureRequest, house: Stack) -> Sender:
    kind: Kind = request.param
    return Sender(house.twins[kind], f"ann-{secrets.token_hex(4)}@{DOMAINS[kind]}")


@pytest.fixture
def bob(house: Stack) -> Iterator[str]:
    email = f"bob-{secrets.token_hex(4)}@example.test"
    house.mailhost.add_user(email, PASSWORD)
    yield email
    house.mailhost.remove_users([email])


def test_a_message_reaches_a_real_maildir_and_its_answer_the_same_conversation(
    house: Stack, sender: Sender, bob: str
) -> None:
    truth = sender.send(bob, "A question")
    box = house.mailhost.maildir(bob)
    assert wait_until(lambda: next(files(box), None) is not None, PATIENCE_S)
    held = parsed(next(files(box)).read_bytes())
    assert held["Message-ID"] == truth["message_id"]
    assert held["X-Paceline-Job"] == truth["job"]
    answer = EmailMessage()
    answer["From"], answer["To"], answer["Subject"] = bob, sender.email, "Re: A question"
    answer["Message-ID"] = f"<{secrets.token_hex(6)}@example.test>"
    answer["In-Reply-To"] = answer["References"] = held["Message-ID"]
    answer.set_content("Yes.")
    with smtplib.SMTP("127.0.0.1", house.ports["smtp"], timeout=10) as smtp:
        smtp.login(bob, PASSWORD)
        smtp.send_message(answer)
    thread, came = sender.awaited(lambda one: one["Message-ID"] == answer["Message-ID"])
    assert thread == thread_of(truth)
    assert came.get_content().strip() == "Yes."


def test_a_vacation_reply_of_a_real_sieve_comes_into_the_conversation(
    house: Stack, sender: Sender
) -> None:
    away = f"vic-{secrets.token_hex(4)}@example.test"
    house.mailhost.add_users([User(away, PASSWORD, vacation_script("Back on Monday."))])
    try:
        truth = sender.send(away, "Hello")
        thread, came = sender.awaited(lambda one: away in str(one["From"]))
        assert str(came["Auto-Submitted"]).startswith("auto-replied")
        assert thread == thread_of(truth)
    finally:
        house.mailhost.remove_users([away])


def test_who_is_unknown_there_comes_back_as_the_providers_own_report(sender: Sender) -> None:
    nobody = f"nobody-{secrets.token_hex(4)}@example.test"
    truth = sender.send(nobody, "Hello")
    thread, report = sender.awaited(lambda one: nobody in one.as_string())
    assert report.get_content_type() == "multipart/report"
    assert "5.1.1" in report.as_string()
    assert thread == thread_of(truth)


def test_a_late_bounce_of_a_real_server_finds_its_conversation(sender: Sender) -> None:
    late = f"late-{secrets.token_hex(4)}@late.test"
    truth = sender.send(late, "Hello")
    thread, report = sender.awaited(lambda one: late in one.as_string())
    assert "MAILER-DAEMON@" in str(report["From"])
    assert thread == thread_of(truth)


def test_mail_to_an_account_that_a_twin_does_not_have_is_refused(
    house: Stack, sender: Sender, bob: str
) -> None:
    stranger = f"nobody@{sender.email.partition('@')[2]}"
    with smtplib.SMTP("127.0.0.1", house.ports["smtp"], timeout=10) as smtp:
        smtp.login(bob, PASSWORD)
        smtp.sendmail(bob, [stranger], f"From: {bob}\r\nTo: {stranger}\r\n\r\nHello\r\n")

    def came_back() -> bool:
        return any(b"5.1.1" in path.read_bytes() for path in files(house.mailhost.maildir(bob)))

    assert wait_until(came_back, PATIENCE_S)
