"""What may be sent along: types and names of files, and the images that an HTML body shows."""

import mimetypes
import re
from typing import Final

# What Gmail and Outlook refuse in any message (their lists of blocked types).
BLOCKED_SUFFIXES: Final = frozenset({
    "ade", "adp", "apk", "appinstaller", "appx", "appxbundle", "application", "asp", "aspx",
    "bas", "bat", "cab", "cer", "chm", "class", "cmd", "com", "cpl", "crt", "csh", "dll", "dmg",
    "ex", "ex_", "exe", "fxp", "gadget", "hlp", "hta", "htc", "img", "inf", "ins", "iso", "isp",
    "jar", "jnlp", "js", "jse", "ksh", "lib", "lnk", "mad", "maf", "mde", "mdt", "msc", "msh",
    "msh1", "msh2", "mshxml", "msi", "msix", "msixbundle", "msp", "mst", "nsh", "ocx", "ops",
    "osd", "pcd", "pif", "pl", "plg", "prf", "prg", "ps1", "ps1xml", "ps2", "psc1", "psc2", "py",
    "pyc", "reg", "scf", "scr", "sct", "shb", "shs", "sys", "url", "vb", "vbe", "vbp", "vbs",
    "vhd", "vhdx", "vxd", "wsc", "wsf", "wsh", "xbap", "xll", "xnk",
})  # fmt: skip
# RFC 6838 §4.2.
_TYPE: Final = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,63}/[a-z0-9][a-z0-9!#$&^_.+-]{0,63}")
_CONTENT_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,119}")
_CID: Final = re.compile(r"""["'(]\s*cid:([^"'()\s>]+)""", re.IGNORECASE)
# Their content may not be base64 (RFC 2045 §6.4), or says how it is put together.
_COMPOSITE: Final = ("multipart/", "message/")


def content_type(given: str | None, filename: str) -> str | None:
    """Return the file's type, by its name where none was given; None for one not to be sent."""
    named = (given or "").partition(";")[0].strip().lower()
    if not named or named in ("application/octet-stream", "application/x-www-form-urlencoded"):
        named = mimetypes.guess_type(filename, strict=False)[0] or "application/octet-stream"
    if _TYPE.fullmatch(named) is None or named.startswith(_COMPOSITE):
        return None
    return named


def is_blocked(filename: str) -> bool:
    """Tell whether receivers refuse files of this name, also with a harmless-looking middle."""
    return filename.rpartition(".")[2].strip().lower() in BLOCKED_SUFFIXES


def is_content_id(text: str) -> bool:
    """Tell whether `text` can name an inline image (`cid:` in the HTML, RFC 2392)."""
    return _CONTENT_ID.fullmatch(text) is not None


def cids(html: str) -> set[str]:
    """Return the content ids that an HTML body shows."""
    return set(_CID.findall(html))
