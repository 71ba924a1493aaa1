"""Links of the open pixel and of tracked clicks: the sender makes them, the gateway reads them.

`https://<the mailbox's tracking domain>/t/o/<workspace>.<job>.<mac>` is the pixel,
`…/t/c/<workspace>.<job>.<number of the link>.<base64url of the target>.<mac>` a link.
The MAC covers everything before it, the target included: the gateway leads to
nothing that the sender did not write.
"""

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Final

from paceline_common import ids

MAX_TARGET: Final = 1500  # with the rest well below what browsers and proxies take
# What may be written into a Location header as it is (RFC 3986, ASCII).
_TARGET: Final = re.compile(r"https?://[!-~]+", re.IGNORECASE)
MAX_LINKS: Final = 999
_NUMBER: Final = re.compile(r"[1-9][0-9]{0,2}")


@dataclass(frozen=True, slots=True)
class Link:
    """What a link says, with what its MAC must cover. An open has `number` 0 and no target."""

    workspace_id: int
    job_id: int
    number: int
    target: str | None
    signed: bytes
    mac: str


def is_target(url: str) -> bool:
    """Tell whether a click on `url` can be tracked: http(s), printable ASCII, not too long."""
    return len(url) <= MAX_TARGET and _TARGET.fullmatch(url) is not None


def open_token(workspace: str, job: str) -> str:
    """Return the part of an open pixel's path that the MAC covers (public ids)."""
    return f"{workspace}.{job}"


def click_token(workspace: str, job: str, number: int, target: str) -> str:
    """Return the part of a link's path that the MAC covers (public ids; links count from 1)."""
    encoded = base64.urlsafe_b64encode(target.encode()).rstrip(b"=").decode()
    return f"{workspace}.{job}.{number}.{encoded}"


def open_mac_input(token: str) -> bytes:
    """Return what the MAC of an open pixel covers."""
    return f"open/{token}".encode()


def click_mac_input(token: str) -> bytes:
    """Return what the MAC of a link covers."""
    return f"click/{token}".encode()


def open_url(domain: str, token: str, mac: str) -> str:
    """Return the address of an open pixel."""
    return f"https://{domain}/t/o/{token}.{mac}"


def click_url(domain: str, token: str, mac: str) -> str:
    """Return the address that stands in a message for a link's own."""
    return f"https://{domain}/t/c/{token}.{mac}"


def read_open(text: str) -> Link | None:
    """Read the last part of an open pixel's path; None if it is not one. The MAC is not checked."""
    parts = text.split(".", 2)
    if len(parts) != 3:
        return None
    workspace, job, mac = parts
    return _link(workspace, job, 0, None, open_mac_input(open_token(workspace, job)), mac)


def read_click(text: str) -> Link | None:
    """Read the last part of a tracked link's path; None if it is not one. MAC not checked."""
    parts = text.split(".", 4)
    if len(parts) != 5:
        return None
    workspace, job, number, encoded, mac = parts
    try:
        raw = base64.b64decode(encoded + "=" * (-len(encoded) % 4), b"-_", validate=True)
        target = raw.decode("ascii")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return None
    if _NUMBER.fullmatch(number) is None or not is_target(target):
        return None
    signed = click_mac_input(f"{workspace}.{job}.{number}.{encoded}")
    return _link(workspace, job, int(number), target, signed, mac)


def _link(
    workspace: str, job: str, number: int, target: str | None, signed: bytes, mac: str
) -> Link | None:
    try:
        numbers = ids.decode("ws", workspace), ids.decode("job", job)
    except ids.InvalidIdError:
        return None
    return Link(*numbers, number, target, signed, mac)
