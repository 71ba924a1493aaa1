"""Mailboxes: nothing is saved untested, no secret comes back, every change is announced."""

import asyncio
import base64
import json
from typing import Any

import psycopg
import pytest

from paceline_common import ids
from paceline_common.keys import KeyService

from .conftest import Peers, Tenant, schedule_of

REFUSED = {
    "ok": False,
    "code": "auth_failed",
    "message": "535 5.7.8 Error: authentication failed: (reason unavailable)",
    "remedy": "Check user name and password.",
}
SERVER = {"host": "mail.sender.test", "port": 465, "password": "right-pass-word"}
BODY = {"email": "Ann@Sender.test", "smtp": SERVER, "imap": SERVER | {"port": 993}}


async def test_both_legs_are_tested_with_one_token_before_anything_is_saved(
    tenant: Tenant, peers: Peers
) -> None:
    made = await tenant.mailbox(display_name="Ann")
    (send, sent), (read, asked) = peers.asked
    assert (send, read) == ("send", "read")
    assert sent["token"] == asked["token"]
    assert asked["wait_s"] > 0
    assert sent["smtp"]["username"] == "ann@sender.test"
    assert made["id"] == sent["mailbox_id"]
    for body in (sent, asked):
        assert body["workspace_id"] == tenant.id
        ids.decode("mbx", body["mailbox_id"])
    assert sent["mailbox_id"] == asked["mailbox_id"]
    assert made["last_send_test"]["ok"]
    assert made["last_read_test"]["ok"]
    (event,) = tenant.outbox("mailbox-changed")
    assert (event["mailbox_id"], event["version"]) == (made["id"], 1)
    assert "mailbox.connected" in tenant.audited()


async def test_a_failed_test_gives_the_servers_words_and_saves_nothing(
    tenant: Tenant, peers: Peers
) -> None:
    peers.send = REFUSED
    peers.read = {"ok": False, "code": "not_read_back", "message": "not there", "remedy": None}
    refused = await tenant.call("POST", "/v1/mailboxes", 422, json=BODY)
    assert refused["code"] == "connection_test_failed"
    assert refused["send"] == REFUSED
    assert REFUSED["message"] in refused["detail"]
    # Nothing was sent, so the reading leg only signed in.
    assert peers.asked[1][1]["wait_s"] == 0
    assert refused["read"]["code"] == "not_tested"
    assert (await tenant.call("GET", "/v1/mailboxes"))["items"] == []
    assert tenant.outbox("mailbox-changed") == []
    assert "right-pass-word" not in json.dumps(refused)


async def test_a_failed_reading_leg_saves_nothing_either(tenant: Tenant, peers: Peers) -> None:
    peers.read = REFUSED
    refused = await tenant.call("POST", "/v1/mailboxes", 422, json=BODY)
    assert refused["send"]["ok"] is True
    assert refused["read"] == REFUSED
    assert (await tenant.call("GET", "/v1/mailboxes"))["items"] == []


async def test_a_service_that_is_away_is_not_the_users_fault(tenant: Tenant, peers: Peers) -> None:
    peers.read = None
    away = await tenant.call("POST", "/v1/mailboxes", 503, json=BODY)
    assert away["code"] == "connection_test_unavailable"
    assert (await tenant.call("GET", "/v1/mailboxes"))["items"] == []


async def test_only_testing_saves_nothing(tenant: Tenant, peers: Peers) -> None:
    tested = await tenant.call("POST", "/v1/mailboxes?test=only", json=BODY)
    assert tested["ok"] is True
    peers.send = REFUSED
    tested = await tenant.call("POST", "/v1/mailboxes?test=only", json=BODY)
    assert (tested["ok"], tested["send"]["code"]) == (False, "auth_failed")
    assert (await tenant.call("GET", "/v1/mailboxes"))["items"] == []


