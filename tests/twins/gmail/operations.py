"""What the twin serves of the Gmail API: paths, parameters, scopes and quota units.

A test holds every entry to Google's discovery document.
"""

import re
from dataclasses import dataclass
from typing import Final

from tests.twins.gmail.mailbox import Refused
from tests.twins.gmail.oauth import ALL_MAIL, PREFIX

_SEND: Final = frozenset({f"{PREFIX}gmail.send"})
_READ: Final = frozenset({f"{PREFIX}gmail.readonly"})
_META: Final = frozenset({f"{PREFIX}gmail.metadata"})
_COMPOSE: Final = frozenset({f"{PREFIX}gmail.compose"})
_MODIFY: Final = frozenset({ALL_MAIL, f"{PREFIX}gmail.modify"})
_LABELS: Final = frozenset({f"{PREFIX}gmail.labels"})
_SETTINGS: Final = frozenset({f"{PREFIX}gmail.settings.basic"})

GLOBAL_PARAMETERS: Final = frozenset(
    {"alt", "fields", "key", "prettyPrint", "quotaUser", "uploadType", "upload_protocol"}
)


@dataclass(frozen=True)
class Operation:
    """One method; `path` as in the discovery document, `units` as on the quota page."""

    method: str
    path: str
    scopes: frozenset[str]
    units: int
    parameters: frozenset[str] = frozenset()
    uploads: bool = False


_FORMAT: Final = frozenset({"format", "metadataHeaders"})
_LIST: Final = frozenset({"includeSpamTrash", "maxResults", "pageToken", "q"})
_USER: Final = "gmail/v1/users/{userId}"

OPERATIONS: Final = {
    "users.getProfile": Operation(
        "GET", f"{_USER}/profile", _MODIFY | _COMPOSE | _META | _READ, 1
    ),
    "users.messages.send": Operation(
        "POST", f"{_USER}/messages/send", _MODIFY | _COMPOSE | _SEND, 100, uploads=True
    ),
    "users.messages.list": Operation(
        "GET", f"{_USER}/messages", _MODIFY | _META | _READ, 5, _LIST | {"labelIds"}
    ),
    "users.messages.get": Operation(
        "GET", f"{_USER}/messages/{{id}}", _MODIFY | _META | _READ, 5, _FORMAT
    ),
    "users.messages.modify": Operation("POST", f"{_USER}/messages/{{id}}/modify", _MODIFY, 5),
    "users.messages.trash": Operation("POST", f"{_USER}/messages/{{id}}/trash", _MODIFY, 5),
    "users.messages.untrash": Operation("POST", f"{_USER}/messages/{{id}}/untrash", _MODIFY, 5),
    "users.messages.delete": Operation(
        "DELETE", f"{_USER}/messages/{{id}}", frozenset({ALL_MAIL}), 10
    ),
    "users.messages.attachments.get": Operation(
        "GET", f"{_USER}/messages/{{messageId}}/attachments/{{id}}", _MODIFY | _READ, 5
    ),
    "users.drafts.send": Operation(
        "POST", f"{_USER}/drafts/send", _MODIFY | _COMPOSE, 100, uploads=True
    ),
    "users.drafts.create": Operation(
        "POST", f"{_USER}/drafts", _MODIFY | _COMPOSE, 10, uploads=True
    ),
    "users.drafts.list": Operation(
        "GET", f"{_USER}/drafts", _MODIFY | _COMPOSE | _READ, 5, _LIST
    ),
    "users.drafts.get": Operation(
        "GET", f"{_USER}/drafts/{{id}}", _MODIFY | _COMPOSE | _READ, 5, frozenset({"format"})
    ),
    "users.drafts.update": Operation(
        "PUT", f"{_USER}/drafts/{{id}}", _MODIFY | _COMPOSE, 15, uploads=True
    ),
    "users.drafts.delete": Operation(
        "DELETE", f"{_USER}/drafts/{{id}}", _MODIFY | _COMPOSE, 10
    ),
    "users.threads.get": Operation(
        "GET", f"{_USER}/threads/{{id}}", _MODIFY | _META | _READ, 10, _FORMAT
    ),
    "users.threads.list": Operation(
        "GET", f"{_USER}/threads", _MODIFY | _META | _READ, 10, _LIST | {"labelIds"}
    ),
    "users.history.list": Operation(
        "GET", f"{_USER}/history", _MODIFY | _META | _READ, 2,
        frozenset({"startHistoryId", "historyTypes", "labelId", "maxResults", "pageToken"}),
    ),
    "users.labels.list": Operation(
        "GET", f"{_USER}/labels", _MODIFY | _LABELS | _META | _READ, 1
    ),
    "users.labels.get": Operation(
        "GET", f"{_USER}/labels/{{id}}", _MODIFY | _LABELS | _META | _READ, 1
    ),
    "users.settings.sendAs.list": Operation(
        "GET", f"{_USER}/settings/sendAs", _MODIFY | _READ | _SETTINGS, 1
    ),
}  # fmt: skip

_PATTERNS: Final = {
    name: re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", one.path))
    for name, one in OPERATIONS.items()
}


@dataclass(frozen=True)
class Asked:
    """Which operation a request is, on whose mailbox, on which item (of which message)."""

    name: str
    operation: Operation
    user: str
    item: str
    message: str = ""


def asked(method: str, path: str) -> Asked | None:
    """Return the operation of a request (path without a slash at its head), None for none."""
    plain = path.removeprefix("upload/")
    for name, operation in OPERATIONS.items():
        found = _PATTERNS[name].fullmatch(plain)
        if found and operation.method == method and (plain == path or operation.uploads):
            named = found.groupdict("")
            return Asked(
                name, operation, named["userId"], named.get("id", ""), named.get("messageId", "")
            )
    return None


def check_parameters(one: Asked, given: frozenset[str]) -> None:
    """Refuse parameters that the method does not have, as Google does."""
    if unknown := given - one.operation.parameters - GLOBAL_PARAMETERS:
        raise Refused(
            400, "invalidArgument",
            f'Invalid JSON payload received. Unknown name "{sorted(unknown)[0]}": '
            "Cannot bind query parameter.",
        )  # fmt: skip
