"""A mailbox's servers: presets that fill them, ways to sign in, and what is audited as weak."""

from typing import Any

from tests.integration.gateway.conftest import Peers, Tenant

from paceline_providers.presets import presets

PASSWORD = "app-pass-word-16"


async def test_a_preset_fills_the_servers_and_one_password_serves_both(
    tenant: Tenant, peers: Peers
) -> None:
    body = {"email": "ann@fastmail.com", "preset": "fastmail", "password": PASSWORD}
    mailbox = await tenant.call("POST", "/v1/mailboxes", 201, json=body)
    assert (mailbox["smtp"]["host"], mailbox["smtp"]["port"]) == ("smtp.fastmail.com", 465)
    assert (mailbox["imap"]["host"], mailbox["imap"]["tls"]) == ("imap.fastmail.com", "implicit")
    assert mailbox["smtp"]["username"] == mailbox["imap"]["username"] == "ann@fastmail.com"
    assert PASSWORD not in str(mailbox)
    assert [leg for leg, _ in peers.asked] == ["send", "read"]


async def test_a_preset_knows_the_provider_where_server_and_address_say_nothing(
    tenant: Tenant,
) -> None:
    body: dict[str, Any] = {"email": "ann@aol.com", "preset": "aol", "password": PASSWORD}
    mailbox = await tenant.call("POST", "/v1/mailboxes", 201, json=body)
    assert mailbox["provider_found"] == "yahoo"
    # A server of one's own beside it stays as it is written.
    server = {"host": "relay.acme.test", "port": 587, "tls": "starttls", "password": "other"}
    body = {"email": "bob@acme.test", "preset": "fastmail", "password": PASSWORD, "smtp": server}
    mailbox = await tenant.call("POST", "/v1/mailboxes", 201, json=body)
    assert mailbox["smtp"]["host"] == "relay.acme.test"
    assert mailbox["imap"]["host"] == "imap.fastmail.com"


async def test_what_no_preset_fills_has_to_be_written(tenant: Tenant, peers: Peers) -> None:
    server = {"host": "mail.acme.test", "port": 465, "password": PASSWORD}
    for body in (
        {"preset": "fastmail"},
        {"preset": "generic", "password": PASSWORD},
        {"preset": "no-such", "password": PASSWORD},
        {"password": PASSWORD},
        {"smtp": server},
    ):
        refused = await tenant.call(
            "POST", "/v1/mailboxes", 422, json={"email": "ann@acme.test", **body}
        )
        assert refused["code"] == "request_invalid"
        assert PASSWORD not in str(refused)
    assert peers.asked == []


async def test_presets_are_listed_with_limits_hints_and_sources(tenant: Tenant) -> None:
    listed = await tenant.call("GET", "/v1/presets")
    assert [one["name"] for one in listed] == list(presets())
    gmail = next(one for one in listed if one["name"] == "gmail")
    assert gmail["smtp"] == {"host": "smtp.gmail.com", "port": 465, "tls": "implicit"}
    assert gmail["limits"]["messages_24h"] == 2000
    assert (gmail["dialect"], gmail["oauth"]) == ("google", "google")
    assert "app password" in gmail["password"].lower()
    assert all(one["sources"] for one in listed)
    generic = next(one for one in listed if one["name"] == "generic")
    assert (generic["smtp"], generic["dialect"]) == (None, None)


async def test_each_way_to_sign_in_and_to_encrypt_reaches_the_services(
    tenant: Tenant, peers: Peers
) -> None:
    smtp = {
        "host": "mail.acme.test", "port": 587, "tls": "starttls", "auth": "cram-md5",
        "tls_min": "1.3", "password": PASSWORD,
    }  # fmt: skip
    imap = {"host": "mail.acme.test", "port": 993, "auth": "login", "password": PASSWORD}
    mailbox = await tenant.call(
        "POST", "/v1/mailboxes", 201, json={"email": "ann@acme.test", "smtp": smtp, "imap": imap}
    )
    bodies = dict(peers.asked)
    assert bodies["send"]["smtp"] == {
        "host": "mail.acme.test", "port": 587, "tls": "starttls", "username": "ann@acme.test",
        "auth": "cram-md5", "tls_min": "1.3", "tls_verify": True,
    }  # fmt: skip
    assert (bodies["read"]["imap"]["auth"], bodies["read"]["imap"]["tls_min"]) == ("login", "1.2")
    assert mailbox["smtp"]["auth"] == "cram-md5"
    assert mailbox["smtp"]["tls_min"] == "1.3"
    # A grant is not a password: it comes by consent.
    refused = await tenant.call(
        "POST", "/v1/mailboxes", 422,
        json={"email": "bob@acme.test", "smtp": smtp | {"auth": "xoauth2"}, "imap": imap},
    )  # fmt: skip
    assert refused["code"] == "request_invalid"
    for wrong in ({"tls_min": "1.0"}, {"auth": "digest-md5"}, {"tls": "maybe"}):
        await tenant.call(
            "POST", "/v1/mailboxes", 422,
            json={"email": "bob@acme.test", "smtp": smtp | wrong, "imap": imap},
        )  # fmt: skip


def weakened(tenant: Tenant) -> list[dict[str, Any]]:
    return [
        one["detail"]
        for one in tenant.outbox("audit-recorded")
        if one["action"] == "mailbox.connection_weakened"
    ]


async def test_doing_without_encryption_or_verification_is_audited_once(tenant: Tenant) -> None:
    safe = {"host": "mail.acme.test", "port": 993, "password": PASSWORD}
    weak = {"host": "mail.acme.test", "port": 25, "tls": "none", "password": PASSWORD}
    mailbox = await tenant.call(
        "POST", "/v1/mailboxes", 201, json={"email": "ann@acme.test", "smtp": weak, "imap": safe}
    )
    assert weakened(tenant) == [{"smtp": "tls none"}]
    path = f"/v1/mailboxes/{mailbox['id']}"
    # A new password is no new weakness; another one is.
    await tenant.call("PATCH", path, json={"smtp": weak | {"password": "newer"}})
    assert len(weakened(tenant)) == 1
    await tenant.call("PATCH", path, json={"imap": safe | {"tls_verify": False}})
    assert weakened(tenant)[1:] == [{"imap": "certificate not verified"}]
    await tenant.call("PATCH", path, json={"smtp": weak | {"tls": "starttls_optional"}})
    assert weakened(tenant)[2:] == [{"smtp": "tls starttls_optional"}]


async def test_a_mailbox_with_safe_servers_is_nothing_to_remark_on(tenant: Tenant) -> None:
    await tenant.mailbox()
    assert weakened(tenant) == []
