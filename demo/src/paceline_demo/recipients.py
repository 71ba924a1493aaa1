"""The recipients: they read their maildirs, answer, unsubscribe, and keep a diary.

Vacation replies are the mail host's own Sieve scripts, refusals and late bounces
its configuration; what is left to play is what people do by hand.
"""

import asyncio
import smtplib
from collections.abc import Callable
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from typing import Final

import httpx

from paceline_demo.facts import Diary
from paceline_demo.scenario import Kind, Lead, Scenario
from paceline_demo.truth import Held, files, parse
from paceline_local.parts.mailhost import MailHost, User, vacation_script

_LOOK_EVERY_S: Final = 0.2
_PASSWORD: Final = "demo-recipient"  # noqa: S105  (of accounts on a loopback mail host)

Tell = Callable[[str], None]
"""Takes one line about what a recipient did."""


def accounts(scenario: Scenario) -> list[User]:
    """Return the mail host's accounts: senders, and the recipients that exist."""
    users = [User(s.email, s.password) for s in scenario.on_the_mail_host]
    for lead in (*scenario.expected, scenario.suppressed, scenario.forbidden):
        if lead.kind in (Kind.UNKNOWN, Kind.LATE):
            continue
        away = vacation_script("I am away until Monday.") if lead.kind is Kind.VACATION else None
        users.append(User(lead.email, _PASSWORD, away))
    return users


class Recipients:
    """The recipients that act by themselves: those who reply and those who unsubscribe."""

    def __init__(self, scenario: Scenario, host: MailHost, smtp_port: int, tell: Tell) -> None:
        self.diary: Final = Diary()
        self._host = host
        self._smtp_port = smtp_port
        self._tell = tell
        self._waiting: dict[str, Lead] = {
            lead.email: lead
            for lead in scenario.expected
            if lead.kind in (Kind.REPLY, Kind.UNSUBSCRIBE)
        }

    async def play(self) -> None:
        """Act upon each first message as it comes, until cancelled.

        An act that fails (a service may be down just then) is tried again.
        """
        async with httpx.AsyncClient(timeout=10) as http:
            while True:
                await asyncio.gather(*(self._look(lead, http) for lead in self._mailed()))
                await asyncio.sleep(_LOOK_EVERY_S)

    def _mailed(self) -> list[Lead]:
        """Return those who wait and have mail; only a directory is read for each."""
        return [
            lead
            for email, lead in self._waiting.items()
            if next(files(self._host.maildir(email)), None)
        ]

    async def _look(self, lead: Lead, http: httpx.AsyncClient) -> None:
        first = next(files(self._host.maildir(lead.email)))
        message = parse(lead.email, first.read_bytes())
        try:
            if lead.kind is Kind.REPLY:
                await asyncio.to_thread(self._reply, lead, message)
            else:
                await self._unsubscribe(lead, message, http)
        except (OSError, smtplib.SMTPException, httpx.HTTPError) as fault:
            self._tell(f"{lead.email} tries again: {type(fault).__name__}")
            return
        self._waiting.pop(lead.email)

    def _reply(self, lead: Lead, message: Held) -> None:
        answer = reply_to(message, lead)
        with smtplib.SMTP("127.0.0.1", self._smtp_port, timeout=10) as smtp:
            smtp.login(lead.email, _PASSWORD)
            smtp.send_message(answer)
        self.diary.replied[lead.email] = datetime.now(UTC)
        self._tell(f"{lead.email} replies")

    async def _unsubscribe(self, lead: Lead, message: Held, http: httpx.AsyncClient) -> None:
        url = message.one_click_url
        if url is None:
            # The checker tells of the missing header; there is nothing to press.
            self._tell(f"{lead.email} finds no way to unsubscribe")
            return
        # RFC 8058 §3.2: the body is the header's value, and nothing identifies the caller.
        answer = await http.post(url, data={"List-Unsubscribe": "One-Click"})
        answer.raise_for_status()
        self.diary.unsubscribed[lead.email] = datetime.now(UTC)
        self._tell(f"{lead.email} unsubscribes")


def reply_to(message: Held, lead: Lead) -> EmailMessage:
    """Return what a mail program makes of "Reply" (RFC 5322 §3.6.4), quoting the message."""
    answer = EmailMessage()
    answer["From"] = f"{lead.first_name} {lead.last_name} <{lead.email}>"
    answer["To"] = message.headers.get("reply-to", message.sender)
    answer["Subject"] = f"Re: {message.subject}"
    answer["Date"] = formatdate(localtime=False)
    answer["Message-ID"] = make_msgid(domain=lead.email.partition("@")[2])
    answer["In-Reply-To"] = message.message_id
    answer["References"] = " ".join((*message.references, message.message_id))
    quoted = "\n".join(f"> {line}" for line in message.text.splitlines())
    answer.set_content(f"Thanks, we should talk. Does Tuesday suit you?\n\n{quoted}\n")
    return answer
