"""What the stages of the HTTP APIs have in common: tokens, faults of the wire, the twin's truth."""

import ssl
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import httpx
from tests.conformance.providers.stage import SENDER, Taken
from tests.twins.tls import ServerTls

from paceline_providers.base import Capabilities


class TwinTokens(ABC):
    """A token source as the sender's: keeps one access token, refreshes on demand."""

    path: ClassVar[str]
    client: ClassVar[Mapping[str, str]]

    def __init__(self, http: httpx.AsyncClient, url: str, granted: Mapping[str, Any]) -> None:
        self._http, self._endpoint = http, url + self.path
        self.access: str = granted["access_token"]
        self.refresh: str = granted["refresh_token"]
        self.refreshes = 0

    async def __call__(self, refused: str | None = None) -> str:
        """See `proof.Tokens`."""
        if refused == self.access:
            answer = await self._http.post(
                self._endpoint,
                data={"grant_type": "refresh_token", "refresh_token": self.refresh, **self.client},
            )
            if not answer.is_success:
                raise self.failure(answer)
            granted = answer.json()
            self.access = granted["access_token"]
            self.refresh = granted.get("refresh_token", self.refresh)
            self.refreshes += 1
        return self.access

    @abstractmethod
    def failure(self, answer: httpx.Response) -> Exception:
        """Return what a refusal means."""


@dataclass
class ApiStage(ABC):
    """See `stage.Stage`; `sends` are the operations that submit, `faults` those of the wire."""

    twin: Any
    mailbox: Any
    provider: Any
    prover: Any
    capabilities: Capabilities

    sends: ClassVar[tuple[str, ...]]
    faults: ClassVar[Mapping[str, tuple[str, Mapping[str, Any]]]]
    tokens: ClassVar[type[TwinTokens]]

    @staticmethod
    @abstractmethod
    def served(secure: ServerTls) -> AbstractAsyncContextManager[tuple[Any, str]]:
        """Run another twin over TLS; gives it and its base URL."""

    @abstractmethod
    def grant(self, twin: Any) -> Mapping[str, Any]:
        """Grant to the sender there what is granted here."""

    @abstractmethod
    def misbehave(self, fault: str) -> bool:
        """Let the mailbox itself do what `fault` takes; tell whether that is all."""

    def strike(self, fault: str) -> None:
        match fault:
            case "expired_token":
                self.expire_sign_in()
                return
            case "revoked_token":
                self.revoke_sign_in()
                return
            case "rewritten_id":
                self.rewrite_message_ids()
            case "lagging_sent":
                self.hide_sent(300)
        if self.misbehave(fault):
            return
        kind, more = self.faults[fault]
        for operation in self.sends:
            self.twin.fail(operation, kind, **more)

    def taken(self) -> list[Taken]:
        return [
            Taken(one.job or "", one.recipients[0], one.message_id) for one in self.twin.submissions
        ]

    def began(self) -> int:
        return sum(one in self.sends for one in self.twin.calls)

    def did_late(self) -> bool:
        return bool(self.twin.late_answers)

    def expire_sign_in(self) -> bool:
        self.twin.identity.expire(SENDER)
        return True

    @abstractmethod
    def revoke_sign_in(self) -> None: ...

    @abstractmethod
    def hide_sent(self, seconds: float) -> None: ...

    def pass_time(self, seconds: float) -> None:
        self.twin.advance(seconds)

    def rewrite_message_ids(self) -> None:
        self.mailbox.conduct.rewrites_message_id = True

    def nobody_listens(self) -> Any:
        return replace(self.provider, base_url="http://127.0.0.1:1")

    @asynccontextmanager
    async def named(self, *, right: bool) -> AsyncIterator[Any]:
        secure = ServerTls()
        secure.name_is(right=right)
        trust = ssl.create_default_context(cadata=secure.authority.pem().decode())
        async with (
            self.served(secure) as (twin, url),
            httpx.AsyncClient(trust_env=False, verify=trust) as http,
        ):
            twin.add_mailbox(SENDER)
            tokens = self.tokens(http, url, self.grant(twin))
            api = replace(self.provider.api, http=http, tokens=tokens)
            yield replace(self.provider, api=api, base_url=url)


async def at_once(_: float) -> None:
    """Take no pause between tries."""
