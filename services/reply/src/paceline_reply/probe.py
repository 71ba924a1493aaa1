"""The reading leg of a connection test: sign in, find the test message, take it away."""

import asyncio
import json
from collections.abc import Mapping
from concurrent.futures import Executor
from typing import Final

from paceline_common.keys import KeyService
from paceline_providers.base import REMEDIES, ProbeCode, ProbeResult, probe_result
from paceline_reply.domain.inbound import read
from paceline_reply.receive import PROBE_HEADER
from paceline_reply.sources.imap import (
    Contexts,
    Endpoint,
    ImapError,
    ImapSession,
    Resolve,
    open_session,
)

_LOOK_EVERY_S: Final = 0.5
# The words of paceline_providers.base are about sending.
_REMEDIES: Final[Mapping[str, str]] = {
    "connect_refused": "Check host and port: 993 is usual for implicit TLS, 143 for STARTTLS.",
    "tls_failed": "Check the TLS mode (implicit TLS is usual on port 993, STARTTLS on 143) and "
    "that the server's certificate is valid for this host name.",
    "auth_failed": "Check user name and password. Many providers want an app password, and IMAP "
    "switched on in the account's settings.",
    "not_read_back": "The test message did not reach the inbox in time: look into the spam "
    "folder, and check that both sides belong to one mailbox.",
}


class Prober:
    """Tests mailboxes that are not saved yet."""

    def __init__(
        self, *, keys: KeyService, resolve: Resolve, tls: Contexts, threads: Executor
    ) -> None:
        self._keys = keys
        self._resolve = resolve
        self._tls = tls
        self._threads = threads

    async def probe(
        self,
        *,
        workspace_id: int,
        mailbox_id: int,
        endpoint: Endpoint,
        credential: bytes,
        token: str,
        wait_s: float,
    ) -> ProbeResult:
        """Sign in and wait up to `wait_s` for the message marked with `token`; delete it.

        Raises `SealBroken` and `KeyServiceUnavailable`.
        """
        opened = await self._keys.open(
            "read", workspace_id, credential, table="mailbox", row=mailbox_id
        )
        session: ImapSession | None = None
        try:
            session = await open_session(
                endpoint,
                json.loads(opened)["password"],
                resolve=self._resolve,
                tls=self._tls,
                threads=self._threads,
            )
            await session.open_inbox(readonly=False)
            return await self._await_message(session, token, wait_s)
        except ImapError as error:
            return _failed(error.code, error.message)
        finally:
            if session is not None:
                await session.close()

    async def _await_message(self, session: ImapSession, token: str, wait_s: float) -> ProbeResult:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        while True:
            for fetched in await session.fetch(await session.find_by_subject(token)):
                if read(fetched.raw).header(PROBE_HEADER) == token:
                    await session.delete(fetched.uid)
                    return probe_result("ok", "signed in; the test message was read back")
            if loop.time() >= deadline:
                return _failed(
                    "not_read_back", f"signed in; no test message in INBOX within {wait_s:g} s"
                )
            await asyncio.sleep(min(_LOOK_EVERY_S, max(0.0, deadline - loop.time())))


def _failed(code: str, message: str) -> ProbeResult:
    found: ProbeCode = code if code in REMEDIES else "protocol_error"
    return ProbeResult(found, message, _REMEDIES.get(found, REMEDIES[found]))
