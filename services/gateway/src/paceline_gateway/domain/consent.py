"""What a person is asked to consent to, leg by leg, and what each grant allows.

`docs/oauth-grants.md` is generated from `GRANTS`; a test holds it against what the
providers say of these scopes.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, get_args

from paceline_gateway.domain.provider import Kind

OAuthProvider = Literal["google", "microsoft"]
OAUTH_PROVIDERS: Final[tuple[OAuthProvider, ...]] = get_args(OAuthProvider)
# `servers`: SMTP and IMAP, signed in to with the grant instead of a password.
Access = Literal["full", "send_and_read", "servers"]
ACCESSES: Final[tuple[Access, ...]] = get_args(Access)
Leg = Literal["both", "send", "read"]

GOOGLE: Final = "https://www.googleapis.com/auth/"
GRAPH: Final = "https://graph.microsoft.com/"
OFFICE: Final = "https://outlook.office.com/"

# Whose mailbox it is, and its display name.
_PROFILE: Final[dict[OAuthProvider, tuple[str, ...]]] = {
    "google": ("openid", "email", "profile"),
    "microsoft": ("openid", "email", "profile", "offline_access"),
}


@dataclass(frozen=True, slots=True)
class Grant:
    """One way to consent: the scopes of each leg, and what comes of them.

    With one consent (`separate` false) both legs hold all scopes. `fence`: drafts, whose
    deletion proves that nothing was sent. `threads`: follow-ups join the conversation by the
    provider's own id. `reads_back`: the sender learns the Message-ID that recipients see.
    `finds_sent`: sent mail can be looked through when a submission is in doubt.
    """

    provider: OAuthProvider
    access: Access
    separate: bool
    kind: Kind
    send: tuple[str, ...]
    read: tuple[str, ...]
    fence: bool
    threads: bool
    reads_back: bool
    finds_sent: bool
    loses: str

    def scopes(self, leg: Leg) -> tuple[str, ...]:
        """Return the mail scopes that `leg` needs."""
        if leg == "both":
            return tuple(dict.fromkeys((*self.send, *self.read)))
        return self.send if leg == "send" else self.read

    def asked(self, leg: Leg) -> tuple[str, ...]:
        """Return all that is asked for: the profile as well, and a refresh token."""
        profile = _PROFILE[self.provider]
        if self.kind == "smtp" and self.provider == "microsoft":
            # A token is for one resource; the address comes with the id token.
            return (*self.scopes(leg), *profile)
        if self.provider == "microsoft":
            return (*self.scopes(leg), f"{GRAPH}User.Read", *profile)
        return (*self.scopes(leg), *profile)

    def missing(self, leg: Leg, granted: Iterable[str]) -> list[str]:
        """Return the mail scopes that were not granted: people untick some.

        Microsoft names Graph's with or without the resource, in any case.
        """
        held = {_plain(scope) for scope in granted}
        return [scope for scope in self.scopes(leg) if _plain(scope) not in held]


def legs(separate: bool) -> list[Leg]:
    """Return the consents to ask for, in order."""
    return ["send", "read"] if separate else ["both"]


def find(provider: OAuthProvider, access: Access, *, separate: bool) -> Grant:
    """Return the declaration of a grant."""
    return next(
        one
        for one in GRANTS
        if (one.provider, one.access, one.separate) == (provider, access, separate)
    )


def _plain(scope: str) -> str:
    # Google's are told apart by the whole of them.
    return scope if scope.startswith(GOOGLE) else scope.rpartition("/")[2].lower() or scope


_MODIFY: Final = f"{GOOGLE}gmail.modify"
_COMPOSE: Final = f"{GOOGLE}gmail.compose"
_SEND: Final = f"{GOOGLE}gmail.send"
_READONLY: Final = f"{GOOGLE}gmail.readonly"
_ALL_MAIL: Final = "https://mail.google.com/"
_MAIL_SEND: Final = f"{GRAPH}Mail.Send"
_MAIL_READ: Final = f"{GRAPH}Mail.Read"
_MAIL_WRITE: Final = f"{GRAPH}Mail.ReadWrite"
_SMTP: Final = f"{OFFICE}SMTP.Send"
_IMAP: Final = f"{OFFICE}IMAP.AccessAsUser.All"

_NO_FENCE: Final = (
    "No drafts: a submission whose answer is lost can be proven sent, never unsent, and waits "
    "for a person."
)
_NO_THREADS: Final = (
    " Follow-ups join by their headers only, and the Message-ID that recipients see is learnt "
    "from the reply."
)

GRANTS: Final[tuple[Grant, ...]] = (
    Grant(
        "google", "full", False, "gmail", (_MODIFY,), (_MODIFY,),
        fence=True, threads=True, reads_back=True, finds_sent=True, loses="Nothing.",
    ),
    Grant(
        "google", "full", True, "gmail", (_COMPOSE,), (_READONLY,),
        fence=True, threads=True, reads_back=False, finds_sent=True,
        loses="The sender cannot read: a Message-ID that Gmail rewrites is learnt from the reply. "
        "Sent mail is looked through by the reading leg.",
    ),
    Grant(
        "google", "send_and_read", False, "gmail", (_SEND, _READONLY), (_SEND, _READONLY),
        fence=False, threads=True, reads_back=True, finds_sent=True, loses=_NO_FENCE,
    ),
    Grant(
        "google", "send_and_read", True, "gmail", (_SEND,), (_READONLY,),
        fence=False, threads=True, reads_back=False, finds_sent=True,
        loses=_NO_FENCE + " The sender cannot read: a Message-ID that Gmail rewrites is learnt "
        "from the reply.",
    ),
    Grant(
        "google", "servers", False, "smtp", (_ALL_MAIL,), (_ALL_MAIL,),
        fence=False, threads=False, reads_back=False, finds_sent=True,
        loses=_NO_FENCE + _NO_THREADS,
    ),
    Grant(
        "google", "servers", True, "smtp", (_ALL_MAIL,), (_ALL_MAIL,),
        fence=False, threads=False, reads_back=False, finds_sent=True,
        loses=_NO_FENCE + _NO_THREADS + " Google has one scope for both: separate consents only "
        "separate the tokens.",
    ),
    Grant(
        "microsoft", "full", False, "graph", (_MAIL_SEND, _MAIL_WRITE), (_MAIL_SEND, _MAIL_WRITE),
        fence=True, threads=True, reads_back=True, finds_sent=True, loses="Nothing.",
    ),
    Grant(
        "microsoft", "full", True, "graph", (_MAIL_SEND, _MAIL_WRITE), (_MAIL_READ,),
        fence=True, threads=True, reads_back=True, finds_sent=True,
        loses="Drafts need Mail.ReadWrite, so that the sending leg can read as well.",
    ),
    Grant(
        "microsoft", "send_and_read", False, "graph", (_MAIL_SEND, _MAIL_READ),
        (_MAIL_SEND, _MAIL_READ),
        fence=False, threads=False, reads_back=False, finds_sent=True,
        loses=_NO_FENCE + _NO_THREADS,
    ),
    Grant(
        "microsoft", "send_and_read", True, "graph", (_MAIL_SEND,), (_MAIL_READ,),
        fence=False, threads=False, reads_back=False, finds_sent=True,
        loses=_NO_FENCE + _NO_THREADS,
    ),
    Grant(
        "microsoft", "servers", False, "smtp", (_SMTP, _IMAP), (_SMTP, _IMAP),
        fence=False, threads=False, reads_back=False, finds_sent=True,
        loses=_NO_FENCE + _NO_THREADS,
    ),
    Grant(
        "microsoft", "servers", True, "smtp", (_SMTP,), (_IMAP,),
        fence=False, threads=False, reads_back=False, finds_sent=True,
        loses=_NO_FENCE + _NO_THREADS,
    ),
)  # fmt: skip


_HEAD: Final = (
    "| access | consents | reached by | sends with | reads with"
    " | fence | threads | read-back | finds sent | what it loses |"
)


def markdown() -> str:
    """Return `docs/oauth-grants.md`."""
    lines = [
        "# What each OAuth grant allows",
        "",
        "Generated from `services/gateway/src/paceline_gateway/domain/consent.py` by `make docs`;",
        "`tests/unit/gateway/test_consent.py` holds it against what the providers' code says of",
        "these scopes.",
        "",
        "- **fence**: the message lies with the provider as a draft before it is sent. Deleting it",
        "  proves that nothing was sent, so that a submission in doubt can be tried again.",
        "- **threads**: follow-ups join the conversation by the provider's own id as well.",
        "- **read-back**: the sender learns the Message-ID that recipients see.",
        "- **finds sent**: sent mail can be looked through when a submission is in doubt.",
        "",
        "One consent by default, sealed once for sending and once for reading. With separate",
        "consents the two share no token: neither service can do the other's work with its own.",
        "Beside the mail scopes the profile is asked for, for the address and the display name:",
        "",
    ]
    for provider in OAUTH_PROVIDERS:
        grant = find(provider, "full", separate=False)
        profile = [f"`{one}`" for one in grant.asked("both") if one not in grant.scopes("both")]
        lines.append(f"- {provider.capitalize()}: {', '.join(profile)}")
    for provider in OAUTH_PROVIDERS:
        lines += [
            "",
            f"## {provider.capitalize()}",
            "",
            _HEAD,
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        lines += [_row(one) for one in GRANTS if one.provider == provider]
    lines += [
        "",
        "Google counts all live refresh tokens of an account and app (100, the oldest dies first);",
        "revoking one ends the account's whole grant to that app. Microsoft lets no application",
        "revoke a grant: the user does it at myapps.microsoft.com, an administrator in Entra; its",
        "tokens may hold whatever else the user consented to for the same app.",
        "",
    ]
    return "\n".join(lines)


def _row(grant: Grant) -> str:
    cells = [
        f"`{grant.access}`",
        "separate" if grant.separate else "one",
        f"`{grant.kind}`",
        *(", ".join(f"`{scope}`" for scope in legs) for legs in (grant.send, grant.read)),
        *(
            "yes" if has else "–"
            for has in (grant.fence, grant.threads, grant.reads_back, grant.finds_sent)
        ),
        grant.loses,
    ]
    return "| " + " | ".join(cells) + " |"
