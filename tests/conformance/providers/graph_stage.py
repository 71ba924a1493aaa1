"""Graph on stage, against its twin, under each kind of grant."""

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import httpx
from tests.conformance.providers.stage import RECIPIENT, SENDER, Case, Entry, Taken
from tests.twins.graph.mailbox import Mailbox
from tests.twins.graph.oauth import CLIENT_ID, CLIENT_SECRET
from tests.twins.graph.server import GraphTwin, running
from tests.twins.tls import ServerTls

from paceline_providers.aadsts import token_failure
from paceline_providers.api import Api, ApiTimeouts
from paceline_providers.base import Capabilities
from paceline_providers.classes import OutcomeClass
from paceline_providers.graph import GraphProvider, GraphSettings

_SOFT, _LIMIT = OutcomeClass.SOFT, OutcomeClass.LIMIT
_AUTH, _CONFIG = OutcomeClass.AUTH, OutcomeClass.CONFIG
_SENDS: Final = ("send", "sendMail")

_FAULTS: Final[Mapping[str, tuple[str, Mapping[str, Any]]]] = {
    "reset_before": ("reset_before", {}),
    "reset_in_body": ("reset_in_body", {}),
    "reset_after": ("reset_after", {}),
    "reset_in_answer": ("reset_in_answer", {}),
    "hang": ("hang", {}),
    "done_then_hang": ("done_then_hang", {}),
    "done_later": ("done_later", {"delay_s": 2.0}),
    "done_then_5xx": ("done_then_status", {"status": 503, "retry_after_s": 5}),
    "done_then_504": ("done_then_status", {"status": 504, "code": "gatewayTimeout"}),
    "not_done_5xx": ("status", {"status": 500, "code": "generalException"}),
    "slow_loris": ("slow_loris", {"delay_s": 0.05}),
    "rewritten_id": ("reset_after", {}),
    "lagging_sent": ("reset_after", {}),
    "throttled": (
        "status", {"status": 429, "code": "ApplicationThrottled", "retry_after_s": 77},
    ),
    "throttled_503": (
        "status", {"status": 503, "code": "ApplicationThrottled", "retry_after_s": 77},
    ),
    "quota": (
        "status", {"status": 429, "code": "ErrorExceededMessageLimit", "retry_after_s": 3600},
    ),
    "refused_message": ("status", {"status": 400, "code": "ErrorInvalidRecipients"}),
    "refused_sender": ("status", {"status": 403, "code": "ErrorSendAsDenied"}),
    "not_permitted": ("status", {"status": 403, "code": "ErrorAccessDenied"}),
    "lost_item": ("status", {"status": 404, "code": "ErrorItemNotFound"}),
    "duplicate_202": ("reset_after", {}),
}  # fmt: skip

# A send request is small: it leaves as a whole before a reset can stop it.
_FENCED: Final = {
    "reset_before": Case("InDoubt", None, 0, "unsent"),
    "reset_in_body": Case("InDoubt", None, 0, "unsent"),
    "reset_after": Case("InDoubt", None, 1, "sent"),
    "reset_in_answer": Case("InDoubt", None, 1, "sent"),
    "hang": Case("InDoubt", None, 0, "unsent"),
    "done_then_hang": Case("InDoubt", None, 1, "sent"),
    "done_later": Case("InDoubt", None, 0, "unsent"),
    "done_then_5xx": Case("InDoubt", None, 1, "sent"),
    "done_then_504": Case("InDoubt", None, 1, "sent"),
    "not_done_5xx": Case("InDoubt", None, 0, "unsent"),
    "slow_loris": Case("InDoubt", None, 1, "sent"),
    "rewritten_id": Case("InDoubt", None, 1, "sent"),
    "lagging_sent": Case("InDoubt", None, 1, "sent", later_s=301),
    "expired_token": Case("Accepted", None, 1, "sent"),
    "revoked_token": Case("Deferred", _AUTH, 0, "unsent"),
    "late_report": Case("Accepted", None, 1, "sent"),
    "throttled": Case("Deferred", _SOFT, 0, "unsent", retry_after_s=77),
    "throttled_503": Case("Deferred", _SOFT, 0, "unsent", retry_after_s=77),
    "quota": Case("Deferred", _LIMIT, 0, "unsent", retry_after_s=3600),
    "refused_message": Case("Rejected", _CONFIG, 0, "unsent"),
    "refused_sender": Case("Rejected", _CONFIG, 0, "unsent"),
    "not_permitted": Case("Deferred", _AUTH, 0, "unsent"),
    "lost_item": Case("InDoubt", None, 0, "unsent"),
    "duplicate_202": Case("InDoubt", None, 1, "sent"),
    "daily_limit": Case("Deferred", _LIMIT, 0, "unsent"),
}
# Without a fence what was not done cannot be proven so.
_UNFENCED: Final = {
    name: replace(case, final="in_doubt") if case.outcome == "InDoubt" and not case.taken else case
    for name, case in _FENCED.items()
} | {"done_later": Case("InDoubt", None, 1, "in_doubt")}
# Without a look at sent mail nothing can be proven at all.
_BLIND: Final = {
    name: replace(case, final="in_doubt", later_s=0.0) if case.outcome == "InDoubt" else case
    for name, case in _UNFENCED.items()
}


