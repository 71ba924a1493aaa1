"""TLS to hosts that users name: one context for each choice a node may make."""

import ssl
from functools import cache
from pathlib import Path
from typing import Final, Literal

TlsVersion = Literal["1.2", "1.3"]
"""The oldest version to speak; older ones than 1.2 are not offered (RFC 8996)."""

_VERSIONS: Final[dict[TlsVersion, ssl.TLSVersion]] = {
    "1.2": ssl.TLSVersion.TLSv1_2,
    "1.3": ssl.TLSVersion.TLSv1_3,
}


@cache
def context(
    ca_file: Path | None, minimum: TlsVersion = "1.2", verify: bool = True
) -> ssl.SSLContext:
    """Return the client context: the system's CAs and `ca_file` are trusted, names checked.

    Without `verify` any certificate will do: whoever sits in between reads the password.
    """
    made = ssl.create_default_context()
    made.minimum_version = _VERSIONS[minimum]
    if ca_file is not None:
        made.load_verify_locations(cafile=ca_file)
    if not verify:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    return made
