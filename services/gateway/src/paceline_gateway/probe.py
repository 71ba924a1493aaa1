"""The two-leg connection test: the sender submits a message, reply reads it back."""

import base64
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import httpx

from paceline_common import ids
from paceline_common.http import Problem, internal_client
from paceline_gateway import problems
from paceline_gateway.settings import GatewaySettings

# What a leg may take beyond the time it is told to wait: connecting, TLS, AUTH.
_SLACK_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Leg:
    """What one leg found: `message` is the server's exact words, `remedy` what to do."""

    ok: bool
    code: str
    message: str
    remedy: str | None


@dataclass(frozen=True, slots=True)
class Result:
    """Both legs; the mailbox works if both are `ok`."""

    send: Leg
    read: Leg

    @property
    def ok(self) -> bool:
        return self.send.ok and self.read.ok

    def as_members(self) -> dict[str, Any]:
        """Return both legs as JSON members."""
        return {"send": asdict(self.send), "read": asdict(self.read)}


@dataclass(frozen=True, slots=True)
class Side:
    """One leg of a mailbox as it would be saved; `credential` is sealed for the mailbox's id.

    `server` is null behind an API, `oauth` with a password. `version` is the credential's,
    None when it is not saved.
    """

    server: Mapping[str, Any] | None
    oauth: Mapping[str, Any] | None
    credential: bytes
    version: int | None = None

    def as_members(self, name: str) -> dict[str, Any]:
        """Return the leg as JSON members, its server under `name`."""
        return {
            name: None if self.server is None else dict(self.server),
            "oauth": None if self.oauth is None else dict(self.oauth),
            "credential": base64.b64encode(self.credential).decode(),
            "credential_version": self.version,
        }


@dataclass(frozen=True, slots=True)
class Draft:
    """A mailbox as it would be saved."""

    workspace_id: int
    mailbox_id: int
    email: str
    display_name: str | None
    kind: str
    send: Side
    read: Side


@dataclass(frozen=True, slots=True)
class Revoked:
    """What became of a leg's grant at its provider, and the provider's words."""

    result: str
    message: str


class Prober:
    """Asks sender and reply to try a mailbox; the gateway itself cannot open the credentials."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._wait_s = settings.probe_read_wait_s
        self._sender = internal_client(
            settings.sender_url, settings.sender_token, timeout_s=settings.probe_send_timeout_s
        )
        self._reply = internal_client(
            settings.reply_url, settings.reply_token, timeout_s=self._wait_s + _SLACK_S
        )

    async def close(self) -> None:
        """Close the connections to both services."""
        await self._sender.aclose()
        await self._reply.aclose()

    async def probe(self, draft: Draft) -> Result:
        """Test both legs; raise the problem `connection_test_unavailable` if a service is away.

        When nothing could be sent the reading leg still signs in, so that the
        user learns of both faults at once.
        """
        token = secrets.token_hex(8)
        whose = {
            "workspace_id": ids.encode("ws", draft.workspace_id),
            "mailbox_id": ids.encode("mbx", draft.mailbox_id),
            "email": draft.email,
            "kind": draft.kind,
            "token": token,
        }
        send = await self._ask(
            self._sender,
            {**whose, "display_name": draft.display_name, **draft.send.as_members("smtp")},
        )
        wait_s = self._wait_s if send.ok else 0
        read = await self._ask(
            self._reply, {**whose, "wait_s": wait_s, **draft.read.as_members("imap")}
        )
        if not send.ok and read.code == "not_read_back":
            read = Leg(
                False,
                "not_tested",
                "signing in worked; no test message could be sent, so none could be read back",
                "Mend the sending side; this side is tested again then.",
            )
        return Result(send, read)

    async def revoke(self, workspace_id: int, mailbox_id: int) -> dict[str, Revoked]:
        """Have both services revoke what they hold of a mailbox's grants; never raises.

        A service that is away has revoked nothing: `failed`.
        """
        path = f"/internal/revoke/{ids.encode('ws', workspace_id)}/{ids.encode('mbx', mailbox_id)}"
        found = {}
        # One after the other: the second learns that the first has revoked a shared grant.
        for leg, client in (("send", self._sender), ("read", self._reply)):
            try:
                answer = await client.post(path)
                answer.raise_for_status()
                told = answer.json()
                found[leg] = Revoked(str(told["result"]), str(told["message"]))
            except (httpx.HTTPError, ValueError, KeyError) as error:
                found[leg] = Revoked("failed", f"the service did not answer: {error}")
        return found

    async def _ask(self, client: httpx.AsyncClient, body: dict[str, Any]) -> Leg:
        try:
            answer = await client.post("/internal/probe", json=body)
            answer.raise_for_status()
            found = answer.json()
            return Leg(
                bool(found["ok"]), str(found["code"]), str(found["message"]), found.get("remedy")
            )
        except (httpx.HTTPError, ValueError, KeyError) as error:
            raise Problem(problems.CONNECTION_TEST_UNAVAILABLE) from error
