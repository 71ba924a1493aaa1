"""Addresses of recipients as they come in: judged, in their one spelling, hashed."""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from email_validator import EmailNotValidError, validate_email

from paceline_common.address import AddressHasher, InvalidAddress, normalise

_ATOM: Final = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
# The plain form of nearly all addresses: an ASCII dot-atom (RFC 5322 §3.2.3) of at most 64 octets
# before the @. What follows it is for the library.
_PLAIN: Final = re.compile(rf"(?=[^@]{{1,64}}@)({_ATOM}(?:\.{_ATOM})*)@([A-Za-z0-9.-]+)")
# RFC 5321 §4.5.3.1.3, without the angle brackets.
_LENGTH_MAX: Final = 254
_DOMAINS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Recipient:
    """An address that can be written to, and the keyed hashes of it and of its domain."""

    email: str
    address_hash: bytes
    domain_hash: bytes


class Recipients:
    """Reads addresses; remembers the domains it has met.

    With `accept_test_domains` addresses in `.test` (RFC 2606) are taken too;
    they reach nobody.
    """

    def __init__(self, hasher: AddressHasher, *, accept_test_domains: bool) -> None:
        self._hasher = hasher
        self._accept_test = accept_test_domains
        self._domain = lru_cache(_DOMAINS)(self._judge_domain)

    def read(self, text: str) -> Recipient | str:
        """Return the recipient; or what is wrong with the address, without repeating it."""
        stripped = text.strip()
        plain = _PLAIN.fullmatch(stripped)
        if plain is not None and len(stripped) <= _LENGTH_MAX:
            local, domain = plain.groups()
            known = self._domain(domain)
            if known is not None:
                email = f"{local.lower()}@{known[0]}"
                return Recipient(email, self._hasher.normal_address(email), known[1])
        try:
            email = judge(stripped, accept_test_domains=self._accept_test)
        except EmailNotValidError as error:
            return _without_quotes(str(error))
        except InvalidAddress as error:
            return str(error)
        return Recipient(email, self._hasher.normal_address(email), self._hasher.domain(email))

    def _judge_domain(self, domain: str) -> tuple[str, bytes] | None:
        """Return an ASCII domain's one spelling and its hash; None: ask about the whole address.

        Whether a plain local part may stand before a domain does not depend on
        the local part, except for the length of what an A-label stands for.
        """
        if "xn--" in domain.lower():
            return None
        try:
            normal = judge(f"a@{domain}", accept_test_domains=self._accept_test)
        except (EmailNotValidError, InvalidAddress):
            return None
        return normal.partition("@")[2], self._hasher.domain(normal)


def judge(email: str, *, accept_test_domains: bool) -> str:
    """Return an address in its one spelling; raise `EmailNotValidError` or `InvalidAddress`."""
    checked = validate_email(
        email, check_deliverability=False, test_environment=accept_test_domains
    )
    return normalise(checked.normalized)


def _without_quotes(text: str) -> str:
    # The library quotes parts of the address in some sentences.
    return text.split(":")[0].split("'")[0].strip()
