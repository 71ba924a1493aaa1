"""SMTP on stage, against its twin."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from tests.conformance.providers.stage import SENDER, Case, Entry, Taken
from tests.twins.smtp.twin import SmtpTwin, running
from tests.twins.tls import ServerTls

from paceline_providers.base import Capabilities
from paceline_providers.classes import OutcomeClass
from paceline_providers.hosts import HostPolicy
from paceline_providers.smtp import SmtpProvider, SmtpSettings, Timeouts

CAPABILITIES: Final = Capabilities(
    fence=False, threads=False, reads_back=False, finds_sent=False
)  # fmt: skip
_SOFT, _LIMIT = OutcomeClass.SOFT, OutcomeClass.LIMIT
_PASSWORD: Final = "a secret"
_HASTY: Final = Timeouts(
    connect=1, greeting=1, sign_in=1, envelope=0.4, data=0.4, block=0.4, final_dot=0.4, quit=0.4
)  # fmt: skip

_FAULTS: Final[Mapping[str, tuple[str, str, Mapping[str, Any]]]] = {
    "reset_before": ("MAIL", "reset_before", {}),
    "reset_before_data": ("DATA", "reset_before", {}),
    "reset_in_body": ("body", "reset_in_body", {}),
    "reset_after": ("dot", "reset_after", {}),
    "not_done_reset": ("dot", "reset_before", {}),
    "hang": ("MAIL", "hang", {}),
    "done_then_hang": ("dot", "done_then_hang", {}),
    "done_later": ("dot", "done_later", {"delay_s": 1.0}),
    "done_then_5xx": ("dot", "done_then_status", {"message": "554 5.0.0 Transaction failed"}),
    "not_done_4xx": ("dot", "status", {"message": "451 4.3.0 try again later"}),
    "not_done_5xx": ("dot", "status", {"message": "550 5.7.1 likely unsolicited mail"}),
    "slow_loris": ("dot", "slow_loris", {"delay_s": 0.1}),
    "slow": ("dot", "slow", {"delay_s": 0.2}),
    "throttled": (
        "MAIL", "status", {"message": "450 4.2.1 receiving mail too quickly, try again later"},
    ),
    "refused_message": ("RCPT", "status", {"message": "550 5.1.1 no such user"}),
    "revoked_token": (
        "MAIL", "status", {"message": "535 5.7.8 Username and Password not accepted"},
    ),
}  # fmt: skip

# Without a readable Sent nothing can be proven: what is in doubt stays so.
CASES: Final = {
    "reset_before": Case("Deferred", _SOFT, 0, "unsent"),
    "reset_before_data": Case("Deferred", _SOFT, 0, "unsent"),
    "reset_in_body": Case("Deferred", _SOFT, 0, "unsent", big=True),
    "reset_after": Case("InDoubt", None, 1, "in_doubt"),
    "not_done_reset": Case("InDoubt", None, 0, "in_doubt"),
    "hang": Case("Deferred", _SOFT, 0, "unsent"),
    "done_then_hang": Case("InDoubt", None, 1, "in_doubt"),
    "done_later": Case("InDoubt", None, 1, "in_doubt"),
    # A no in the protocol's own words is believed: nothing else can be known, and nothing is
    # sent again.
    "done_then_5xx": Case("Rejected", _SOFT, 1, "unsent", lies=True),
    "not_done_4xx": Case("Deferred", _SOFT, 0, "unsent"),
    "not_done_5xx": Case("Rejected", OutcomeClass.BLOCK, 0, "unsent"),
    "slow_loris": Case("InDoubt", None, 1, "in_doubt"),
    "slow": Case("Accepted", None, 1, "sent"),
    "throttled": Case("Deferred", _SOFT, 0, "unsent"),
    "quota": Case("Deferred", _LIMIT, 0, "unsent"),
    "refused_message": Case("Rejected", OutcomeClass.HARD, 0, "unsent"),
    "revoked_token": Case("Deferred", OutcomeClass.AUTH, 0, "unsent"),
    "late_report": Case("Accepted", None, 1, "sent"),
}


@dataclass
class SmtpStage:
    """See `stage.Stage`."""

    twin: SmtpTwin
    provider: SmtpProvider
    prover: None = None
    capabilities: Capabilities = CAPABILITIES

    def strike(self, fault: str) -> None:
        match fault:
            case "quota":
                self.twin.accounts[SENDER].messages_left = 0
            case "late_report":
                # It comes by mail, if at all: there is nothing to prepare here.
                pass
            case _:
                place, kind, more = _FAULTS[fault]
                self.twin.fail(place, kind, **more)  # type: ignore[arg-type]  # a FaultKind

    def taken(self) -> list[Taken]:
        return [
            Taken(one.job or "", one.recipients[0], one.message_id) for one in self.twin.submissions
        ]

    def began(self) -> int:
        return self.twin.calls.count("MAIL")

    def did_late(self) -> bool:
        return bool(self.twin.submissions)

    def expire_sign_in(self) -> bool:
        return False

    def revoke_sign_in(self) -> None:
        self.twin.accounts[SENDER].may_sign_in = False

    def hide_sent(self, seconds: float) -> None:
        raise AssertionError("SMTP shows no sent mail")

    def pass_time(self, seconds: float) -> None:
        self.twin.advance(seconds)

    def rewrite_message_ids(self) -> None:
        raise AssertionError("SMTP does not read ids back")

    def stranger_thread(self) -> str:
        return "no-such-thread"

    def nobody_listens(self) -> SmtpProvider:
        return replace(self.provider, settings=_settings(1))

    @asynccontextmanager
    async def named(self, *, right: bool) -> AsyncIterator[SmtpProvider]:
        secure = ServerTls()
        secure.name_is(right=right)
        twin = SmtpTwin(secure=secure, implicit_tls=True)
        twin.add_account(SENDER, _PASSWORD)
        with TemporaryDirectory() as folder:
            trusted = Path(folder, "ca.pem")
            trusted.write_bytes(secure.authority.pem())  # noqa: ASYNC240 - a few hundred bytes
            async with running(twin) as (_, port, _):
                settings = SmtpSettings("127.0.0.1", port, "implicit", SENDER)
                yield replace(self.provider, settings=settings, ca_file=trusted)


def _settings(port: int) -> SmtpSettings:
    return SmtpSettings("127.0.0.1", port, "none", SENDER)


@asynccontextmanager
async def start() -> AsyncIterator[SmtpStage]:
    """Start the twin with one account."""
    twin = SmtpTwin(extensions=("SIZE 100000000", "8BITMIME"), size=100_000_000)
    twin.add_account(SENDER, _PASSWORD)
    async with running(twin) as (_, port, _):
        hosts = HostPolicy("127.0.0.0/8")
        yield SmtpStage(twin, SmtpProvider(_settings(port), _PASSWORD, hosts, None, _HASTY))


ENTRY: Final = Entry(start, CAPABILITIES, CASES)
