"""The raw HTTP API: what the twin must answer because Vault does, in status and in words."""

import base64
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest
import requests
from tests.conformance.keys.conftest import Running

_ONE = base64.b64encode(b"one").decode()
_TWO = base64.b64encode(b"two").decode()


@pytest.fixture(scope="module")
def names() -> Iterator[str]:
    return (f"raw-{number}" for number in count())


@pytest.fixture
def key(running: Running, names: Iterator[str]) -> str:
    """The name of a new AES key."""
    name = next(names)
    assert running.request("POST", f"transit/keys/{name}", {"type": "aes256-gcm96"}).ok
    return name


@pytest.fixture
def post(running: Running) -> Callable[..., tuple[int, Any]]:
    """Posts as root; returns the status and `data`, or the errors."""

    def post(path: str, body: object) -> tuple[int, Any]:
        answer = running.request("POST", path, body)
        content = answer.json() if answer.content else {}
        return answer.status_code, content.get("data") or content.get("errors")

    return post


Post = Callable[..., tuple[int, Any]]


def test_health_needs_no_token(running: Running) -> None:
    answer = running.request("GET", "sys/health", token="")
    assert answer.status_code == 200
    assert answer.json()["initialized"] is True
    assert answer.json()["sealed"] is False


def test_health_of_a_sealed_one_is_503(own_running: Running) -> None:
    assert own_running.request("PUT", "sys/seal").status_code == 204
    answer = own_running.request("GET", "sys/health", token="")
    assert answer.status_code == 503
    assert answer.json()["sealed"] is True
    answer = own_running.request("GET", "transit/keys/mac")
    assert (answer.status_code, answer.json()) == (503, {"errors": ["Vault is sealed"]})


@pytest.mark.parametrize("token", ["", "hvs.unknown"])
def test_without_a_good_token_everything_is_denied(running: Running, token: str) -> None:
    answer = running.request("GET", "transit/keys/mac", token=token)
    assert answer.status_code == 403
    assert "permission denied" in answer.json()["errors"][0]


def test_login_wants_both_ids(running: Running) -> None:
    good = running.login("gateway")
    assert good
    for body, words in (
        ({"role_id": "x", "secret_id": "y"}, "invalid role or secret ID"),
        ({"role_id": running.logins["gateway"].role_id, "secret_id": "y"},
         "invalid role or secret ID"),
        ({"role_id": running.logins["gateway"].role_id}, "missing secret_id"),
    ):  # fmt: skip
        answer = running.request("POST", "auth/approle/login", body, token="")
        assert answer.status_code == 400
        assert answer.json()["errors"] == [words]


def test_a_token_looks_itself_up_renews_and_revokes_itself(running: Running) -> None:
    token = running.login("gateway")
    looked = running.request("GET", "auth/token/lookup-self", token=token).json()["data"]
    assert looked["policies"] == ["default", "gateway"]
    assert 3500 < looked["ttl"] <= 3600
    renewed = running.request("POST", "auth/token/renew-self", {}, token=token).json()["auth"]
    assert renewed["client_token"] == token
    assert renewed["renewable"] is True
    assert 3500 < renewed["lease_duration"] <= 3600
    assert running.request("POST", "auth/token/revoke-self", {}, token=token).status_code == 204
    assert running.request("GET", "auth/token/lookup-self", token=token).status_code == 403


def test_an_unknown_route_is_404(running: Running) -> None:
    answer = running.request("GET", "nowhere/at-all")
    assert answer.status_code == 404
    assert answer.json()["errors"] == [
        'no handler for route "nowhere/at-all". route entry not found.'
    ]


def test_a_body_that_is_not_json_is_500(running: Running) -> None:
    answer = requests.post(
        f"{running.url}/v1/transit/keys/mac",
        data=b"{not json",
        headers={"X-Vault-Token": running.root_token.get_secret_value()},
        timeout=10,
    )
    assert answer.status_code == 500


def test_a_policy_reads_back_and_a_broken_one_is_refused(running: Running) -> None:
    text = 'path "secret/data/x" { capabilities = ["read"] }'
    path = "sys/policies/acl/reads-back"
    assert running.request("PUT", path, {"policy": text}).status_code == 204
    assert running.request("GET", path).json()["data"]["policy"] == text
    for broken in ("path {", '{"path": {"x": {"capabilities": ["fly"]}}}', "nonsense"):
        assert running.request("PUT", path, {"policy": broken}).status_code == 400
    assert running.request("GET", "sys/policies/acl/absent").status_code == 404


