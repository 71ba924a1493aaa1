"""Which provider a mailbox is at: it decides where the ramp starts and which ceiling holds."""

import re
from typing import Final, Literal, get_args

Provider = Literal[
    "gmail_consumer", "google_workspace", "microsoft365", "outlook_consumer", "yahoo", "smtp", "esp"
]
PROVIDERS: Final[tuple[Provider, ...]] = get_args(Provider)
# How a mailbox is reached.
Kind = Literal["smtp", "gmail", "graph"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

# The tenant of every private Microsoft account: `tid` in Microsoft's "ID token claims reference".
MICROSOFT_CONSUMERS: Final = "9188040d-6c67-4c5b-b112-36a304b66dad"

_GOOGLE_HOSTS: Final = frozenset({"smtp.gmail.com", "smtp.googlemail.com"})
_GOOGLE_CONSUMERS: Final = frozenset({"gmail.com", "googlemail.com"})
_OUTLOOK_HOSTS: Final = frozenset({"smtp-mail.outlook.com", "smtp.live.com"})
# A national edition, not a company's subdomain: outlook.fr, hotmail.co.uk, never live.acme.com.
_EDITION: Final = r"\.(com|[a-z]{2}|com?\.[a-z]{2})"
_OUTLOOK_CONSUMERS: Final = re.compile(rf"(outlook|hotmail|live|msn){_EDITION}")
_YAHOO_HOSTS: Final = frozenset({"smtp.mail.yahoo.com", "smtp.bizmail.yahoo.com"})
_YAHOO_CONSUMERS: Final = re.compile(rf"yahoo{_EDITION}|ymail\.com|rocketmail\.com")


def derive(
    kind: str, domain: str, smtp_host: str | None = None, tenant: str | None = None
) -> Provider:
    """Return the provider of a mailbox of `kind` at this email domain.

    `smtp_host` is its SMTP server, `tenant` what an API's provider calls its
    organisation (Google: the hosted domain; Microsoft: the tenant's id); names in
    any case. The provider's own server says who it is; an address at a domain of
    private persons is theirs wherever it is submitted. Anything else is `smtp`:
    no ceiling is known of it.
    """
    at = domain.lower()
    if kind == "gmail":
        # A private account has no mailbox at another domain, whatever it is called.
        return "gmail_consumer" if at in _GOOGLE_CONSUMERS and not tenant else "google_workspace"
    if kind == "graph":
        private = tenant == MICROSOFT_CONSUMERS or _OUTLOOK_CONSUMERS.fullmatch(at)
        return "outlook_consumer" if private else "microsoft365"
    if kind != "smtp":
        return "esp"
    host = (smtp_host or "").lower().rstrip(".")
    if at in _GOOGLE_CONSUMERS:
        return "gmail_consumer"
    if host in _GOOGLE_HOSTS:
        return "google_workspace"
    if host in _OUTLOOK_HOSTS or _OUTLOOK_CONSUMERS.fullmatch(at):
        return "outlook_consumer"
    if host == "smtp.office365.com":
        return "microsoft365"
    if host in _YAHOO_HOSTS or _YAHOO_CONSUMERS.fullmatch(at):
        return "yahoo"
    return "smtp"
