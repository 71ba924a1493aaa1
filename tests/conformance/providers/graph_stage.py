"""Graph on stage, against its twin, under each kind of grant."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Final

import httpx
from tests.conformance.providers import api_stage
from tests.conformance.providers.api_stage import ApiStage, at_once
from tests.conformance.providers.stage import RECIPIENT, SENDER, Case, Entry
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


class TwinTokens(api_stage.TwinTokens):
    """Microsoft's; each refresh gives a new refresh token."""

    path = "/common/oauth2/v2.0/token"
    client: ClassVar = {"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}

    def failure(self, answer: httpx.Response) -> Exception:
        return token_failure(answer.status_code, answer.content)


class GraphStage(ApiStage):
    """See `stage.Stage`."""

    sends = _SENDS
    faults = _FAULTS
    tokens = TwinTokens

    @staticmethod
    def served(secure: ServerTls) -> AbstractAsyncContextManager[tuple[GraphTwin, str]]:
        return running(GraphTwin(secure=secure))

    def grant(self, twin: GraphTwin) -> Mapping[str, Any]:
        return twin.identity.grant(SENDER, self.provider.granted)

    def misbehave(self, fault: str) -> bool:
        match fault:
            case "duplicate_202":
                self.mailbox.conduct.resends = True
                return False
            case "daily_limit":
                self.mailbox.conduct.sends_per_day = 0
            case "late_report":
                self.mailbox.conduct.ndr_after_s = 3600
            case _:
                return False
        return True

    def revoke_sign_in(self) -> None:
        self.twin.identity.revoke(SENDER)

    def hide_sent(self, seconds: float) -> None:
        self.mailbox.conduct.sent_lag_s = seconds

    def stranger_thread(self) -> str:
        return "AAkALgaMessageThatNobodyHas"


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
            Api(http, TwinTokens(http, url, granted), twin.now, hasty, at_once),
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