def test_mounting_twice_is_refused(running: Running) -> None:
    for path, kind in (("sys/mounts/transit", "transit"), ("sys/auth/approle", "approle")):
        answer = running.request("POST", path, {"type": kind})
        assert answer.status_code == 400
        assert "path is already in use" in answer.json()["errors"][0]
    assert "transit/" in running.request("GET", "sys/mounts").json()["data"]
    assert "approle/" in running.request("GET", "sys/auth").json()["data"]


@pytest.mark.parametrize(
    ("kind", "cipher", "signing"),
    [("aes256-gcm96", True, False), ("ed25519", False, True), ("hmac", False, False)],
)
def test_a_key_describes_itself(
    running: Running, names: Iterator[str], kind: str, cipher: bool, signing: bool
) -> None:
    path = f"transit/keys/{next(names)}"
    body = {"type": kind} | ({"key_size": 32} if kind == "hmac" else {})
    assert running.request("POST", path, body).status_code == 200
    data = running.request("GET", path).json()["data"]
    assert data["type"] == kind
    assert data["latest_version"] == 1
    assert data["supports_encryption"] is cipher
    assert data["supports_signing"] is signing
    assert data["deletion_allowed"] is False
    if kind != "hmac":
        assert list(data["keys"]) == ["1"]


def test_making_an_existing_key_changes_nothing(post: Post, key: str) -> None:
    _, sealed = post(f"transit/encrypt/{key}", {"plaintext": _ONE})
    assert post(f"transit/keys/{key}", {"type": "aes256-gcm96"})[0] == 200
    assert post(f"transit/decrypt/{key}", {"ciphertext": sealed["ciphertext"]}) == (
        200,
        {"plaintext": _ONE},
    )


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"type": "rot13"}, 400),
        ({"type": "hmac", "key_size": 8}, 400),
        ({"type": "ed25519", "key_size": 32}, 400),
        ({"type": "hmac"}, 500),
    ],
)
def test_a_key_of_no_sense_is_refused(
    running: Running, post: Post, names: Iterator[str], body: object, status: int
) -> None:
    path = f"transit/keys/{next(names)}"
    assert post(path, body)[0] == status
    assert running.request("GET", path).status_code == 404


def test_a_key_goes_only_when_deletion_is_allowed(running: Running, post: Post, key: str) -> None:
    path = f"transit/keys/{key}"
    refused = running.request("DELETE", path)
    assert refused.status_code == 400
    assert "deletion is not allowed for this key" in refused.json()["errors"][0]
    assert post(f"{path}/config", {"deletion_allowed": True})[0] == 200
    assert running.request("DELETE", path).status_code == 204
    assert running.request("GET", path).status_code == 404
    assert running.request("GET", path).json() == {"errors": []}
    assert running.request("DELETE", path).status_code == 400


def test_calls_on_an_unknown_key_are_400_in_vaults_words(post: Post) -> None:
    expected = {
        "transit/decrypt/nokey": ({"ciphertext": "vault:v1:AAAA"}, "encryption key not found"),
        "transit/rewrap/nokey": ({"ciphertext": "vault:v1:AAAA"}, "encryption key not found"),
        "transit/datakey/plaintext/nokey": ({}, "encryption key not found"),
        "transit/hmac/nokey": ({"input": _ONE}, "encryption key not found"),
        "transit/verify/nokey": (
            {"input": _ONE, "hmac": "vault:v1:AAAA"}, "encryption key not found",
        ),
        "transit/sign/nokey": ({"input": _ONE}, "signing key not found"),
        "transit/keys/nokey/rotate": ({}, "key not found"),
        "transit/keys/nokey/config": (
            {"deletion_allowed": True}, "no existing key named nokey could be found",
        ),
    }  # fmt: skip
    for path, (body, words) in expected.items():
        assert (path, *post(path, body)) == (path, 400, [words])


def test_encrypting_makes_a_missing_key(post: Post, names: Iterator[str]) -> None:
    name = next(names)
    status, sealed = post(f"transit/encrypt/{name}", {"plaintext": _ONE})
    assert status == 200
    assert sealed["ciphertext"].startswith("vault:v1:")
    assert sealed["key_version"] == 1


