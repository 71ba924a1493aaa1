"""Facts about the mail host that senders, readers and the demo rely on."""

import imaplib
import smtplib
import ssl
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage

import pytest

from paceline_local.parts.mailhost import MailHost, User, vacation_script
from paceline_local.process import wait_until
from paceline_local.stack import Stack

ARRIVAL_S = 15.0


@dataclass
class Accounts:
    """Accounts of one test, with names nobody else uses."""

    host: MailHost
    ports: dict[str, int]
    tag: str = field(default_factory=lambda: uuid.uuid4().hex[:10])
    made: list[str] = field(default_factory=list)

    def add(self, name: str, domain: str, sieve: str | None = None) -> User:
        user = User(f"{name}-{self.tag}@{domain}", uuid.uuid4().hex, sieve)
        self.host.add_users([user])
        self.made.append(user.email)
        return user

    def mailbox(self, user: User) -> list[EmailMessage]:
        files = sorted((self.host.maildir(user.email) / "new").glob("*"))
        return [message_from_bytes(f.read_bytes(), policy=policy.default) for f in files]

    def await_mail(self, user: User) -> EmailMessage:
        assert wait_until(lambda: bool(self.mailbox(user)), ARRIVAL_S), "no mail arrived"
        return self.mailbox(user)[0]

    def submit(self, sender: User, recipient: str, **headers: str) -> None:
        message = EmailMessage()
        message["From"], message["To"], message["Subject"] = sender.email, recipient, "Hello"
        message["Message-ID"] = f"<{uuid.uuid4()}@north.test>"
        for name, value in headers.items():
            message[name.replace("_", "-")] = value
        message.set_content("A line.")
        with smtplib.SMTP("localhost", self.ports["smtp"], timeout=10) as client:
            client.login(sender.email, sender.password)
            client.send_message(message)


@pytest.fixture
def accounts(stack: Stack) -> Iterator[Accounts]:
    accounts = Accounts(stack.mailhost, dict(stack.ports))
    yield accounts
    stack.mailhost.remove_users(accounts.made)


@pytest.fixture
def trusting(stack: Stack) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=stack.mailhost.ca_file)


def test_mail_between_two_accounts_lies_in_the_maildir(accounts: Accounts) -> None:
    ann, ben = accounts.add("ann", "north.test"), accounts.add("ben", "example.test")
    accounts.submit(ann, ben.email, X_Paceline_Job="job_1")
    arrived = accounts.await_mail(ben)
    assert arrived["X-Paceline-Job"] == "job_1"
    assert arrived["Return-Path"] == f"<{ann.email}>"


def test_an_unknown_user_is_refused_at_rcpt_with_5_1_1(accounts: Accounts) -> None:
    ann = accounts.add("ann", "north.test")
    with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
        accounts.submit(ann, f"nobody-{accounts.tag}@example.test")
    [(code, text)] = refused.value.recipients.values()
    assert (code, text[:5]) == (550, b"5.1.1")


def test_no_mail_leaves_the_stack(accounts: Accounts) -> None:
    ann = accounts.add("ann", "north.test")
    with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
        accounts.submit(ann, "someone@paceline.invalid")
    [(code, text)] = refused.value.recipients.values()
    assert (code, text[:5]) == (550, b"5.1.2")


def test_a_late_refusal_comes_back_as_a_delivery_status_notification(accounts: Accounts) -> None:
    ann = accounts.add("ann", "north.test")
    accounts.submit(ann, "gone@late.test")
    report = accounts.await_mail(ann)
    assert report.get_content_type() == "multipart/report"
    status = next(part for part in report.walk() if part.get_content_subtype() == "delivery-status")
    assert "5.1.1" in status.as_string()
    assert "gone@late.test" in status.as_string()


def test_a_vacation_script_answers_mail_with_list_unsubscribe(accounts: Accounts) -> None:
    ann = accounts.add("ann", "north.test")
    away = accounts.add("away", "example.test", vacation_script('Back on "Monday".'))
    accounts.submit(
        ann,
        away.email,
        List_Unsubscribe="<https://unsubscribe.test/1>",
        List_Unsubscribe_Post="List-Unsubscribe=One-Click",
    )
    answer = accounts.await_mail(ann)
    assert answer["Auto-Submitted"].startswith("auto-replied")
    assert 'Back on "Monday".' in answer.get_content()
    assert accounts.mailbox(away), "the mail itself was not kept"


