"""SMTP on stage, against the scripted server."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from email import message_from_bytes
from typing import Any, Final

from tests.conformance.providers.stage import Case, Entry, Taken
from tests.twins.smtp.server import Script, ScriptedSmtp, scripted

from paceline_providers.base import Capabilities
from paceline_providers.classes import OutcomeClass
from paceline_providers.hosts import HostPolicy
from paceline_providers.smtp import SmtpProvider, SmtpSettings, Timeouts

CAPABILITIES: Final = Capabilities(
    fence=False, threads=False, reads_back=False, finds_sent=False
)  # fmt: skip
_SOFT, _LIMIT = OutcomeClass.SOFT, OutcomeClass.LIMIT

_SCRIPTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "reset_before": {"faults": {"MAIL": "reset"}},
    "reset_in_body": {"faults": {"body": "reset"}},
    "reset_after": {"faults": {"dot": "reset"}},
    "hang": {"faults": {"MAIL": "hang"}},
    "done_then_hang": {"faults": {"dot": "hang"}},
    "throttled": {"replies": {"MAIL": "450 4.2.1 receiving mail too quickly, try again later"}},
    "quota": {"replies": {"MAIL": "550 5.4.5 Daily user sending limit exceeded"}},
    "refused_message": {"replies": {"RCPT": "550 5.1.1 no such user"}},
}

# Without a readable Sent nothing can be proven: what is in doubt stays so.
CASES: Final = {
    "reset_before": Case("Deferred", _SOFT, 0, "unsent"),
    "reset_in_body": Case("Deferred", _SOFT, 0, "unsent", big=True),
    "reset_after": Case("InDoubt", None, 1, "in_doubt"),
    "hang": Case("Deferred", _SOFT, 0, "unsent"),
    "done_then_hang": Case("InDoubt", None, 1, "in_doubt"),
    "throttled": Case("Deferred", _SOFT, 0, "unsent"),
    "quota": Case("Deferred", _LIMIT, 0, "unsent"),
    "refused_message": Case("Rejected", OutcomeClass.HARD, 0, "unsent"),
}


@dataclass
class SmtpStage:
    """See `stage.Stage`."""

    script: Script
    server: ScriptedSmtp
    provider: SmtpProvider
    prover: None = None
    capabilities: Capabilities = CAPABILITIES

    def strike(self, fault: str) -> None:
        for name, value in _SCRIPTS[fault].items():
            setattr(self.script, name, value)

    def taken(self) -> list[Taken]:
        parsed = [
            message_from_bytes(data)
            for connection in self.server.connections
            for data in connection.messages
        ]
        return [Taken(one["X-Paceline-Job"], one["To"], one["Message-ID"]) for one in parsed]

    def began(self) -> int:
        return sum(connection.verbs.count("MAIL") for connection in self.server.connections)

    def did_late(self) -> bool:
        raise AssertionError("an SMTP server does nothing behind a hang")

    def expire_sign_in(self) -> bool:
        return False

    def revoke_sign_in(self) -> None:
        self.script.replies = {"AUTH": "535 5.7.8 Username and Password not accepted"}

    def hide_sent(self, seconds: float) -> None:
        raise AssertionError("SMTP shows no sent mail")

    pass_time = hide_sent

    def rewrite_message_ids(self) -> None:
        raise AssertionError("SMTP does not read ids back")

    def stranger_thread(self) -> str:
        return "no-such-thread"

    def nobody_listens(self) -> SmtpProvider:
        return replace(self.provider, settings=_settings(1))


def _settings(port: int) -> SmtpSettings:
    return SmtpSettings("127.0.0.1", port, "none", "ann")


@asynccontextmanager
async def start() -> AsyncIterator[SmtpStage]:
    """Start the scripted server."""
    script = Script(offers=("SIZE 100000000", "8BITMIME", "AUTH PLAIN LOGIN"))
    hasty = Timeouts(
        connect=1, greeting=1, sign_in=1, envelope=0.4, data=0.4, block=0.4, final_dot=0.4, quit=0.4
    )
    async with scripted(script) as server:
        hosts = HostPolicy("127.0.0.0/8")
        yield SmtpStage(
            script, server, SmtpProvider(_settings(server.port), "secret", hosts, None, hasty)
        )


ENTRY: Final = Entry(start, CAPABILITIES, CASES)