async def test_secrets_never_come_back(tenant: Tenant) -> None:
    made = await tenant.mailbox()
    seen = [made, *(await tenant.call("GET", "/v1/mailboxes"))["items"]]
    seen.append(await tenant.call("GET", f"/v1/mailboxes/{made['id']}"))
    assert "right-pass-word" not in json.dumps(seen)
    assert "password" not in json.dumps(seen)
    invalid = BODY | {"imap": SERVER | {"port": "secret-as-port", "password": "x" * 2000}}
    assert "xxx" not in json.dumps(await tenant.call("POST", "/v1/mailboxes", 422, json=invalid))


async def test_credentials_are_sealed_for_their_scope_and_row(
    tenant: Tenant, peers: Peers, sender_keys: KeyService
) -> None:
    made = await tenant.mailbox()
    number = ids.decode("mbx", made["id"])
    (row,) = tenant.rows(
        "SELECT send_credential FROM gateway.mailbox WHERE workspace_id = %s", tenant.number
    )
    sealed = bytes(row["send_credential"])
    assert base64.b64decode(peers.asked[0][1]["credential"]) == sealed
    assert b"right-pass-word" not in sealed
    opened = await sender_keys.open("send", tenant.number, sealed, table="mailbox", row=number)
    assert json.loads(opened) == {"password": "right-pass-word"}


async def test_each_service_reads_its_own_view_and_only_its_credential(tenant: Tenant) -> None:
    await tenant.mailbox(policy={"cadence_s": 30})

    def read(role: str, view: str) -> list[Any]:
        return tenant.seen_by(role, f"SELECT * FROM gateway.{view}")

    assert len(read("sender", "v_mailbox_send")) == 1
    assert len(read("reply", "v_mailbox_read")) == 1
    assert len(read("scheduler", "v_mailbox")) == 1
    for role, view in (("sender", "v_mailbox_read"), ("reply", "v_mailbox_send")):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            read(role, view)


async def test_a_mailbox_is_connected_once(tenant: Tenant, peers: Peers) -> None:
    made = await tenant.mailbox("ann@sender.test")
    peers.asked.clear()
    taken = await tenant.call("POST", "/v1/mailboxes", 409, json=BODY)
    assert (taken["code"], taken["mailbox_id"]) == ("mailbox_exists", made["id"])
    assert peers.asked == []


async def test_two_who_connect_the_same_mailbox_at_once(tenant: Tenant) -> None:
    answers = await asyncio.gather(
        *(tenant.http.post("/v1/mailboxes", json=BODY) for _ in range(4))
    )
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409]
    assert len((await tenant.call("GET", "/v1/mailboxes"))["items"]) == 1


async def test_policy_faults_are_told_one_by_one(tenant: Tenant) -> None:
    body = BODY | {"policy": {"cadence_s": 0, "grace_s": 10}}
    refused = await tenant.call("POST", "/v1/mailboxes", 422, json=body)
    assert refused["code"] == "policy_invalid"
    assert {one["setting"] for one in refused["errors"]} == {"cadence_s", "jitter_s"}
    await tenant.call("POST", "/v1/mailboxes", 422, json=BODY | {"timezone": "Mars/Olympus"})


async def test_effective_policy_and_capacity_are_shown(tenant: Tenant) -> None:
    made = await tenant.mailbox(policy={"daily_cap": 5000, "windows": None})
    assert made["policy"] == {"daily_cap": 5000, "windows": None}
    assert made["effective_policy"]["cadence_s"] == 90


async def test_changes_raise_the_version_and_are_announced(tenant: Tenant, peers: Peers) -> None:
    made = await tenant.mailbox()
    path = f"/v1/mailboxes/{made['id']}"
    peers.asked.clear()
    changed = await tenant.call("PATCH", path, json={"policy": {"daily_cap": 7}})
    assert (changed["policy"], changed["version"]) == ({"daily_cap": 7}, 2)
    changed = await tenant.call(
        "PATCH", path, json={"display_name": "Ann B.", "timezone": "Europe/Berlin"}
    )
    assert (changed["display_name"], changed["timezone"]) == ("Ann B.", "Europe/Berlin")
    assert changed["policy"] == {"daily_cap": 7}
    assert [one["version"] for one in tenant.outbox("mailbox-changed")] == [1, 2, 3]
    assert peers.asked == []
    await tenant.call("PATCH", path, 422, json={"policy": {"grace_s": 9}})


