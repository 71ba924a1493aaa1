"""Each service's key-service policy: what it allows works, everything else is denied."""

import base64
from collections.abc import Callable

import pytest
from tests.conformance.keys.conftest import Running

from paceline_common import grants
from paceline_common.keys import SCOPES, KeyAdmin, KeyDenied, KeyService, Scope

Service = Callable[..., KeyService]
_INPUT = base64.b64encode(b"text").decode()

# name → method, path (`{ws}` is a workspace with keys), body
CALLS: dict[str, tuple[str, str, object]] = {
    "seal send": ("POST", "transit/datakey/plaintext/send-{ws}", {}),
    "seal read": ("POST", "transit/datakey/plaintext/read-{ws}", {}),
    "seal gateway": ("POST", "transit/datakey/plaintext/gateway", {}),
    "seal mac": ("POST", "transit/datakey/plaintext/mac", {}),
    "wrap send": ("POST", "transit/datakey/wrapped/send-{ws}", {}),
    "encrypt send": ("POST", "transit/encrypt/send-{ws}", {"plaintext": _INPUT}),
    "open send": ("POST", "transit/decrypt/send-{ws}", {"ciphertext": "{send}"}),
    "open read": ("POST", "transit/decrypt/read-{ws}", {"ciphertext": "{read}"}),
    "open gateway": ("POST", "transit/decrypt/gateway", {"ciphertext": "{gateway}"}),
    "rewrap send": ("POST", "transit/rewrap/send-{ws}", {"ciphertext": "{send}"}),
    "mac": ("POST", "transit/hmac/mac", {"input": _INPUT}),
    "mac with a workspace key": ("POST", "transit/hmac/send-{ws}", {"input": _INPUT}),
    "verify mac": ("POST", "transit/verify/mac", {"input": _INPUT, "hmac": "{mac}"}),
    "sign": ("POST", "transit/sign/audit", {"input": _INPUT}),
    "verify signature": ("POST", "transit/verify/audit", {"input": _INPUT, "signature": "{sig}"}),
    "public key": ("GET", "transit/keys/audit", None),
    "workspace key": ("GET", "transit/keys/send-{ws}", None),
    "create key": ("POST", "transit/keys/send-{ws}", {}),
    "create other key": ("POST", "transit/keys/other", {}),
    "rotate key": ("POST", "transit/keys/read-{ws}/rotate", {}),
    "rotate mac": ("POST", "transit/keys/mac/rotate", {}),
    "allow deletion": ("POST", "transit/keys/read-{ws}/config", {"deletion_allowed": True}),
    "delete key": ("DELETE", "transit/keys/read-{ws}", None),
    "delete audit key": ("DELETE", "transit/keys/audit", None),
    "list keys": ("LIST", "transit/keys", None),
    "address hash": ("GET", "secret/data/address-hash", None),
    "set address hash": ("POST", "secret/data/address-hash", {"data": {"value": "eA=="}}),
    "delete address hash": ("DELETE", "secret/data/address-hash", None),
    "other secret": ("GET", "secret/data/other", None),
    "list secrets": ("LIST", "secret/metadata/", None),
    "own policy": ("GET", "sys/policies/acl/{self}", None),
    "rewrite own policy": ("PUT", "sys/policies/acl/{self}", {"policy": "{{}}"}),
    "new secret id": ("POST", "auth/approle/role/{self}/secret-id", {}),
    "mounts": ("GET", "sys/mounts", None),
    "unmount": ("DELETE", "sys/mounts/transit", None),
    "seal the key service": ("PUT", "sys/seal", None),
    "no such route": ("GET", "nowhere/at-all", None),
}
ALLOWED = {
    "gateway": {
        "seal send", "seal read", "seal gateway", "open gateway", "verify mac", "address hash",
    },
    "scheduler": {"address hash"},
    "sender": {"seal send", "open send", "mac"},
    "bounce": {"verify mac", "address hash"},
    "reply": {"seal read", "open read", "verify mac", "address hash"},
    "audit": {"sign", "public key"},
    "admin": {
        "workspace key", "create key", "rotate key", "allow deletion", "delete key", "public key",
        "seal gateway",
    },
}  # fmt: skip


@pytest.fixture
def values(running: Running, workspace: int) -> dict[str, str]:
    """What the calls need, made by root."""

    def made(path: str, field: str, body: object) -> str:
        return str(running.request("POST", path, body).json()["data"][field])

    return {
        "ws": str(workspace),
        "send": made(f"transit/datakey/wrapped/send-{workspace}", "ciphertext", {}),
        "read": made(f"transit/datakey/wrapped/read-{workspace}", "ciphertext", {}),
        "gateway": made("transit/datakey/wrapped/gateway", "ciphertext", {}),
        "mac": made("transit/hmac/mac", "hmac", {"input": _INPUT}),
        "sig": made("transit/sign/audit", "signature", {"input": _INPUT}),
    }


@pytest.mark.parametrize("principal", sorted(grants.key_policies()))
def test_a_principal_can_do_what_its_policy_says_and_is_denied_all_else(
    running: Running, values: dict[str, str], principal: str
) -> None:
    token = running.login(principal)
    done = set()
    for name, (method, path, body) in CALLS.items():
        filled = {**values, "self": principal}
        sent = body and {
            key: value.format(**filled) if isinstance(value, str) else value
            for key, value in dict(body).items()  # type: ignore[call-overload]
        }
        answer = running.request(method, path.format(**filled), sent, token=token)
        if answer.status_code in (200, 204):
            done.add(name)
        else:
            assert answer.status_code == 403, f"{name}: {answer.status_code} {answer.text}"
            assert "permission denied" in answer.json()["errors"][0]
    assert done == ALLOWED[principal]


