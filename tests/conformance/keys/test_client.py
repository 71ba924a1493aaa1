"""What `paceline_common.keys` promises, held on the real Vault and on the twin."""

import logging
import traceback
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import SecretStr
from tests.conformance.keys.conftest import Running

from paceline_common.clock import ManualClock
from paceline_common.keys import (
    KeyAdmin,
    KeyDenied,
    KeyMissing,
    KeyService,
    KeyServiceUnavailable,
    Scope,
    SealBroken,
    provision,
    verify_signature,
)

Service = Callable[..., KeyService]
PASSWORD = b'{"password": "correct horse"}'


@pytest.mark.parametrize("plaintext", [b"", b"\x00", PASSWORD, bytes(range(256)) * 300])
@pytest.mark.parametrize(("scope", "opener"), [("send", "sender"), ("read", "reply")])
async def test_what_the_gateway_seals_the_service_of_the_scope_opens(
    service: Service, workspace: int, scope: Scope, opener: str, plaintext: bytes
) -> None:
    sealed = await service("gateway").seal(scope, workspace, plaintext, table="mailbox", row=9)
    opened = await service(opener).open(scope, workspace, sealed, table="mailbox", row=9)
    assert opened == plaintext


async def test_two_seals_of_one_value_have_nothing_in_common_and_do_not_show_it(
    service: Service, workspace: int
) -> None:
    gateway = service("gateway")
    one = await gateway.seal("send", workspace, PASSWORD, table="mailbox", row=9)
    two = await gateway.seal("send", workspace, PASSWORD, table="mailbox", row=9)
    assert one[-len(PASSWORD) :] != two[-len(PASSWORD) :]
    assert PASSWORD not in one


@pytest.mark.parametrize(("table", "row"), [("mailbox", 10), ("oauth", 9), ("mailbox", "9x")])
async def test_a_sealed_value_moved_to_another_place_is_broken(
    service: Service, workspace: int, table: str, row: int | str
) -> None:
    sealed = await service("gateway").seal("send", workspace, PASSWORD, table="mailbox", row=9)
    with pytest.raises(SealBroken):
        await service("sender").open("send", workspace, sealed, table=table, row=row)


async def test_a_sealed_value_moved_to_another_workspace_or_scope_is_broken(
    service: Service, workspace: int, new_workspace: Callable[[], int], admin: KeyAdmin
) -> None:
    other = new_workspace()
    await admin.create_workspace_keys(other)
    sealed = await service("gateway").seal("send", workspace, PASSWORD, table="mailbox", row=9)
    with pytest.raises(SealBroken):
        await service("sender").open("send", other, sealed, table="mailbox", row=9)
    with pytest.raises(SealBroken):
        await service("reply").open("read", workspace, sealed, table="mailbox", row=9)


async def test_a_sealed_value_with_any_part_altered_is_broken(
    service: Service, workspace: int
) -> None:
    sealed = await service("gateway").seal("send", workspace, PASSWORD, table="mailbox", row=9)
    sender = service("sender")
    wrapped_end = 3 + int.from_bytes(sealed[1:3], "big")
    version, length, prefix, wrapped_key = 0, 2, 4, wrapped_end - 12
    nonce, body, tag = wrapped_end + 3, wrapped_end + 14, len(sealed) - 1
    for place in (version, length, prefix, wrapped_key, nonce, body, tag):
        altered = bytearray(sealed)
        altered[place] ^= 1
        with pytest.raises(SealBroken):
            await sender.open("send", workspace, bytes(altered), table="mailbox", row=9)


@pytest.mark.parametrize(
    "rubbish", [b"", b"\x01", b"\x01\x00\x00", b"\x01\xff\xff" + b"v" * 20, b"\x02" * 200, b"\xff"]
)
async def test_what_was_never_sealed_is_broken(
    service: Service, workspace: int, rubbish: bytes
) -> None:
    with pytest.raises(SealBroken):
        await service("sender").open("send", workspace, rubbish, table="mailbox", row=9)


async def test_after_rotation_old_values_open_and_new_ones_use_the_new_version(
    service: Service, workspace: int, admin: KeyAdmin
) -> None:
    gateway, sender = service("gateway"), service("sender")
    old = await gateway.seal("send", workspace, PASSWORD, table="mailbox", row=9)
    await admin.rotate_workspace_keys(workspace)
    new = await gateway.seal("send", workspace, PASSWORD, table="mailbox", row=9)
    assert b"vault:v1:" in old
    assert b"vault:v2:" in new
    for sealed in (old, new):
        assert await sender.open("send", workspace, sealed, table="mailbox", row=9) == PASSWORD


async def test_creating_a_workspaces_keys_again_keeps_them(
    service: Service, workspace: int, admin: KeyAdmin
) -> None:
    sealed = await service("gateway").seal("read", workspace, PASSWORD, table="mailbox", row=9)
    await admin.create_workspace_keys(workspace)
    opened = await service("reply").open("read", workspace, sealed, table="mailbox", row=9)
    assert opened == PASSWORD


