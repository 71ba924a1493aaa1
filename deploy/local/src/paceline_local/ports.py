"""Loopback ports of the stack: chosen once, kept while they are free."""

import hashlib
import socket
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

LOOPBACK: Final = "127.0.0.1"

# Below Linux's ephemeral range (32768 up), so that no outgoing connection takes one.
_FIRST: Final = 20_000
_COUNT: Final = 12_000


def is_free(port: int) -> bool:
    """Return whether a server could listen on `port` of the loopback address now."""
    with socket.socket() as probe:
        # Servers set it too: a connection in TIME_WAIT does not hold the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


class Ports(Mapping[str, int]):
    """Name → port, stored in a file of `PACELINE_PORT_<NAME>=<port>` lines."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ports = _read(path)

    def __getitem__(self, name: str) -> int:
        return self._ports[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._ports)

    def __len__(self) -> int:
        return len(self._ports)

    def assign(self, names: Iterable[str], in_use: Iterable[str]) -> list[str]:
        """Give every name a port and store them; return the names whose old port was taken.

        A name in `in_use` keeps its port untested: a process of this stack listens there.
        """
        # Another process of this stack may have chosen since this one read the file.
        self._ports = _read(self._path)
        kept, moved = set(in_use), []
        for name in names:
            port = self._ports.get(name)
            if port is not None and (name in kept or is_free(port)):
                continue
            if port is not None:
                moved.append(name)
            self._ports[name] = self._choose(name)
        temporary = self._path.with_suffix(".new")
        temporary.write_text(
            "".join(f"PACELINE_PORT_{n.upper()}={p}\n" for n, p in sorted(self._ports.items()))
        )
        temporary.replace(self._path)
        return moved

    def _choose(self, name: str) -> int:
        # Two stacks start looking at different places, so that they seldom race.
        seed = hashlib.sha256(f"{self._path}/{name}".encode()).digest()
        start = int.from_bytes(seed[:4])
        taken = set(self._ports.values())
        for step in range(_COUNT):
            port = _FIRST + (start + step) % _COUNT
            if port not in taken and is_free(port):
                return port
        raise OSError("no free loopback port between 20000 and 31999")


def _read(path: Path) -> dict[str, int]:
    if not path.exists():
        return {}
    lines = (line.partition("=") for line in path.read_text().splitlines())
    return {
        key.removeprefix("PACELINE_PORT_").lower(): int(value)
        for key, _, value in lines
        if value.isdigit()
    }
