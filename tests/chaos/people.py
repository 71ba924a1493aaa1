"""The recipients: some answer, some press the one-click link, each once."""

import asyncio
import smtplib
from contextlib import suppress
from email.message import EmailMessage
from typing import Final

import httpx

from paceline_demo.recipients import reply_to
from paceline_demo.scenario import Kind
from paceline_demo.scenario import Lead as Person
from paceline_demo.truth import files, parse
from tests.chaos.campaign import PASSWORD, Customer
from tests.chaos.diary import Lead
from tests.chaos.house import House

_EVERY_S: Final = 1.0
_ACTING: Final = ("reply", "unsubscribe")


class People:
    """Looks into the maildirs of those who act."""

    def __init__(self, house: House, customer: Customer) -> None:
        self._house = house
        self._customer = customer
        self._acted: set[str] = set()

    async def live(self) -> None:
        """Act upon each first message, until cancelled."""
        while True:
            waiting = [
                lead
                for lead in self._customer.diary.leads
                if lead.kind in _ACTING and lead.email not in self._acted
            ]
            for lead in waiting:
                first = next(files(self._house.stack.mailhost.maildir(lead.email)), None)
                if first is not None:
                    self._acted.add(lead.email)
                    with suppress(OSError, smtplib.SMTPException, httpx.HTTPError, ValueError):
                        await self._act(lead, first.read_bytes())
            await asyncio.sleep(_EVERY_S)

    async def _act(self, lead: Lead, raw: bytes) -> None:
        message = parse(lead.email, raw)
        if lead.kind == "reply":
            local = lead.email.partition("@")[0]
            person = Person(lead.email, local, "Chaos", "", "", Kind.REPLY)
            await asyncio.to_thread(self._send, reply_to(message, person), lead.email)
        elif message.one_click_url is not None:
            await self._customer.unsubscribe(lead.email, message.one_click_url)

    def _send(self, answer: EmailMessage, email: str) -> None:
        with smtplib.SMTP("127.0.0.1", self._house.stack.ports["smtp"], timeout=10) as smtp:
            smtp.login(email, PASSWORD)
            smtp.send_message(answer)
