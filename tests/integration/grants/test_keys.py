"""What each service's own key-service login may do, tried on the real Vault."""

import base64
import hashlib

import hvac
import pytest
from hvac.exceptions import Forbidden

from paceline_common import grants
from paceline_local.stack import Stack

WORKSPACE = 9_007_199_254_740_993
TEXT = base64.b64encode(b"text").decode()


def sign_in(stack: Stack, principal: str) -> hvac.Client:
    client = hvac.Client(url=f"http://127.0.0.1:{stack.ports['keys']}")
    client.auth.approle.login(
        stack.passwords.get(principal, "paceline_keys_role_id"),
        stack.passwords.get(principal, "paceline_keys_secret_id"),
    )
    return client


@pytest.fixture(scope="module")
def sealed(stack: Stack) -> dict[str, str]:
    """A data key of each scope, wrapped: made as the gateway makes them."""
    admin = sign_in(stack, "admin")
    found = {}
    for scope in ("send", "read"):
        admin.secrets.transit.create_key(f"{scope}-{WORKSPACE}", key_type="aes256-gcm96")
        answer = sign_in(stack, "gateway").secrets.transit.generate_data_key(
            f"{scope}-{WORKSPACE}", "plaintext"
        )
        found[scope] = answer["data"]["ciphertext"]
    # An installation's own key: there from the start.
    answer = admin.secrets.transit.generate_data_key("gateway", "plaintext")
    return found | {"gateway": answer["data"]["ciphertext"]}


OPERATIONS = ("seal-send", "seal-read", "open-send", "open-read", "mac", "verify-mac", "sign",
              "mac-by-path", "sign-by-path", "address-hash", "make-key", "list-policies",
              "read-other-secret", "seal-gateway", "open-gateway")  # fmt: skip
ALLOWED = {
    "gateway": {
        "seal-send", "seal-read", "seal-gateway", "open-gateway", "verify-mac", "address-hash",
    },
    "scheduler": {"address-hash"},
    "sender": {"seal-send", "open-send", "mac"},
    "bounce": {"verify-mac", "address-hash"},
    "reply": {"seal-read", "open-read", "verify-mac", "address-hash"},
    "audit": {"sign"},
    "admin": {"make-key", "seal-gateway"},
}  # fmt: skip


def attempt(client: hvac.Client, operation: str, sealed: dict[str, str]) -> None:
    """Ask for one operation; `-by-path` names the algorithm in the path, which no service does."""
    transit = client.secrets.transit
    verb, _, scope = operation.partition("-")
    key = scope if scope == "gateway" else f"{scope}-{WORKSPACE}"
    if verb == "seal":
        transit.generate_data_key(key, "plaintext")
    elif verb == "open":
        transit.decrypt_data(key, sealed[scope])
    elif operation == "mac":
        client.write_data("transit/hmac/mac", data={"input": TEXT, "algorithm": "sha2-256"})
    elif operation == "mac-by-path":
        client.write_data("transit/hmac/mac/sha2-256", data={"input": TEXT})
    elif operation == "verify-mac":
        digest = base64.b64encode(hashlib.sha256(b"no").digest()).decode()
        client.write_data("transit/verify/mac", data={"input": TEXT, "hmac": f"vault:v1:{digest}"})
    elif operation == "sign":
        client.write_data("transit/sign/audit", data={"input": TEXT, "prehashed": False})
    elif operation == "sign-by-path":
        client.write_data("transit/sign/audit/sha2-512", data={"input": TEXT})
    elif operation == "address-hash":
        client.secrets.kv.v2.read_secret_version("address-hash", raise_on_deleted_version=True)
    elif operation == "make-key":
        transit.create_key(f"send-{WORKSPACE + 1}", key_type="aes256-gcm96")
    elif operation == "list-policies":
        client.sys.list_acl_policies()
    else:
        client.secrets.kv.v2.read_secret_version("anything", raise_on_deleted_version=True)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("principal", [p.name for p in grants.PRINCIPALS])
def test_policy_allows_what_is_declared_and_nothing_else(
    stack: Stack, sealed: dict[str, str], principal: str, operation: str
) -> None:
    client = sign_in(stack, principal)
    if operation in ALLOWED[principal]:
        attempt(client, operation, sealed)
    else:
        with pytest.raises(Forbidden):
            attempt(client, operation, sealed)
