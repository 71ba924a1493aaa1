"""Gmail on stage, against its twin, under each kind of grant."""

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import httpx
from tests.conformance.providers.stage import RECIPIENT, SENDER, Case, Entry, Taken
from tests.twins.gmail.mailbox import Mailbox
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


class TwinTokens:
    """A token source as the sender's: keeps one access token, refreshes on demand."""

    def __init__(self, http: httpx.AsyncClient, url: str, granted: Mapping[str, Any]) -> None:
        self._http, self._url = http, url
        self._refresh_token = granted["refresh_token"]
        self._token: str = granted["access_token"]
        self.asked: list[str | None] = []

    async def __call__(self, refused: str | None = None) -> str:
        self.asked.append(refused)
        if refused == self._token:
            answer = await self._http.post(
                f"{self._url}/token",
                data={
                    "grant_type": "refresh_token", "refresh_token": self._refresh_token,
                    "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET,
                },
            )  # fmt: skip
            if answer.status_code != 200:
                raise TokenRefused(answer.json()["error_description"])
            self._token = answer.json()["access_token"]
        return self._token


@dataclass
class GmailStage:
    """See `stage.Stage`."""

    twin: GmailTwin
    mailbox: Mailbox
    tokens: TwinTokens
    provider: GmailProvider
    prover: GmailProvider
    capabilities: Capabilities

    def strike(self, fault: str) -> None:
        match fault:
            case "quota":
                self.mailbox.conduct.sends_per_day = 0
                return
            case "rewritten_id":
                self.rewrite_message_ids()
            case "lagging_sent":
                self.hide_sent(300)
            case "expired_token":
                self.expire_sign_in()
                return
            case "revoked_token":
                self.revoke_sign_in()
                return
            case "late_report":
                self.mailbox.conduct.bounces_after_s = 3600
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
        self.twin.identity.revoke_all(SENDER)

    def hide_sent(self, seconds: float) -> None:
        self.mailbox.conduct.index_lag_s = seconds

    def pass_time(self, seconds: float) -> None:
        self.twin.advance(seconds)

    def rewrite_message_ids(self) -> None:
        self.mailbox.conduct.rewrites_message_id = True

    def stranger_thread(self) -> str:
        return "1999999999999999"

    def nobody_listens(self) -> GmailProvider:
        return replace(self.provider, base_url="http://127.0.0.1:1")

    @asynccontextmanager
    async def named(self, *, right: bool) -> AsyncIterator[GmailProvider]:
        secure = ServerTls()
        secure.name_is(right=right)
        twin = GmailTwin(secure=secure)
        twin.add_mailbox(SENDER)
        trust = ssl.create_default_context(cadata=secure.authority.pem().decode())
        async with (
            running(twin) as (_, url),
            httpx.AsyncClient(trust_env=False, verify=trust) as http,
        ):
            granted = twin.identity.grant(SENDER, tuple(self.provider.settings.scopes))
            api = replace(self.provider.api, http=http, tokens=TwinTokens(http, url, granted))
            yield replace(self.provider, api=api, base_url=url)


async def _at_once(_: float) -> None:
    """Take no pause between tries."""


@asynccontextmanager
async def start(scopes: tuple[str, ...]) -> AsyncIterator[GmailStage]:
    """Start the twin with two accounts, the first one connected."""
    async with running() as (twin, url), httpx.AsyncClient(trust_env=False) as http:
        mailbox = twin.add_mailbox(SENDER)
        twin.add_mailbox(RECIPIENT)
        tokens = TwinTokens(http, url, twin.identity.grant(SENDER, scopes))
        hasty = ApiTimeouts(connect=2, write=1, read=0.8, total=2)
        provider = GmailProvider(
            GmailSettings(scopes), Api(http, tokens, twin.now, hasty, _at_once), url
        )
        yield GmailStage(twin, mailbox, tokens, provider, provider, provider.capabilities)


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