async def test_once_a_workspaces_keys_are_destroyed_nothing_opens_and_nothing_is_sealed(
    service: Service, workspace: int, admin: KeyAdmin
) -> None:
    gateway = service("gateway")
    sealed = await gateway.seal("send", workspace, PASSWORD, table="mailbox", row=9)
    await admin.destroy_workspace_keys(workspace)
    with pytest.raises(SealBroken):
        await service("sender").open("send", workspace, sealed, table="mailbox", row=9)
    with pytest.raises(KeyMissing):
        await gateway.seal("send", workspace, PASSWORD, table="mailbox", row=9)
    with pytest.raises(KeyMissing):
        await admin.rotate_workspace_keys(workspace)
    await admin.destroy_workspace_keys(workspace)


async def test_keys_made_anew_after_destruction_do_not_open_what_the_old_ones_sealed(
    service: Service, workspace: int, admin: KeyAdmin
) -> None:
    sealed = await service("gateway").seal("send", workspace, PASSWORD, table="mailbox", row=9)
    await admin.destroy_workspace_keys(workspace)
    await admin.create_workspace_keys(workspace)
    with pytest.raises(SealBroken):
        await service("sender").open("send", workspace, sealed, table="mailbox", row=9)


async def test_a_batch_of_sealed_values_opens_as_each_of_them_does(
    service: Service, workspace: int
) -> None:
    gateway, sender = service("gateway"), service("sender")
    values = {
        row: await gateway.seal("send", workspace, b"%d" % row, table="mailbox", row=row)
        for row in (1, 2, 3)
    }
    good = await sender.open_all("send", workspace, values, table="mailbox")
    assert good == {1: b"1", 2: b"2", 3: b"3"}
    # Moved; and no sealed value at all.
    moved = await sender.open_all(
        "send", workspace, {1: values[1], 2: values[3], 3: b"?"}, table="mailbox"
    )
    assert moved.pop(1) == b"1"
    assert all(isinstance(one, SealBroken) for one in moved.values())
    assert moved.keys() == {2, 3}
    assert await sender.open_all("send", workspace, {}, table="mailbox") == {}


async def test_a_value_whose_key_does_not_unwrap_spoils_no_other_of_its_batch(
    service: Service, workspace: int
) -> None:
    gateway, sender = service("gateway"), service("sender")
    good = await gateway.seal("send", workspace, PASSWORD, table="mailbox", row=1)
    bad = await gateway.seal("send", workspace, PASSWORD, table="mailbox", row=2)
    # In the last characters of the wrapped key.
    end = 3 + int.from_bytes(bad[1:3], "big")
    altered = bad[: end - 4] + (b"AAAA" if bad[end - 4 : end] != b"AAAA" else b"BBBB") + bad[end:]
    opened = await sender.open_all("send", workspace, {1: good, 2: altered}, table="mailbox")
    assert opened[1] == PASSWORD
    assert isinstance(opened[2], SealBroken)


async def test_macs_of_a_batch_verify_in_their_order_and_for_no_other_message(
    service: Service,
) -> None:
    messages = [f"job/7/{number}".encode() for number in range(300)]
    macs = await service("sender").mac(messages)
    assert len(set(macs)) == 300
    assert all(len(mac) == 45 and mac.startswith("1.") for mac in macs)
    gateway = service("gateway")
    assert await gateway.verify_mac(messages, macs) == [True] * 300
    assert await gateway.verify_mac(messages[1:], macs[:-1]) == [False] * 299
    assert await service("sender").mac(messages) == macs


async def test_an_empty_batch_of_macs_is_empty(service: Service) -> None:
    assert await service("sender").mac([]) == []
    assert await service("gateway").verify_mac([], []) == []


async def test_malformed_and_forged_macs_are_not_valid_and_do_not_spoil_the_batch(
    service: Service,
) -> None:
    message = b"unsubscribe/7/12"
    [mac] = await service("sender").mac([message])
    body = mac.removeprefix("1.")
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    forged = [
        "", ".", "1.", "1", body, f"0.{body}", f"9.{body}", f"01.{body}", f"-1.{body}",
        f"1.{body}=",
        f"1.{body[:-1]}", f"1.{body}A", f"1.{'A' * 43}", f" {mac}", f"{mac}\n", f"1.{body[::-1]}",
        f"١.{body}", f"1.{body}{body}", "vault:v1:" + body, mac.replace(".", ":"),
        # The same bytes in another spelling of base64.
        f"1.{body[:-1]}{last[(last.index(body[-1]) & ~3) | ((last.index(body[-1]) + 1) & 3)]}",
    ]  # fmt: skip
    verdicts = await service("bounce").verify_mac([message] * (len(forged) + 1), [*forged, mac])
    assert verdicts == [False] * len(forged) + [True]


async def test_messages_and_macs_of_unequal_number_are_a_bug(service: Service) -> None:
    with pytest.raises(ValueError):
        await service("gateway").verify_mac([b"a", b"b"], ["1.x"])