async def test_single_settings_are_changed_switched_off_and_reset(tenant: Tenant) -> None:
    made = await tenant.mailbox(policy={"daily_cap": 7, "cadence_s": 30})
    path = f"/v1/mailboxes/{made['id']}"

    async def patch(**body: Any) -> dict[str, Any]:
        changed: dict[str, Any] = (await tenant.call("PATCH", path, json=body))["policy"]
        return changed

    assert await patch(policy={"ramp": None}) == {"daily_cap": 7, "cadence_s": 30, "ramp": None}
    assert await patch(policy_reset=["ramp", "daily_cap"]) == {"cadence_s": 30}
    assert await patch(policy_reset=["all"], policy={"daily_cap": 9}) == {"daily_cap": 9}
    refused = await tenant.call("PATCH", path, 422, json={"policy_reset": ["cadence"]})
    assert refused["errors"][0]["setting"] == "cadence"
    # The rest of the policy counts: what is fine alone may not be beside it.
    await patch(policy={"jitter_s": [20, 30], "grace_s": 15})
    refused = await tenant.call("PATCH", path, 422, json={"policy_reset": ["jitter_s"]})
    assert [one["setting"] for one in refused["errors"]] == ["jitter_s"]
    assert (await tenant.call("GET", path))["policy"]["jitter_s"] == [20, 30]


async def test_places_are_held_against_the_calendar(tenant: Tenant) -> None:
    made = await tenant.mailbox(policy={"country": "DE", "region": "BY"})
    assert made["effective_policy"]["region"] == "BY"
    path = f"/v1/mailboxes/{made['id']}"
    refused = await tenant.call("PATCH", path, 422, json={"policy": {"country": "FR"}})
    assert [one["setting"] for one in refused["errors"]] == ["region"]
    refused = await tenant.call("PATCH", path, 422, json={"policy_reset": ["country"]})
    assert "set country beside it" in refused["detail"]


@pytest.mark.parametrize(
    ("host", "email", "provider", "ceiling", "day_0"),
    [
        ("smtp.gmail.com", "ann@gmail.com", "gmail_consumer", 450, 20),
        ("smtp.gmail.com", "ann@sender.test", "google_workspace", 1800, 40),
        ("smtp.office365.com", "ann@sender.test", "microsoft365", 10_000, 30),
        ("smtp-mail.outlook.com", "ann@hotmail.co.uk", "outlook_consumer", None, 50),
        ("mail.sender.test", "ann@sender.test", "smtp", None, 50),
    ],
)
async def test_the_provider_is_found_and_decides_what_holds(
    tenant: Tenant, host: str, email: str, provider: str, ceiling: int | None, day_0: int
) -> None:
    made = await tenant.mailbox(email, smtp=SERVER | {"host": host})
    assert (made["provider"], made["provider_found"]) == (provider, provider)
    held = made["effective_policy"]
    assert held["ceiling_24h"] == ceiling
    assert held["ramp"] == {"curve": [[0, day_0], [30, 500]]}
    (row,) = tenant.seen_by("scheduler", "SELECT provider FROM gateway.v_mailbox")
    assert row["provider"] == provider


async def test_a_provider_can_be_told_and_found_again(tenant: Tenant) -> None:
    made = await tenant.mailbox(provider="google_workspace")
    assert (made["provider"], made["provider_found"]) == ("google_workspace", "smtp")
    path = f"/v1/mailboxes/{made['id']}"
    assert "mailbox.provider_set" in tenant.audited()
    # A new server does not take back what somebody said.
    server = SERVER | {"host": "smtp.office365.com"}
    moved = await tenant.call("PATCH", path, json={"smtp": server})
    assert (moved["provider"], moved["provider_found"]) == ("google_workspace", "microsoft365")
    found = await tenant.call("PATCH", path, json={"provider": None})
    assert found["provider"] == "microsoft365"
    assert tenant.audited().count("mailbox.provider_set") == 2
    node = await tenant.call("PATCH", path, json={"provider": "esp", "policy": {"rate_per_s": 5}})
    assert node["effective_policy"]["profile"] == "node"
    refused = await tenant.call("PATCH", path, 422, json={"provider": None})
    assert [one["setting"] for one in refused["errors"]] == ["rate_per_s"]


