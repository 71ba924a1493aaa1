"""What each consent is said to allow is what the providers' code says of its scopes."""

import httpx
import pytest

from paceline_gateway.domain import consent
from paceline_gateway.domain.consent import GRANTS, Grant, Leg
from paceline_providers.base import Capabilities
from paceline_providers.proof import ApiProvider
from paceline_providers.registry import API_PROVIDERS


async def no_tokens(refused: str | None = None) -> str:
    raise AssertionError("nobody asks for a token here")


def capabilities(kind: str, scopes: tuple[str, ...]) -> Capabilities:
    def now() -> object:
        raise AssertionError("nobody asks for the time here")

    provider: ApiProvider = API_PROVIDERS[kind](
        {"scopes": list(scopes)},
        httpx.AsyncClient(),
        no_tokens,
        now,  # type: ignore[arg-type]
    )
    return provider.capabilities


def name(grant: Grant) -> str:
    return f"{grant.provider}-{grant.access}-{'separate' if grant.separate else 'one'}"


@pytest.mark.parametrize("grant", [one for one in GRANTS if one.kind != "smtp"], ids=name)
def test_a_grant_allows_what_its_provider_says_of_its_scopes(grant: Grant) -> None:
    sending, reading = (capabilities(grant.kind, legs) for legs in (grant.send, grant.read))
    assert (grant.fence, grant.threads, grant.reads_back) == (
        sending.fence, sending.threads, sending.reads_back,
    )  # fmt: skip
    # Reply looks through sent mail with what it holds.
    assert grant.finds_sent == (sending.finds_sent or reading.finds_sent)


@pytest.mark.parametrize("grant", [one for one in GRANTS if one.kind == "smtp"], ids=name)
def test_servers_have_neither_drafts_nor_ids_of_a_conversation(grant: Grant) -> None:
    assert (grant.fence, grant.threads, grant.reads_back, grant.finds_sent) == (
        False, False, False, True,
    )  # fmt: skip


def test_every_way_to_ask_has_one_declaration() -> None:
    asked = [
        (provider, access, separate)
        for provider in consent.OAUTH_PROVIDERS
        for access in consent.ACCESSES
        for separate in (False, True)
    ]
    assert [(one.provider, one.access, one.separate) for one in GRANTS] == asked
    for provider, access, separate in asked:
        assert consent.find(provider, access, separate=separate) in GRANTS


@pytest.mark.parametrize("grant", GRANTS, ids=name)
def test_one_consent_asks_for_both_legs_and_two_ask_for_one_each(grant: Grant) -> None:
    both: list[Leg] = consent.legs(False)
    assert both == ["both"]
    assert consent.legs(True) == ["send", "read"]
    assert set(grant.scopes("both")) == {*grant.send, *grant.read}
    if not grant.separate:
        assert grant.send == grant.read
    for leg in ("send", "read"):
        assert set(grant.asked(leg)) >= {*grant.scopes(leg), "openid", "email", "profile"}
    if grant.provider == "microsoft":
        # Without it there is no refresh token.
        assert "offline_access" in grant.asked("both")
        # A token is for one resource.
        resources = {scope.rpartition("/")[0] for scope in grant.asked("both") if "://" in scope}
        assert len(resources) == 1


def test_granted_scopes_are_recognised_however_the_provider_names_them() -> None:
    graph = consent.find("microsoft", "full", separate=False)
    assert graph.missing("both", ("Mail.Send", "mail.readwrite", "User.Read")) == []
    assert graph.missing("both", ("https://graph.microsoft.us/Mail.Send",)) == [
        "https://graph.microsoft.com/Mail.ReadWrite"
    ]
    gmail = consent.find("google", "send_and_read", separate=False)
    prefix = "https://www.googleapis.com/auth/gmail."
    assert gmail.missing("both", (f"{prefix}send", "openid")) == [f"{prefix}readonly"]
    # Part of a name is another scope.
    alone = consent.find("google", "send_and_read", separate=True)
    assert alone.missing("send", (f"{prefix}send.something",)) == [f"{prefix}send"]
    mail = consent.find("google", "servers", separate=False)
    assert mail.missing("both", ("https://mail.google.com/",)) == []
    assert mail.missing("both", ("openid",)) == ["https://mail.google.com/"]


def test_the_document_names_every_scope_and_loss() -> None:
    page = consent.markdown()
    for grant in GRANTS:
        for scope in grant.scopes("both"):
            assert f"`{scope}`" in page
        assert grant.loses in page