class TwinTokens:
    """A token source as the sender's: keeps one access token, refreshes on demand."""

    def __init__(self, http: httpx.AsyncClient, url: str, granted: Mapping[str, Any]) -> None:
        self._http, self._url = http, url
        self._token, self._refresh_token = granted["access_token"], granted["refresh_token"]

    async def __call__(self, refused: str | None = None) -> str:
        if refused == self._token:
            answer = await self._http.post(
                f"{self._url}/common/oauth2/v2.0/token",
                data={
                    "grant_type": "refresh_token", "refresh_token": self._refresh_token,
                    "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET,
                },
            )  # fmt: skip
            if answer.status_code != 200:
                raise token_failure(answer.status_code, answer.content)
            granted = answer.json()
            self._token, self._refresh_token = granted["access_token"], granted["refresh_token"]
        token: str = self._token
        return token


@dataclass
class GraphStage:
    """See `stage.Stage`."""

    twin: GraphTwin
    mailbox: Mailbox
    provider: GraphProvider
    prover: GraphProvider
    capabilities: Capabilities

    def strike(self, fault: str) -> None:
        match fault:
            case "rewritten_id":
                self.rewrite_message_ids()
            case "lagging_sent":
                self.hide_sent(300)
            case "duplicate_202":
                self.mailbox.conduct.resends = True
            case "daily_limit":
                self.mailbox.conduct.sends_per_day = 0
                return
            case "expired_token":
                self.expire_sign_in()
                return
            case "revoked_token":
                self.revoke_sign_in()
                return
            case "late_report":
                self.mailbox.conduct.ndr_after_s = 3600
                return
        kind, more = _FAULTS[fault]
        for operation in _SENDS:
            self.twin.fail(operation, kind, **more)  # type: ignore[arg-type]  # a FaultKind

    def taken(self) -> list[Taken]:
        return [
            Taken(one.job or "", one.recipients[0], one.message_id) for one in self.twin.submissions
        ]

    def began(self) -> int:
        return sum(one in _SENDS for one in self.twin.calls)

    def did_late(self) -> bool:
        return bool(self.twin.late_answers)

    def expire_sign_in(self) -> bool:
        self.twin.identity.expire(SENDER)
        return True

    def revoke_sign_in(self) -> None:
        self.twin.identity.revoke(SENDER)

    def hide_sent(self, seconds: float) -> None:
        self.mailbox.conduct.sent_lag_s = seconds

    def pass_time(self, seconds: float) -> None:
        self.twin.advance(seconds)

    def rewrite_message_ids(self) -> None:
        self.mailbox.conduct.rewrites_message_id = True

    def stranger_thread(self) -> str:
        return "AAkALgaMessageThatNobodyHas"

    def nobody_listens(self) -> GraphProvider:
        return replace(self.provider, base_url="http://127.0.0.1:1")

    @asynccontextmanager
    async def named(self, *, right: bool) -> AsyncIterator[GraphProvider]:
        secure = ServerTls()
        secure.name_is(right=right)
        twin = GraphTwin(secure=secure)
        twin.add_mailbox(SENDER)
        trust = ssl.create_default_context(cadata=secure.authority.pem().decode())
        async with (
            running(twin) as (_, url),
            httpx.AsyncClient(trust_env=False, verify=trust) as http,
        ):
            granted = twin.identity.grant(SENDER, self.provider.granted)
            api = replace(self.provider.api, http=http, tokens=TwinTokens(http, url, granted))
            yield replace(self.provider, api=api, base_url=url)


async def _at_once(_: float) -> None:
    """Take no pause between tries."""


@asynccontextmanager
async def start(scopes: frozenset[str]) -> AsyncIterator[GraphStage]:
    """Start the twin with two accounts, the first one connected."""
    async with running() as (twin, url), httpx.AsyncClient(trust_env=False) as http:
        mailbox = twin.add_mailbox(SENDER)
        twin.add_mailbox(RECIPIENT)
        granted = twin.identity.grant(SENDER, scopes)
        hasty = ApiTimeouts(connect=1, write=0.5, read=0.4, total=1)
        provider = GraphProvider(
            GraphSettings(tuple(granted["scope"].split())),
            Api(http, TwinTokens(http, url, granted), twin.now, hasty, _at_once),
            url,
        )
        yield GraphStage(twin, mailbox, provider, provider, provider.capabilities)


def _entry(
    capabilities: Capabilities, cases: Mapping[str, Case], *scopes: str, names: bool = False
) -> Entry:
    granted = frozenset((*scopes, "User.Read", "offline_access"))
    return Entry(partial(start, granted), capabilities, cases, names_accepted=names)


ENTRIES: Final = {
    "graph-readwrite": _entry(
        Capabilities(fence=True, threads=True, reads_back=True, finds_sent=True),
        _FENCED, "Mail.Send", "Mail.ReadWrite", names=True,
    ),
    "graph-send-read": _entry(
        Capabilities(fence=False, threads=False, reads_back=False, finds_sent=True),
        _UNFENCED, "Mail.Send", "Mail.Read",
    ),
    "graph-send": _entry(
        Capabilities(fence=False, threads=False, reads_back=False, finds_sent=False),
        _BLIND, "Mail.Send",
    ),
}  # fmt: skip