@pytest.mark.parametrize(
    ("ciphertext", "words"),
    [
        ("rubbish", "invalid ciphertext: no prefix"),
        ("vault:v1", "invalid ciphertext: wrong number of fields"),
        ("vault:vx:AAAA", "invalid ciphertext: version number could not be decoded"),
        ("vault:v7:AAAA", "invalid ciphertext: version is too new"),
        ("vault:v1:!!!!", "invalid ciphertext: could not decode base64"),
        ("vault:v1:AAAA", "invalid ciphertext length"),
        ("vault:v1:" + "A" * 80, "cipher: message authentication failed"),
        ("", "missing ciphertext to decrypt"),
    ],
)
def test_a_broken_ciphertext_is_400_in_vaults_words(
    post: Post, key: str, ciphertext: str, words: str
) -> None:
    assert post(f"transit/decrypt/{key}", {"ciphertext": ciphertext}) == (400, [words])


def test_associated_data_must_be_the_same_on_the_way_back(post: Post, key: str) -> None:
    _, sealed = post(f"transit/encrypt/{key}", {"plaintext": _ONE, "associated_data": _TWO})
    back = {"ciphertext": sealed["ciphertext"]}
    assert post(f"transit/decrypt/{key}", back | {"associated_data": _TWO})[0] == 200
    assert post(f"transit/decrypt/{key}", back | {"associated_data": _ONE})[0] == 400
    assert post(f"transit/decrypt/{key}", back)[0] == 400


def test_a_batch_with_one_fault_is_400_and_still_tells_of_each(post: Post, key: str) -> None:
    status, sealed = post(
        f"transit/encrypt/{key}", {"batch_input": [{"plaintext": _ONE}, {"plaintext": _TWO}]}
    )
    assert status == 200
    batch = [{"ciphertext": item["ciphertext"]} for item in sealed["batch_results"]]
    status, opened = post(f"transit/decrypt/{key}", {"batch_input": batch})
    assert (status, [item["plaintext"] for item in opened["batch_results"]]) == (200, [_ONE, _TWO])
    status, opened = post(
        f"transit/decrypt/{key}", {"batch_input": [batch[0], {"ciphertext": "rubbish"}]}
    )
    assert status == 400
    assert opened["batch_results"][0]["plaintext"] == _ONE
    assert opened["batch_results"][1]["error"] == "invalid ciphertext: no prefix"
    assert post(f"transit/decrypt/{key}", {"batch_input": []}) == (
        400,
        ["missing batch input to process"],
    )


def test_rewrap_moves_to_the_newest_version_and_an_old_one_can_be_shut_out(
    post: Post, key: str
) -> None:
    _, old = post(f"transit/encrypt/{key}", {"plaintext": _ONE})
    assert post(f"transit/keys/{key}/rotate", {})[0] == 200
    status, new = post(f"transit/rewrap/{key}", {"ciphertext": old["ciphertext"]})
    assert (status, new["ciphertext"][:9]) == (200, "vault:v2:")
    assert post(f"transit/decrypt/{key}", {"ciphertext": new["ciphertext"]})[1] == {
        "plaintext": _ONE
    }
    status, batch = post(
        f"transit/rewrap/{key}", {"batch_input": [{"ciphertext": old["ciphertext"]}] * 2}
    )
    assert [item["ciphertext"][:9] for item in batch["batch_results"]] == ["vault:v2:"] * 2
    assert post(f"transit/keys/{key}/config", {"min_decryption_version": 2})[0] == 200
    assert post(f"transit/decrypt/{key}", {"ciphertext": old["ciphertext"]}) == (
        400,
        ["ciphertext or signature version is disallowed by policy (too old)"],
    )
    assert post(f"transit/keys/{key}/config", {"min_decryption_version": 3})[0] == 400


@pytest.mark.parametrize(("bits", "size"), [(128, 16), (256, 32), (512, 64)])
def test_a_data_key_opens_to_what_it_showed(post: Post, key: str, bits: int, size: int) -> None:
    status, shown = post(f"transit/datakey/plaintext/{key}", {"bits": bits})
    assert (status, len(base64.b64decode(shown["plaintext"]))) == (200, size)
    _, opened = post(f"transit/decrypt/{key}", {"ciphertext": shown["ciphertext"]})
    assert opened["plaintext"] == shown["plaintext"]


def test_a_wrapped_data_key_shows_nothing(post: Post, key: str) -> None:
    status, wrapped = post(f"transit/datakey/wrapped/{key}", {})
    assert status == 200
    assert "plaintext" not in wrapped
    assert post(f"transit/datakey/otherwise/{key}", {})[0] == 400
    assert post(f"transit/datakey/plaintext/{key}", {"bits": 100})[0] == 400


