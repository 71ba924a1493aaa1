"""Which host a user may make us dial, and at which address.

The name is resolved once; every address must be public unless the operator
allowed it. The caller dials an address from here and keeps the name for TLS,
so that a second answer of the DNS cannot lead elsewhere.
"""

import asyncio
import ipaddress
import socket
from dataclasses import dataclass
from typing import Final, Literal

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_RESOLVE_S: Final = 10.0
# RFC 6052: the last 32 bits are an IPv4 address.
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")


class HostRefused(Exception):
    """The host must not, or cannot, be dialled; `str()` says why in words for its user."""

    def __init__(self, code: Literal["dns_failed", "host_not_allowed"], message: str) -> None:
        super().__init__(message)
        self.code: Final = code


@dataclass(frozen=True, slots=True)
class Target:
    """A host that may be dialled: its `name` for TLS, its `addresses` to try in order."""

    name: str
    addresses: tuple[str, ...]
    port: int


class HostPolicy:
    """The operator's rule for hosts that users name.

    `allowlist`: comma list of CIDRs, addresses or host names that may be non-public.
    Raises `ValueError` for an entry that is none of them.
    """

    def __init__(self, allowlist: str = "") -> None:
        self._networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
        self._names: set[str] = set()
        for entry in filter(None, (part.strip() for part in allowlist.split(","))):
            try:
                self._networks.append(ipaddress.ip_network(entry))
            except ValueError:
                if "/" in entry or " " in entry:
                    raise ValueError(f"neither a CIDR nor a host name: {entry!r}") from None
                self._names.add(_plain(entry))

    async def resolve(self, host: str, port: int) -> Target:
        """Return where to dial `host` (a name or an address); raise `HostRefused`."""
        name = _plain(host)
        if not name:
            raise HostRefused("dns_failed", "no host name was given")
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_RESOLVE_S):
                found = await loop.getaddrinfo(name, port, type=socket.SOCK_STREAM)
        except TimeoutError:
            raise HostRefused("dns_failed", f"{name}: the DNS does not answer") from None
        except (OSError, UnicodeError) as error:
            words = error.strerror if isinstance(error, OSError) else "not a host name"
            raise HostRefused("dns_failed", f"{name}: {words}") from None
        addresses = tuple(dict.fromkeys(str(entry[4][0]) for entry in found))
        if name not in self._names:
            for address in addresses:
                if not self._may_dial(ipaddress.ip_address(address)):
                    raise HostRefused(
                        "host_not_allowed", f"{name} leads to {address}, which is not public"
                    )
        return Target(name, addresses, port)

    def _may_dial(self, address: Address) -> bool:
        if any(address in network for network in self._networks):
            return True
        real = _embedded(address)
        if real is not address and any(real in network for network in self._networks):
            return True
        return real.is_global and not real.is_multicast


def _plain(host: str) -> str:
    return host.strip().rstrip(".").removeprefix("[").removesuffix("]").lower()


def _embedded(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 one merely wraps."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped or address.sixtofour:
        return address.ipv4_mapped or address.sixtofour or address
    if address.teredo:
        return address.teredo[1]
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address
