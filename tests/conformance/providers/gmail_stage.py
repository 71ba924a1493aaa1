"""Gmail on stage, against its twin, under each kind of grant."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Final

import httpx
from tests.conformance.providers import api_stage
from tests.conformance.providers.api_stage import ApiStage, at_once
from tests.conformance.providers.stage import RECIPIENT, SENDER, Case, Entry
from tests.twins.gmail.oauth import CLIENT_ID, CLIENT_SECRET, PREFIX
from tests.twins.gmail.server import GmailTwin, running
from tests.twins.tls import ServerTls

from paceline_providers.api import Api, ApiTimeouts
from paceline_providers.base import Capabilities
from paceline_providers.classes import OutcomeClass
from paceline_providers.gmail import GmailProvider, GmailSettings
from paceline_providers.proof import TokenRefused

_SOFT, _LIMIT = OutcomeClass.SOFT, OutcomeClass.LIMIT
_AUTH, _CONFIG = OutcomeClass.AUTH, OutcomeClass.CONFIG
_SENDS: Final = ("users.messages.send", "users.drafts.send")

_FAULTS: Final[Mapping[str, tuple[str, Mapping[str, Any]]]] = {
    "reset_before": ("reset_before", {}),
    "reset_in_body": ("reset_in_body", {}),
    "reset_after": ("reset_after", {}),
    "reset_in_answer": ("reset_in_answer", {}),
    "hang": ("hang", {}),
    "done_then_hang": ("done_then_hang", {}),
    "done_later": ("done_later", {"delay_s": 3.0}),
    "done_then_5xx": ("done_then_status", {"status": 503, "code": "backendError"}),
    "not_done_5xx": ("status", {"status": 500, "code": "backendError"}),
    "slow_loris": ("slow_loris", {"delay_s": 0.05}),
    "rewritten_id": ("reset_after", {}),
    "lagging_sent": ("reset_after", {}),
    "throttled": ("status", {"status": 429, "code": "rateLimitExceeded", "retry_after_s": 77}),
    "too_fast": (
        "status",
        {"status": 403, "code": "userRateLimitExceeded", "message": "User Rate Limit Exceeded"},
    ),
    "refused_message": ("status", {"status": 400, "code": "invalidArgument"}),
    "not_permitted": ("status", {"status": 403, "code": "insufficientPermissions"}),
}

# Small requests leave as a whole before a reset can stop them; with a fence every send
# request is small.
_FENCED: Final = {
    "reset_before": Case("InDoubt", None, 0, "unsent"),
    "reset_in_body": Case("InDoubt", None, 0, "unsent"),
    "reset_after": Case("InDoubt", None, 1, "sent"),
    # The status had come; what it named had not.
    "reset_in_answer": Case("Accepted", None, 1, "sent"),
    "hang": Case("InDoubt", None, 0, "unsent"),
    "done_then_hang": Case("InDoubt", None, 1, "sent"),
    "done_later": Case("InDoubt", None, 0, "unsent"),
    "done_then_5xx": Case("InDoubt", None, 1, "sent"),
    "not_done_5xx": Case("InDoubt", None, 0, "unsent"),
    "slow_loris": Case("InDoubt", None, 1, "sent"),
    "rewritten_id": Case("InDoubt", None, 1, "sent"),
    "lagging_sent": Case("InDoubt", None, 1, "sent", later_s=301),
    "expired_token": Case("Accepted", None, 1, "sent"),
    "revoked_token": Case("Deferred", _AUTH, 0, "unsent"),
    "late_report": Case("Accepted", None, 1, "sent"),
    "throttled": Case("Deferred", _LIMIT, 0, "unsent", retry_after_s=77),
    "too_fast": Case("Deferred", _SOFT, 0, "unsent"),
    "quota": Case("Deferred", _LIMIT, 0, "unsent", retry_after_s=3600),
    "refused_message": Case("Rejected", _CONFIG, 0, "unsent"),
    "not_permitted": Case("Deferred", _AUTH, 0, "unsent"),
}
# Without a fence what was not done cannot be proven so.
_UNFENCED: Final = _FENCED | {
    "reset_before": Case("InDoubt", None, 0, "in_doubt"),
    "reset_in_body": Case("Deferred", _SOFT, 0, "unsent", big=True),
    "hang": Case("InDoubt", None, 0, "in_doubt"),
    "done_later": Case("InDoubt", None, 1, "in_doubt"),
    "not_done_5xx": Case("InDoubt", None, 0, "in_doubt"),
}
# Without a look at sent mail nothing can be proven at all.
_BLIND: Final = {
    name: replace(case, final="in_doubt", later_s=0.0) if case.outcome == "InDoubt" else case
    for name, case in _UNFENCED.items()
}


class TwinTokens(api_stage.TwinTokens):
    """Google's."""

    path = "/token"
    client: ClassVar = {"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}

    def failure(self, answer: httpx.Response) -> Exception:
        return TokenRefused(answer.json()["error_description"])


class GmailStage(ApiStage):
    """See `stage.Stage`."""

    sends = _SENDS
    faults = _FAULTS
    tokens = TwinTokens

    @staticmethod
    def served(secure: ServerTls) -> AbstractAsyncContextManager[tuple[GmailTwin, str]]:
        return running(GmailTwin(secure=secure))

    def grant(self, twin: GmailTwin) -> Mapping[str, Any]:
        return twin.identity.grant(SENDER, tuple(self.provider.settings.scopes))

    def misbehave(self, fault: str) -> bool:
        match fault:
            case "quota":
                self.mailbox.conduct.sends_per_day = 0
            case "late_report":
                self.mailbox.conduct.bounces_after_s = 3600
            case _:
                return False
        return True

    def revoke_sign_in(self) -> None:
        self.twin.identity.revoke_all(SENDER)

    def hide_sent(self, seconds: float) -> None:
        self.mailbox.conduct.index_lag_s = seconds

    def stranger_thread(self) -> str:
        return "1999999999999999"


@asynccontextmanager
async def start(scopes: tuple[str, ...]) -> AsyncIterator[GmailStage]:
    """Start the twin with two accounts, the first one connected."""
    async with running() as (twin, url), httpx.AsyncClient(trust_env=False) as http:
        mailbox = twin.add_mailbox(SENDER)
        twin.add_mailbox(RECIPIENT)
        tokens = TwinTokens(http, url, twin.identity.grant(SENDER, scopes))
        hasty = ApiTimeouts(connect=2, write=1, read=0.8, total=2)
        provider = GmailProvider(
            GmailSettings(scopes), Api(http, tokens, twin.now, hasty, at_once), url
        )
        yield GmailStage(twin, mailbox, provider, provider, provider.capabilities)


def _entry(capabilities: Capabilities, cases: Mapping[str, Case], *scopes: str) -> Entry:
    granted = tuple(f"{PREFIX}gmail.{one}" for one in scopes)
    return Entry(partial(start, granted), capabilities, cases)


ENTRIES: Final = {
    "gmail-modify": _entry(
        Capabilities(fence=True, threads=True, reads_back=True, finds_sent=True), _FENCED, "modify"
    ),
    "gmail-send-readonly": _entry(
        Capabilities(fence=False, threads=True, reads_back=True, finds_sent=True),
        _UNFENCED, "send", "readonly",
    ),
    "gmail-send": _entry(
        Capabilities(fence=False, threads=True, reads_back=False, finds_sent=False), _BLIND, "send"
    ),
}  # fmt: skip