async def test_connecting_vouches_for_a_mailbox_in_use_and_says_so(tenant: Tenant) -> None:
    made = await tenant.mailbox()
    assert made["effective_policy"]["attested"] is True
    assert tenant.audited().count("mailbox.stage_attested") == 1
    new = await tenant.mailbox("new@sender.test", already_in_use=False)
    assert new["policy"] == {"attested": False}
    assert tenant.audited().count("mailbox.stage_attested") == 1
    path = f"/v1/mailboxes/{new['id']}"
    await tenant.call("PATCH", path, json={"policy": {"daily_cap": 5}})
    await tenant.call("PATCH", path, json={"policy_reset": ["attested"]})
    assert tenant.audited().count("mailbox.stage_attested") == 2
    await tenant.call("PATCH", path, json={"policy": {"attested": False}})
    assert tenant.audited()[-1] == "mailbox.attestation_withdrawn"
    body = BODY | {"email": "odd@sender.test", "already_in_use": False}
    refused = await tenant.call(
        "POST", "/v1/mailboxes", 422, json=body | {"policy": {"attested": True}}
    )
    assert refused["errors"][0]["setting"] == "attested"


async def test_a_capacity_stands_beside_the_caps_or_why_it_is_not_known(
    tenant: Tenant, peers: Peers
) -> None:
    made = await tenant.mailbox()
    assert (made["capacity"], made["capacity_unknown"]) == (None, "just_changed")
    path = f"/v1/mailboxes/{made['id']}"

    async def shown() -> list[tuple[Any, Any]]:
        one = await tenant.call("GET", path)
        (listed,) = (await tenant.call("GET", "/v1/mailboxes"))["items"]
        return [(both["capacity"], both["capacity_unknown"]) for both in (one, listed)]

    assert await shown() == [(None, "not_known_yet")] * 2
    capacity = {"per_day": 50, "bound_by": "ramp_cap", "parts": {"ramp_cap": 50, "cadence": 267}}
    peers.scheduler = {"schedule": (200, schedule_of(made["id"], capacity))}
    assert await shown() == [(capacity, None)] * 2
    assert f"/internal/schedule/{tenant.id}/{made['id']}" in [one for one, _ in peers.questions]
    no_such_route = (404, {"code": "not_found"})
    for broken in ((500, {}), (200, {"not": "understood"}), (200, "nonsense"), no_such_route):
        peers.scheduler = {"schedule": broken}
        assert await shown() == [(None, "scheduler_away")] * 2
    peers.scheduler = None
    assert await shown() == [(None, "scheduler_away")] * 2


async def test_reconnecting_begins_the_ramp_anew(tenant: Tenant) -> None:
    made = await tenant.mailbox()
    tenant.rows(
        "UPDATE gateway.mailbox SET connected_at = '2026-01-05T12:00Z' WHERE workspace_id = %s",
        tenant.number,
    )
    path = f"/v1/mailboxes/{made['id']}"
    assert (await tenant.call("GET", path))["effective_policy"]["ramp_from"] == "2026-01-05"
    await tenant.call("DELETE", path, 204)
    again = await tenant.mailbox()
    assert again["effective_policy"]["ramp_from"] > "2026-01-05"