async def test_audits_signature_verifies_with_the_public_key_alone(service: Service) -> None:
    audit = service("audit")
    signature = await audit.sign(b"checkpoint 1")
    keys = await audit.public_keys()
    assert [len(key) for key in keys.values()] == [32]
    assert verify_signature(b"checkpoint 1", signature, keys)
    assert not verify_signature(b"checkpoint 2", signature, keys)
    assert not verify_signature(b"checkpoint 1", signature, {1: bytes(31) + b"\x01"})
    assert not verify_signature(b"checkpoint 1", signature, {2: keys[1]})
    assert not verify_signature(b"checkpoint 1", "1.short", keys)


async def test_every_reader_of_the_address_hash_key_sees_one_key_for_ever(
    service: Service, running: Running
) -> None:
    names = ("gateway", "scheduler", "bounce", "reply")
    first = {await service(name).secret("address-hash") for name in names}
    provision(running.url, running.root_token, {})
    second = {await service(name).secret("address-hash") for name in names}
    assert first == second
    assert [len(value) for value in first] == [32]


async def test_a_secret_that_does_not_exist_is_missing(service: Service) -> None:
    with pytest.raises(KeyMissing):
        await service("reader").secret("absent")


async def test_a_service_that_is_known_is_ready(service: Service) -> None:
    await service("scheduler").check()


async def test_a_wrong_secret_id_is_denied(service: Service) -> None:
    with pytest.raises(KeyDenied):
        await service("gateway", keys_secret_id=SecretStr("wrong")).check()


async def test_a_revoked_token_is_replaced_without_the_caller_noticing(
    service: Service, running: Running, workspace: int
) -> None:
    gateway = service("gateway")
    await gateway.check()
    token = gateway._session._token
    assert running.request("POST", "auth/token/revoke-self", {}, token=token).status_code == 204
    sealed = await gateway.seal("send", workspace, PASSWORD, table="mailbox", row=9)
    opened = await service("sender").open("send", workspace, sealed, table="mailbox", row=9)
    assert opened == PASSWORD


async def test_a_token_is_renewed_in_the_last_third_of_its_life_and_replaced_after_it(
    service: Service, running: Running
) -> None:
    # With the login gone, only a renewal can lead to success, and only a login to a denial.
    running.request("POST", "auth/approle/role/passing", {"token_policies": ["reader"],
                    "token_ttl": "1h", "token_max_ttl": "24h"})  # fmt: skip
    role = running.request("GET", "auth/approle/role/passing/role-id").json()["data"]["role_id"]
    secret = running.request("POST", "auth/approle/role/passing/secret-id", {}).json()["data"]
    clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    login = {"keys_role_id": role, "keys_secret_id": SecretStr(secret["secret_id"])}
    passing = service("reader", clock, **login)
    await passing.check()
    assert running.request("POST", "auth/approle/role/passing/role-id", {"role_id": "gone"}).ok
    for _ in range(3):
        clock.advance(timedelta(minutes=45))
        await passing.check()
    clock.advance(timedelta(minutes=61))
    with pytest.raises(KeyDenied):
        await passing.check()


async def test_a_key_service_that_is_away_is_unavailable(service: Service) -> None:
    away = service("gateway", keys_url="http://127.0.0.1:9")
    with pytest.raises(KeyServiceUnavailable):
        await away.seal("send", 1, PASSWORD, table="mailbox", row=9)
    with pytest.raises(KeyServiceUnavailable):
        await away.check()


async def test_a_sealed_key_service_is_unavailable_not_denied(own_running: Running) -> None:
    async with KeyService(own_running.settings("sender")) as sender:
        await sender.check()
        assert own_running.request("PUT", "sys/seal").status_code == 204
        with pytest.raises(KeyServiceUnavailable):
            await sender.mac([b"job/1/1"])
        with pytest.raises(KeyServiceUnavailable):
            await sender.check()


async def test_no_log_and_no_error_shows_a_token_a_secret_or_a_plaintext(
    service: Service, workspace: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    gateway, sender = service("gateway"), service("sender")
    sealed = await gateway.seal("send", workspace, PASSWORD, table="mailbox", row=9)
    assert await sender.open("send", workspace, sealed, table="mailbox", row=9) == PASSWORD
    shown = caplog.text
    for attempt in (
        gateway.open("send", workspace, sealed, table="mailbox", row=9),
        sender.open("send", workspace, sealed, table="mailbox", row=8),
        service("gateway", keys_url="http://127.0.0.1:9").check(),
    ):
        with pytest.raises(Exception) as raised:
            await attempt
        error: BaseException | None = raised.value
        shown += "".join(traceback.format_exception(raised.value))
        while error is not None:
            # Error reporters walk the chain, and a request would show its headers and body.
            assert not hasattr(error, "request")
            shown += repr(vars(error))
            error = error.__cause__ or error.__context__
    secret_id = gateway._session._secret_id.get_secret_value()
    for secret in (gateway._session._token, sender._session._token, secret_id, PASSWORD.decode()):
        assert secret is not None
        assert secret not in shown