@pytest.mark.parametrize("algorithm", ["sha2-224", "sha2-256", "sha2-384", "sha2-512"])
def test_the_algorithm_of_a_mac_stands_in_the_body_or_in_the_path(
    post: Post, key: str, algorithm: str
) -> None:
    status, one = post(f"transit/hmac/{key}", {"input": _ONE, "algorithm": algorithm})
    assert status == 200
    assert post(f"transit/hmac/{key}/{algorithm}", {"input": _ONE}) == (200, one)
    check = {"input": _ONE, "hmac": one["hmac"]}
    assert post(f"transit/verify/{key}/{algorithm}", check) == (200, {"valid": True})
    assert post(f"transit/verify/{key}", check | {"algorithm": algorithm}) == (
        200,
        {"valid": True},
    )


def test_a_batch_of_macs_is_200_whatever_its_items_are(post: Post, key: str) -> None:
    _, one = post(f"transit/hmac/{key}", {"input": _ONE})
    items = [
        {"input": _ONE, "hmac": one["hmac"]},
        {"input": _TWO, "hmac": one["hmac"]},
        {"input": _ONE, "hmac": "rubbish"},
        {"input": _ONE, "hmac": one["hmac"].replace(":v1:", ":v9:")},
    ]
    status, verdicts = post(f"transit/verify/{key}", {"batch_input": items})
    results = verdicts["batch_results"]
    assert status == 200
    assert [item["valid"] for item in results] == [True, False, False, False]
    assert [item.get("error", "") for item in results] == [
        "", "", "invalid HMAC to verify: no prefix", "invalid HMAC: version is too new",
    ]  # fmt: skip
    assert post(f"transit/verify/{key}", items[2]) == (
        400,
        ["invalid HMAC to verify: no prefix"],
    )


def test_signatures_by_one_and_by_batch(post: Post, names: Iterator[str], key: str) -> None:
    signer = next(names)
    assert post(f"transit/keys/{signer}", {"type": "ed25519"})[0] == 200
    status, signed = post(f"transit/sign/{signer}", {"input": _ONE, "prehashed": False})
    assert status == 200
    check = {"input": _ONE, "signature": signed["signature"]}
    assert post(f"transit/verify/{signer}", check) == (200, {"valid": True})
    assert post(f"transit/verify/{signer}", check | {"input": _TWO}) == (200, {"valid": False})
    status, batch = post(f"transit/sign/{signer}", {"batch_input": [{"input": _ONE}] * 2})
    assert [item["signature"] for item in batch["batch_results"]] == [signed["signature"]] * 2
    assert post(f"transit/sign/{key}", {"input": _ONE}) == (
        400,
        ["key type aes256-gcm96 does not support signing"],
    )


def test_a_secret_has_versions_and_is_replaced_only_as_cas_allows(
    running: Running, names: Iterator[str]
) -> None:
    path = f"secret/data/{next(names)}/deep"
    assert running.request("GET", path).status_code == 404
    first = running.request("POST", path, {"options": {"cas": 0}, "data": {"value": "a"}})
    assert (first.status_code, first.json()["data"]["version"]) == (200, 1)
    again = running.request("POST", path, {"options": {"cas": 0}, "data": {"value": "b"}})
    assert again.status_code == 400
    assert again.json()["errors"] == ["check-and-set parameter did not match the current version"]
    assert running.request("POST", path, {"data": {"value": "c"}}).json()["data"]["version"] == 2
    read = running.request("GET", path).json()["data"]
    assert (read["data"], read["metadata"]["version"]) == ({"value": "c"}, 2)
    assert running.request("DELETE", path).status_code == 204
    assert running.request("GET", path).status_code == 404


def test_lists_show_names_and_folders(running: Running, names: Iterator[str], key: str) -> None:
    assert key in running.request("LIST", "transit/keys").json()["data"]["keys"]
    folder = next(names)
    for leaf in ("b", "a/deeper"):
        running.request("POST", f"secret/data/{folder}/{leaf}", {"data": {"value": "x"}})
    listed = running.request("LIST", f"secret/metadata/{folder}").json()["data"]["keys"]
    assert listed == ["a/", "b"]
    by_get = running.request("GET", f"secret/metadata/{folder}?list=true").json()["data"]["keys"]
    assert by_get == listed
    assert running.request("LIST", "secret/metadata/absent").status_code == 404
