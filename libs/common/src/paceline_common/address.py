"""Email addresses: one spelling each, and the keyed hash that outlives the lead.

Suppressions hold hashes, so that an address is remembered without being kept.
Whether an address can receive mail is not judged here.
"""

import hmac
import re
import unicodedata
from typing import Final

import idna

# RFC 5321 §4.5.3.1, in octets.
_LOCAL_MAX: Final = 64
_DOMAIN_MAX: Final = 253
_LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
# White space, control and format characters, surrogates, unassigned.
_UNPRINTABLE: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zs", "Zl", "Zp"})
_QUOTED: Final = re.compile(r'<?[^\s<>"(),;]+@[^\s<>"(),;]+>?')


class InvalidAddress(ValueError):
    """The text cannot be an email address or a domain; the message does not repeat it."""


def normalise(email: str) -> str:
    """Return the one spelling of an address: NFC, lower case, the domain as A-labels.

    RFC 5321 lets hosts tell `Ann@` from `ann@`; none that matters does, and
    contacting somebody again who unsubscribed under the other spelling would.
    Raises `InvalidAddress` unless there is a single `@` between a printable
    local part (at most 64 octets) and a domain that IDNA 2008 can encode.
    """
    local, separator, domain = email.strip().partition("@")
    if not separator or not local or "@" in domain:
        raise InvalidAddress("an address has one @ between two parts")
    if any(unicodedata.category(char) in _UNPRINTABLE for char in local):
        raise InvalidAddress("the part before the @ has a character that cannot be printed")
    # Lower case first: it can undo the composed form.
    local = unicodedata.normalize("NFC", unicodedata.normalize("NFC", local).lower())
    if len(local.encode()) > _LOCAL_MAX:
        raise InvalidAddress("the part before the @ is too long")
    return f"{local}@{normalise_domain(domain)}"


def normalise_domain(domain: str) -> str:
    """Return a domain in lower case and A-labels, without a final dot.

    Raises `InvalidAddress` for what cannot be a domain; an address literal
    (`[192.0.2.1]`) is none.
    """
    text = domain.strip().removesuffix(".").lower()
    if not text.isascii():
        try:
            text = idna.encode(text, uts46=True, transitional=False).decode("ascii")
        except (idna.IDNAError, UnicodeError):
            raise InvalidAddress("the domain cannot be encoded") from None
    if len(text) > _DOMAIN_MAX or not all(_LABEL.fullmatch(part) for part in text.split(".")):
        raise InvalidAddress("the domain has an empty, too long or forbidden label")
    return text


def without_addresses(text: str) -> str:
    """Return a server's words as everybody may read them: without the addresses that they quote."""
    return _QUOTED.sub("<address>", text)


class AddressHasher:
    """Keyed hashes of addresses and domains (HMAC-SHA-256, 32 bytes).

    `key` is the installation's `address-hash` secret; without it nobody can
    tell by guessing whose hash it is.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) < 32:
            raise ValueError("the address-hash key has fewer than 32 bytes")
        self._key = key

    def address(self, email: str) -> bytes:
        """Return the hash of an address, however it is spelt; raise `InvalidAddress`."""
        return self._digest(b"address", normalise(email))

    def domain(self, email_or_domain: str) -> bytes:
        """Return the hash of an address's domain, or of a domain; raise `InvalidAddress`."""
        if "@" in email_or_domain:
            return self._digest(b"domain", normalise(email_or_domain).rpartition("@")[2])
        return self._digest(b"domain", normalise_domain(email_or_domain))

    def normal_address(self, normal: str) -> bytes:
        """Return the hash of an address that is in its one spelling already (`normalise`)."""
        return self._digest(b"address", normal)

    def _digest(self, kind: bytes, text: str) -> bytes:
        return hmac.digest(self._key, kind + b"\0" + text.encode(), "sha256")
