"""Signing in and encrypting as each node wants it, against the twin and a scripted server."""

import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.twins.smtp import twin as smtp
from tests.twins.smtp.server import Script, scripted
from tests.twins.smtp.twin import SmtpTwin
from tests.twins.tls import ServerTls

from paceline_local import certificate
from paceline_providers.base import Accepted, Session, Unsent
from paceline_providers.classes import OutcomeClass
from paceline_providers.hosts import HostPolicy
from paceline_providers.proof import TokenRefused, Tokens, TokenUnavailable
from paceline_providers.registry import PROVIDERS
from paceline_providers.smtp import SmtpProvider, SmtpSettings

ANN = "ann@north.test"
PASSWORD = "päss word"
LOOPBACK = HostPolicy("127.0.0.0/8")
MESSAGE = b"From: ann@north.test\r\nTo: bob@example.test\r\nSubject: x\r\n\r\nHello\r\n"


class Grants:
    """Tokens of one grant, given out in this order; an exception is raised in its turn."""

    def __init__(self, *given: str | Exception) -> None:
        self._given = list(given)
        self.refused: list[str | None] = []

    async def __call__(self, refused: str | None = None) -> str:
        self.refused.append(refused)
        token = self._given.pop(0)
        if isinstance(token, Exception):
            raise token
        return token


@pytest.fixture
async def server() -> AsyncIterator[tuple[SmtpTwin, int]]:
    twin = SmtpTwin()
    twin.add_account(ANN, PASSWORD).tokens.add("good-token")
    async with smtp.running(twin) as (_, port, _control):
        yield twin, port


async def opened(port: int, *, tokens: Tokens | None = None, **settings: Any) -> Session | Unsent:
    """Open as the services do: through the registry, from stored JSON."""
    stored = {"host": "127.0.0.1", "port": port, "tls": "none", "username": ANN, **settings}
    credential: dict[str, Any] = {"password": PASSWORD} if tokens is None else {"oauth": {}}
    provider = PROVIDERS["smtp"](stored, credential, LOOPBACK, tokens=tokens)
    return await provider.open()


async def submitted(session: Session | Unsent) -> None:
    assert not isinstance(session, Unsent), session
    outcome = await session.submit(ANN, "bob@example.test", MESSAGE, before_mail_from=lambda: True)
    assert isinstance(outcome, Accepted), outcome
    await session.close()


@pytest.mark.parametrize("auth", ["plain", "login", "cram-md5", "auto"])
async def test_a_password_is_given_in_each_way(server: tuple[SmtpTwin, int], auth: str) -> None:
    twin, port = server
    await submitted(await opened(port, auth=auth))
    assert [one.mailbox for one in twin.submissions] == [ANN]


@pytest.mark.parametrize("auth", ["xoauth2", "oauthbearer", "auto"])
async def test_a_grant_signs_in_instead_of_a_password(
    server: tuple[SmtpTwin, int], auth: str
) -> None:
    twin, port = server
    tokens = Grants("good-token")
    await submitted(await opened(port, auth=auth, tokens=tokens))
    assert [one.mailbox for one in twin.submissions] == [ANN]
    assert tokens.refused == [None]


@pytest.mark.parametrize("auth", ["xoauth2", "oauthbearer"])
async def test_a_token_that_is_refused_is_renewed_until_it_is_surely_a_new_one(
    server: tuple[SmtpTwin, int], auth: str
) -> None:
    _, port = server
    tokens = Grants("stale", "good-token")
    await submitted(await opened(port, auth=auth, tokens=tokens))
    assert tokens.refused == [None, "stale"]
    never = Grants("stale", "another's, stale too", "new")
    refused = await opened(port, auth=auth, tokens=never)
    assert isinstance(refused, Unsent)
    assert (refused.reason, refused.outcome_class) == ("auth_failed", OutcomeClass.AUTH)
    assert "Username and Password not accepted" in refused.text


async def test_a_revoked_grant_is_told_from_a_token_endpoint_that_is_away(
    server: tuple[SmtpTwin, int],
) -> None:
    _, port = server
    gone = await opened(port, auth="xoauth2", tokens=Grants(TokenRefused("revoked by Ann")))
    assert isinstance(gone, Unsent)
    assert (gone.reason, gone.outcome_class, gone.text) == (
        "auth_failed", OutcomeClass.AUTH, "revoked by Ann",
    )  # fmt: skip
    away = await opened(port, auth="xoauth2", tokens=Grants(TokenUnavailable("no answer")))
    assert isinstance(away, Unsent)
    assert (away.outcome_class, away.text) == (OutcomeClass.SOFT, "no answer")


@pytest.mark.parametrize(
    ("auth", "tokens", "words"),
    [
        ("xoauth2", None, "AUTH XOAUTH2 needs a grant"),
        ("plain", Grants("good-token"), "AUTH PLAIN needs a password"),
    ],
)
async def test_a_credential_of_the_other_sort_is_ours_to_mend(
    server: tuple[SmtpTwin, int], auth: str, tokens: Grants | None, words: str
) -> None:
    _, port = server
    refused = await opened(port, auth=auth, tokens=tokens)
    assert isinstance(refused, Unsent)
    assert (refused.reason, refused.outcome_class) == ("auth_failed", OutcomeClass.CONFIG)
    assert words in refused.text


