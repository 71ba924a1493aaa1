"""Which hosts may be dialled: public ones, and those the operator allows."""

import asyncio
import socket
from typing import Any

import pytest

from paceline_providers.hosts import HostPolicy, HostRefused

NOT_PUBLIC = [
    "127.0.0.1", "127.8.9.10", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254",
    "100.64.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "240.0.0.1",
    "::1", "::", "fe80::1", "fc00::1", "ff02::1", "2001:db8::1",
    # IPv4 in IPv6's clothes
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b::7f00:1",
    "2002:7f00:1::", "2002:a00:1::1",
]  # fmt: skip
PUBLIC = ["93.184.215.14", "8.8.8.8", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "64:ff9b::808:808"]


@pytest.fixture
def dns(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """The DNS as the test wants it: name → addresses."""
    names: dict[str, list[str]] = {}

    async def getaddrinfo(_: Any, host: str, port: int, **__: Any) -> list[Any]:
        found = names.get(host, [host])
        return [
            (socket.AF_INET6 if ":" in address else socket.AF_INET, None, 0, "", (address, port))
            for address in found
        ]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)
    return names


@pytest.mark.parametrize("address", NOT_PUBLIC)
async def test_an_address_that_is_not_public_is_refused(
    address: str, dns: dict[str, list[str]]
) -> None:
    dns["mail.example"] = [address]
    for host in ("mail.example", address):
        with pytest.raises(HostRefused) as refused:
            await HostPolicy().resolve(host, 587)
        assert refused.value.code == "host_not_allowed"
        assert address in str(refused.value)


@pytest.mark.parametrize("address", PUBLIC)
async def test_a_public_address_is_dialled_under_its_name(
    address: str, dns: dict[str, list[str]]
) -> None:
    dns["mail.example"] = [address]
    target = await HostPolicy().resolve("Mail.Example.", 465)
    assert (target.name, target.addresses, target.port) == ("mail.example", (address,), 465)


async def test_one_private_address_among_public_ones_refuses_the_host(
    dns: dict[str, list[str]],
) -> None:
    dns["mail.example"] = ["8.8.8.8", "10.0.0.1"]
    with pytest.raises(HostRefused):
        await HostPolicy().resolve("mail.example", 587)


async def test_the_name_is_resolved_once_and_each_address_is_offered_once(
    dns: dict[str, list[str]],
) -> None:
    dns["mail.example"] = ["8.8.8.8", "8.8.4.4", "8.8.8.8"]
    target = await HostPolicy().resolve("mail.example", 587)
    dns["mail.example"] = ["127.0.0.1"]
    assert target.addresses == ("8.8.8.8", "8.8.4.4")


@pytest.mark.parametrize(
    ("allowlist", "host", "allowed"),
    [
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "::ffff:10.1.2.3", True),
        ("10.0.0.0/8", "192.168.0.1", False),
        ("192.168.0.1", "192.168.0.1", True),
        ("fd00::/8, 10.0.0.0/8", "fd12::1", True),
        (" MAIL.example , 10.0.0.0/8", "mail.example", True),
        ("mail.example", "other.example", False),
        ("mail.example", "sub.mail.example", False),
        ("mail.example", "192.168.7.7", False),
    ],
)
async def test_the_operator_allows_networks_and_names(
    allowlist: str, host: str, allowed: bool, dns: dict[str, list[str]]
) -> None:
    for name in ("mail.example", "other.example", "sub.mail.example"):
        dns[name] = ["192.168.7.7"]
    policy = HostPolicy(allowlist)
    if allowed:
        assert (await policy.resolve(host, 587)).addresses
    else:
        with pytest.raises(HostRefused):
            await policy.resolve(host, 587)


@pytest.mark.parametrize("allowlist", ["10.0.0.0/33", "10.0.0.1/8", "mail example"])
def test_a_mistaken_allowlist_is_an_error_at_start(allowlist: str) -> None:
    with pytest.raises(ValueError):
        HostPolicy(allowlist)


@pytest.mark.parametrize("host", ["", " ", "no-such-host.invalid", "a" * 64 + ".example", "\x00"])
async def test_what_does_not_resolve_is_dns_failed(host: str) -> None:
    with pytest.raises(HostRefused) as refused:
        await HostPolicy().resolve(host, 587)
    assert refused.value.code == "dns_failed"


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "127.1", "[::1]", "localhost"])
async def test_odd_spellings_of_loopback_are_refused(host: str) -> None:
    with pytest.raises(HostRefused) as refused:
        await HostPolicy().resolve(host, 587)
    assert refused.value.code == "host_not_allowed"