async def test_a_new_password_is_tested_first(tenant: Tenant, peers: Peers) -> None:
    made = await tenant.mailbox()
    before = tenant.rows(
        "SELECT send_credential, read_credential FROM gateway.mailbox WHERE workspace_id = %s",
        tenant.number,
    )[0]
    path = f"/v1/mailboxes/{made['id']}"
    peers.send = REFUSED
    await tenant.call("PATCH", path, 422, json={"smtp": SERVER | {"password": "wrong"}})
    assert (
        before
        == tenant.rows(
            "SELECT send_credential, read_credential FROM gateway.mailbox WHERE workspace_id = %s",
            tenant.number,
        )[0]
    )
    peers.reset()
    await tenant.call("PATCH", path, json={"smtp": SERVER | {"password": "new", "port": 587}})
    after = tenant.rows(
        "SELECT send_credential, read_credential, smtp FROM gateway.mailbox"
        " WHERE workspace_id = %s",
        tenant.number,
    )[0]
    assert after["send_credential"] != before["send_credential"]
    assert after["read_credential"] == before["read_credential"]
    assert after["smtp"]["port"] == 587
    assert "mailbox.credential_changed" in tenant.audited()


async def test_a_passed_test_lets_a_held_mailbox_send_again(tenant: Tenant, peers: Peers) -> None:
    made = await tenant.mailbox()
    path = f"/v1/mailboxes/{made['id']}"

    async def held() -> list[str]:
        return [one["reason"] for one in (await tenant.call("GET", path))["suspensions"]]

    def hold(*reasons: str) -> None:
        for reason in reasons:
            tenant.seen_by(
                "sender", "SELECT scheduler.suspend(%s, 'mailbox', %s, %s, NULL, 'sender', NULL)",
                tenant.number, ids.decode("mbx", made["id"]), reason,
            )  # fmt: skip

    hold("auth_failed", "limited")
    peers.send = REFUSED
    tested = await tenant.call("POST", f"{path}/test")
    assert (tested["ok"], tested["send"]) == (False, REFUSED)
    assert await held() == ["auth_failed", "limited"]
    assert (await tenant.call("GET", path))["last_send_test"]["code"] == "auth_failed"
    peers.reset()
    assert (await tenant.call("POST", f"{path}/test"))["ok"] is True
    # A provider's limit is none of what a test can disprove.
    assert await held() == ["limited"]
    hold("sender_refused")
    await tenant.call("PATCH", path, json={"smtp": SERVER})
    assert await held() == ["limited"]


async def test_deactivating_shuts_the_gate_and_activating_opens_it(tenant: Tenant) -> None:
    made = await tenant.mailbox()
    path = f"/v1/mailboxes/{made['id']}"
    off = await tenant.call("PATCH", path, json={"is_active": False})
    assert off["is_active"] is False
    assert [one["reason"] for one in off["suspensions"]] == ["deactivated"]
    on = await tenant.call("PATCH", path, json={"is_active": True})
    assert (on["is_active"], on["suspensions"]) == (True, [])
    assert tenant.audited()[-2:] == ["mailbox.deactivated", "mailbox.activated"]


async def test_disconnecting_destroys_the_passwords_and_keeps_the_history(tenant: Tenant) -> None:
    made = await tenant.mailbox()
    pool = await tenant.pool(made["id"])
    campaign = await tenant.campaign(tiers=[[pool]])
    path = f"/v1/mailboxes/{made['id']}"
    await tenant.call("DELETE", path, 204)
    await tenant.call("DELETE", path, 204)
    assert tenant.rows(
        "SELECT send_credential, read_credential FROM gateway.mailbox WHERE workspace_id = %s",
        tenant.number,
    ) == [{"send_credential": None, "read_credential": None}]
    assert tenant.outbox("mailbox-changed")[-1]["deleted"] is True
    assert tenant.outbox("campaign-changed")[-1]["campaign_id"] == campaign
    assert (await tenant.call("GET", "/v1/mailboxes"))["items"] == []
    gone = await tenant.call("GET", path)
    assert [one["reason"] for one in gone["suspensions"]] == ["deactivated"]
    assert (await tenant.call("GET", f"/v1/pools/{pool}"))["mailboxes"] == []
    refused = await tenant.call("PATCH", path, 409, json={"is_active": True})
    assert refused["code"] == "mailbox_deleted"
    again = await tenant.mailbox()
    assert (again["id"], again["is_active"], again["suspensions"]) == (made["id"], True, [])
    assert tenant.audited().count("mailbox.disconnected") == 1