@pytest.mark.parametrize("auth", ["cram-md5", "oauthbearer"])
async def test_nothing_else_is_tried_than_what_was_asked_for(
    server: tuple[SmtpTwin, int], auth: str
) -> None:
    twin, port = server
    twin.mechanisms = ("PLAIN", "LOGIN", "XOAUTH2")
    tokens = Grants("good-token") if auth == "oauthbearer" else None
    refused = await opened(port, auth=auth, tokens=tokens)
    assert isinstance(refused, Unsent)
    assert auth.upper() in refused.text
    assert "AUTH" not in twin.calls


async def test_in_the_clear_the_password_stays_at_home_where_it_can(
    server: tuple[SmtpTwin, int],
) -> None:
    script = Script(offers=("AUTH PLAIN LOGIN CRAM-MD5",))
    async with scripted(script) as running:
        session = await opened(running.port, auth="auto")
        assert not isinstance(session, Unsent)
        await session.close()
        assert "AUTH CRAM-MD5" in running.only.commands
        assert not any("PLAIN" in command for command in running.only.commands)


# ---- Encryption


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    certificate.ensure(folder)
    return folder


def server_tls(certificates: Path, newest: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    if newest is not None:
        context.maximum_version = newest
    return context


async def through(script: Script, **settings: Any) -> tuple[Session | Unsent, Any]:
    ca_file = settings.pop("ca_file", None)
    async with scripted(script) as running:
        made = SmtpSettings(
            **{"host": "127.0.0.1", "port": running.port, "username": "ann", **settings}
        )
        session = await SmtpProvider(made, "x", LOOPBACK, ca_file).open()
        if not isinstance(session, Unsent):
            await session.close()
        return session, running.connections


async def test_optional_starttls_encrypts_where_it_is_offered(certificates: Path) -> None:
    script = Script(tls=server_tls(certificates))
    session, [seen] = await through(
        script, tls="starttls_optional", ca_file=certificates / "ca.pem"
    )
    assert not isinstance(session, Unsent)
    assert seen.was_encrypted
    assert seen.verbs[:3] == ["EHLO", "STARTTLS", "EHLO"]


async def test_optional_starttls_goes_on_in_the_clear_and_required_does_not() -> None:
    session, [seen] = await through(Script(), tls="starttls_optional")
    assert not isinstance(session, Unsent)
    assert not seen.was_encrypted
    refused, [seen] = await through(Script(), tls="starttls")
    assert isinstance(refused, Unsent)
    assert refused.reason == "tls_failed"
    assert "AUTH" not in seen.verbs


async def test_a_broken_optional_starttls_is_no_reason_to_go_on_in_the_clear(
    certificates: Path,
) -> None:
    # A certificate that nobody here trusts.
    script = Script(tls=server_tls(certificates))
    refused, [seen] = await through(script, tls="starttls_optional")
    assert isinstance(refused, Unsent)
    assert refused.reason == "tls_failed"
    assert "AUTH" not in seen.verbs


async def test_an_older_version_than_the_nodes_oldest_is_refused(certificates: Path) -> None:
    script = Script(tls=server_tls(certificates, ssl.TLSVersion.TLSv1_2), implicit_tls=True)
    ca_file = certificates / "ca.pem"
    session, _ = await through(script, tls="implicit", ca_file=ca_file)
    assert not isinstance(session, Unsent)
    refused, _ = await through(script, tls="implicit", ca_file=ca_file, tls_min="1.3")
    assert isinstance(refused, Unsent)
    assert (refused.reason, refused.outcome_class) == ("tls_failed", OutcomeClass.CONFIG)


async def test_a_certificate_is_looked_at_unless_the_node_says_not_to(certificates: Path) -> None:
    script = Script(tls=server_tls(certificates), implicit_tls=True)
    refused, _ = await through(script, tls="implicit")
    assert isinstance(refused, Unsent)
    assert refused.reason == "tls_failed"
    session, [seen] = await through(script, tls="implicit", tls_verify=False)
    assert not isinstance(session, Unsent)
    assert seen.was_encrypted


async def test_a_certificate_of_another_name_is_refused_unless_the_node_says_not_to(
    tmp_path: Path,
) -> None:
    secure = ServerTls()
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(secure.authority.pem())
    script = Script(tls=secure.context, implicit_tls=True)
    session, _ = await through(script, tls="implicit", ca_file=ca_file)
    assert not isinstance(session, Unsent)
    secure.name_is(right=False)
    refused, _ = await through(script, tls="implicit", ca_file=ca_file)
    assert isinstance(refused, Unsent)
    assert "IP address mismatch" in refused.text
    session, _ = await through(script, tls="implicit", ca_file=ca_file, tls_verify=False)
    assert not isinstance(session, Unsent)