def test_submission_needs_a_login_and_the_mailbox_own_address(accounts: Accounts) -> None:
    ann, ben = accounts.add("ann", "north.test"), accounts.add("ben", "example.test")
    with smtplib.SMTP("localhost", accounts.ports["smtp"], timeout=10) as client:
        client.mail(ben.email)
        assert client.rcpt(ben.email)[0] == 553
        client.rset()
        client.login(ann.email, ann.password)
        client.mail(ben.email)
        assert client.rcpt(ben.email)[0] == 553
        client.rset()
        client.mail(ann.email)
        assert client.rcpt(ben.email)[0] == 250


def test_a_wrong_password_is_refused_at_once(accounts: Accounts) -> None:
    ann = accounts.add("ann", "north.test")
    # Dovecot's own penalty would be 8 s: longer than this client waits.
    with smtplib.SMTP("localhost", accounts.ports["smtp"], timeout=3) as client:
        client.ehlo()
        client.user, client.password = ann.email, "wrong"
        with pytest.raises(smtplib.SMTPAuthenticationError) as refused:
            client.auth("PLAIN", client.auth_plain)
    assert (refused.value.smtp_code, refused.value.smtp_error[:5]) == (535, b"5.7.8")


def test_starttls_is_required_on_its_port_and_its_certificate_verifies(
    accounts: Accounts, trusting: ssl.SSLContext
) -> None:
    ann = accounts.add("ann", "north.test")
    with smtplib.SMTP("localhost", accounts.ports["smtp_starttls"], timeout=10) as client:
        client.ehlo()
        assert client.mail(ann.email)[0] == 530
        client.starttls(context=trusting)
        client.login(ann.email, ann.password)
        assert isinstance(client.sock, ssl.SSLSocket)
        assert client.sock.version() == "TLSv1.3"


def test_implicit_tls_verifies_for_smtp_and_imap(
    accounts: Accounts, trusting: ssl.SSLContext
) -> None:
    ann = accounts.add("ann", "north.test")
    with smtplib.SMTP_SSL("localhost", accounts.ports["smtps"], context=trusting) as client:
        client.login(ann.email, ann.password)
    with imaplib.IMAP4_SSL("localhost", accounts.ports["imaps"], ssl_context=trusting) as reader:
        reader.login(ann.email, ann.password)
        assert reader.select("INBOX")[0] == "OK"


def test_the_certificate_is_trusted_by_nobody_else(accounts: Accounts) -> None:
    untrusting = ssl.create_default_context()
    with pytest.raises(ssl.SSLCertVerificationError):
        smtplib.SMTP_SSL("localhost", accounts.ports["smtps"], context=untrusting)


def test_a_changed_password_holds_as_soon_as_the_call_returns(accounts: Accounts) -> None:
    ann = accounts.add("ann", "north.test")
    with imaplib.IMAP4("localhost", accounts.ports["imap"]) as reader:
        reader.login(ann.email, ann.password)
    accounts.host.add_user(ann.email, "another password")
    with imaplib.IMAP4("localhost", accounts.ports["imap"]) as reader:
        reader.login(ann.email, "another password")
    with (
        imaplib.IMAP4("localhost", accounts.ports["imap"]) as reader,
        pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"),
    ):
        reader.login(ann.email, ann.password)


def test_a_removed_account_is_unknown(accounts: Accounts) -> None:
    ann, ben = accounts.add("ann", "north.test"), accounts.add("ben", "example.test")
    accounts.host.remove_users([ben.email])
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        accounts.submit(ann, ben.email)
    assert not accounts.host.maildir(ben.email).exists()


def test_an_address_that_is_no_path_is_refused(accounts: Accounts) -> None:
    for bad in ("../x@north.test", "a/b@north.test", "@north.test", "a@no rth"):
        with pytest.raises(ValueError, match="not an address"):
            accounts.host.maildir(bad)