async def test_the_gateway_seals_but_never_opens(service: Service, workspace: int) -> None:
    gateway = service("gateway")
    for scope in SCOPES:
        sealed = await gateway.seal(scope, workspace, b"x", table="mailbox", row=1)
        with pytest.raises(KeyDenied):
            await gateway.open(scope, workspace, sealed, table="mailbox", row=1)


async def test_each_reader_opens_its_own_scope_only(service: Service, workspace: int) -> None:
    gateway = service("gateway")
    strangers: list[tuple[Scope, str]] = [
        ("read", "sender"), ("send", "reply"), ("send", "scheduler"),
    ]  # fmt: skip
    for scope, stranger in strangers:
        sealed = await gateway.seal(scope, workspace, b"x", table="mailbox", row=1)
        with pytest.raises(KeyDenied):
            await service(stranger).open(scope, workspace, sealed, table="mailbox", row=1)
        with pytest.raises(KeyDenied):
            await service(stranger).seal(scope, workspace, b"x", table="mailbox", row=1)


@pytest.mark.parametrize("name", ["gateway", "scheduler", "sender", "bounce", "reply"])
async def test_nobody_but_audit_signs(service: Service, name: str) -> None:
    with pytest.raises(KeyDenied):
        await service(name).sign(b"checkpoint")


@pytest.mark.parametrize("name", ["gateway", "scheduler", "bounce", "reply", "audit"])
async def test_nobody_but_the_sender_makes_macs(service: Service, name: str) -> None:
    with pytest.raises(KeyDenied):
        await service(name).mac([b"job/1/1"])


@pytest.mark.parametrize("name", ["sender", "audit", "admin"])
async def test_who_hashes_no_addresses_cannot_read_the_hash_key(
    service: Service, name: str
) -> None:
    with pytest.raises(KeyDenied):
        await service(name).secret("address-hash")


@pytest.mark.parametrize("name", ["gateway", "sender", "reply", "audit"])
async def test_no_service_makes_or_destroys_keys(
    running: Running, workspace: int, name: str
) -> None:
    impostor = KeyAdmin(running.settings(name))
    try:
        for attempt in (
            impostor.create_workspace_keys(workspace + 1_000_000),
            impostor.rotate_workspace_keys(workspace),
            impostor.destroy_workspace_keys(workspace),
        ):
            with pytest.raises(KeyDenied):
                await attempt
    finally:
        impostor.close()


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("transit/encrypt/glob-ok", True),  # exact, over a denying glob
        ("transit/encrypt/glob-other", False),  # the longer glob denies
        ("transit/encrypt/existing", True),  # the shorter glob allows an update
        ("transit/encrypt/unheard-of", False),  # but not a creation
        ("transit/encrypt/plus", True),  # `+` earlier in the path gives way to the glob
        ("transit/decrypt/plus", True),  # one segment for the `+`
        ("transit/datakey/plaintext/plus", False),  # two segments are not one
        ("transit/decrypt/plus/more", False),  # and it is no prefix
    ],
)
def test_the_most_specific_rule_decides(running: Running, path: str, allowed: bool) -> None:
    for key in ("existing", "plus"):
        assert running.request("POST", f"transit/keys/{key}", {}).ok
    body: dict[str, str] = {"plaintext": _INPUT}
    if "decrypt" in path:
        wrapped = running.request("POST", "transit/encrypt/plus", body).json()["data"]
        body = {"ciphertext": wrapped["ciphertext"]}
    answer = running.request("POST", path, body, token=running.login("globs"))
    assert (answer.status_code == 200) is allowed, answer.text
    if not allowed:
        assert answer.status_code == 403


def test_capabilities_of_several_policies_add_up_and_deny_wins(running: Running) -> None:
    rules = {
        "adds-read": '{"path": {"secret/data/several": {"capabilities": ["read"]}}}',
        "adds-write": '{"path": {"secret/data/several": {"capabilities": ["create", "update"]}}}',
        "denies": '{"path": {"secret/data/several": {"capabilities": ["deny"]}}}',
    }
    for name, text in rules.items():
        assert running.request("PUT", f"sys/policies/acl/{name}", {"policy": text}).ok

    def attempt(*policies: str) -> tuple[int, int]:
        role = "auth/approle/role/several"
        assert running.request("POST", role, {"token_policies": list(policies)}).ok
        login = {
            "role_id": running.request("GET", f"{role}/role-id").json()["data"]["role_id"],
            "secret_id": running.request("POST", f"{role}/secret-id", {}).json()["data"][
                "secret_id"
            ],
        }
        answer = running.request("POST", "auth/approle/login", login, token="")
        token = answer.json()["auth"]["client_token"]
        write = {"data": {"value": "eA=="}}
        return (
            running.request("POST", "secret/data/several", write, token=token).status_code,
            running.request("GET", "secret/data/several", token=token).status_code,
        )

    assert attempt("adds-write") == (200, 403)
    assert attempt("adds-read") == (403, 200)
    assert attempt("adds-read", "adds-write") == (200, 200)
    assert attempt("adds-read", "adds-write", "denies") == (403, 403)
