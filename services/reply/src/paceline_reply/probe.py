"""The reading leg of a connection test: sign in, find the test message, take it away."""

import asyncio
from collections.abc import Mapping
from concurrent.futures import Executor
from typing import Any, Final

from paceline_providers.base import REMEDIES, ProbeCode, ProbeResult, probe_result
from paceline_reply.access import Doors
from paceline_reply.probe_inbox import ProbeInbox, Taken, probe_inbox
from paceline_reply.sources.api import Pace
from paceline_reply.sources.base import SourceError

_LOOK_EVERY_S: Final = 0.5
# An API's calls are counted.
_ASK_EVERY_S: Final = 2.0
# The words of paceline_providers.base are about sending.
_IMAP_REMEDIES: Final[Mapping[ProbeCode, str]] = {
    "connect_refused": "Check host and port: 993 is usual for implicit TLS, 143 for STARTTLS.",
    "tls_failed": "Check the TLS mode (implicit TLS is usual on port 993, STARTTLS on 143) and "
    "that the server's certificate is valid for this host name.",
    "auth_failed": "Check user name and password. Many providers want an app password, and IMAP "
    "switched on in the account's settings.",
    "not_read_back": "The test message did not reach the inbox in time: look into the spam "
    "folder, and check that both sides belong to one mailbox.",
}
_ASK_OPERATOR: Final = (
    "Try again in a few minutes. If it stays, ask the operator of this installation to check the "
    "way to the provider."
)
_API_REMEDIES: Final[Mapping[ProbeCode, str]] = {
    "auth_failed": "Connect the account again and leave every permission ticked. In an "
    "organization an administrator may have to allow the app first.",
    "not_read_back": "The test message was sent but is neither in the inbox nor among spam: check "
    "that both consents were given by the same account, and the account's filters.",
    "connect_refused": _ASK_OPERATOR,
    "connect_timeout": _ASK_OPERATOR,
    "dns_failed": _ASK_OPERATOR,
    "tls_failed": _ASK_OPERATOR,
    "protocol_error": _ASK_OPERATOR,
}
# A source's own codes, in the words of a connection test.
_CODES: Final[Mapping[str, ProbeCode]] = {
    "grant_revoked": "auth_failed",
    "credential_unreadable": "auth_failed",
    "throttled": "connect_timeout",
    "connection_lost": "connect_timeout",
}


class Prober:
    """Tests mailboxes that are not saved yet."""

    def __init__(self, *, doors: Doors, pace: Pace, threads: Executor) -> None:
        self._doors = doors
        self._pace = pace
        self._threads = threads

    async def probe(
        self,
        *,
        workspace_id: int,
        mailbox_id: int,
        email: str,
        kind: str,
        imap: Mapping[str, Any] | None,
        oauth: Mapping[str, Any] | None,
        credential: bytes,
        credential_version: int | None = None,
        token: str,
        wait_s: float,
    ) -> ProbeResult:
        """Sign in and wait up to `wait_s` for the message marked with `token`; take it away.

        Raises `SealBroken`, `msgspec.ValidationError` and `KeyServiceUnavailable`.
        """
        access = await self._doors.draft(
            workspace_id=workspace_id,
            mailbox_id=mailbox_id,
            email=email,
            kind=kind,
            imap=imap,
            oauth=oauth,
            credential=credential,
            credential_version=credential_version,
        )
        remedies = _IMAP_REMEDIES if access.provider is None else _API_REMEDIES
        every_s = _LOOK_EVERY_S if access.provider is None else _ASK_EVERY_S
        inbox = probe_inbox(access, self._doors, self._pace, self._threads)
        try:
            await inbox.open()
            taken = await _awaited(inbox, token, wait_s, every_s)
        except SourceError as error:
            return _failed(error.code, error.message, remedies)
        finally:
            await inbox.close()
        if taken is None:
            words = f"signed in; no test message within {wait_s:g} s"
            return _failed("not_read_back", words, remedies)
        words = "signed in; the test message was read back"
        if taken.from_spam:
            words += " from among spam"
        if not taken.removed:
            words += "; it stays in the mailbox, for the grant does not include deleting"
        return probe_result("ok", words)


async def _awaited(inbox: ProbeInbox, token: str, wait_s: float, every_s: float) -> Taken | None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait_s
    while True:
        if (taken := await inbox.take(token)) is not None:
            return taken
        if loop.time() >= deadline:
            return None
        await asyncio.sleep(min(every_s, max(0.0, deadline - loop.time())))


def _failed(code: str, message: str, remedies: Mapping[ProbeCode, str]) -> ProbeResult:
    known: ProbeCode = next((one for one in REMEDIES if one == code), "protocol_error")
    found = _CODES.get(code, known)
    return ProbeResult(found, message, remedies.get(found, REMEDIES[found]))
