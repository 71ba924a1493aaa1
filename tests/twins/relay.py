"""The way out of a twin: what it accepted goes to an SMTP host, which delivers it for real."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

import aiosmtplib

_LANES: Final = 4
_PATIENCE_S: Final = 20.0
_AGAIN_S: Final = 0.5


@dataclass(frozen=True)
class Letter:
    """One message to one recipient; `ticket` is the twin's own note of what it belongs to."""

    sender: str
    recipient: str
    data: bytes = field(repr=False)
    ticket: Any = None


@dataclass
class Relay:
    """Hands letters on, a few at a time, each until the host has said yes or no.

    As any mail server it repeats a letter whose acceptance it did not hear of: what
    arrives twice by this is the relay's doing, and the twin's truth shows it once.
    `refused` gets what the host will never take, and its words.
    """

    host: str
    port: int
    refused: Callable[[Letter, str], object]
    waiting: int = 0
    _letters: "asyncio.Queue[Letter]" = field(default_factory=asyncio.Queue)

    def put(self, letter: Letter) -> None:
        """Hand a letter on."""
        self.waiting += 1
        self._letters.put_nowait(letter)

    async def run(self) -> None:
        """Hand letters on for ever."""
        async with asyncio.TaskGroup() as lanes:
            for _ in range(_LANES):
                lanes.create_task(self._lane())

    async def _lane(self) -> None:
        while True:
            letter = await self._letters.get()
            # A connection each: Postfix learns of new accounts at its next session only.
            client = aiosmtplib.SMTP(
                hostname=self.host, port=self.port, timeout=_PATIENCE_S, start_tls=False,
                local_hostname="twin.test",
            )  # fmt: skip
            try:
                async with client:
                    await client.sendmail(letter.sender, [letter.recipient], letter.data)
            except aiosmtplib.SMTPRecipientsRefused as refusal:
                self._answered(letter, refusal.recipients[0])
            except aiosmtplib.SMTPResponseException as refusal:
                self._answered(letter, refusal)
            except (aiosmtplib.SMTPException, OSError):
                self._again(letter)
            else:
                self.waiting -= 1

    def _answered(self, letter: Letter, refusal: aiosmtplib.SMTPResponseException) -> None:
        if refusal.code >= 500:
            self.waiting -= 1
            self.refused(letter, f"{refusal.code} {refusal.message}")
        else:
            self._again(letter)

    def _again(self, letter: Letter) -> None:
        asyncio.get_running_loop().call_later(_AGAIN_S, self._letters.put_nowait, letter)


@asynccontextmanager
async def relaying(relay: Relay | None) -> AsyncIterator[None]:
    """Hand on until the block ends."""
    if relay is None:
        yield
        return
    task = asyncio.create_task(relay.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def enhanced(words: str) -> str:
    """Return the enhanced status code in a refusal's words (RFC 3463), 5.0.0 for none."""
    for word in words.split()[1:2]:
        if word[:2] in ("4.", "5.") and word.count(".") == 2:
            return word
    return "5.0.0"
