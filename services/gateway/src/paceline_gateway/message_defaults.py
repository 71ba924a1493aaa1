"""What a mailbox, or the whole workspace, puts into its messages."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from sqlalchemy.engine import Row

from paceline_common import headers, templates
from paceline_common.http import Problem
from paceline_gateway import problems
from paceline_gateway.api.types import Domain, Email

Signature = Annotated[str, StringConstraints(max_length=50_000)]
Encoding = Literal["quoted-printable", "base64"]
# A mailbox's columns that are set by the name they have in a request.
COLUMNS = (
    "signature_text", "signature_html", "headers", "return_path", "encoding", "tracking_domain",
)  # fmt: skip


class Header(BaseModel):
    """A header of one's own; what Paceline and mail servers write themselves is refused."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, StringConstraints(strip_whitespace=True, max_length=64)]
    value: Annotated[str, StringConstraints(strip_whitespace=True, max_length=headers.MAX_VALUE)]


Headers = Annotated[list[Header], Field(max_length=headers.MAX_HEADERS)]


class MessageDefaults(BaseModel):
    """What a mailbox puts into each of its messages; what is left out stays, null is none.

    Signatures are templates like a step's, of what every message has (`sender`,
    `email`, `unsubscribe_url`). `headers` come after the workspace's and replace
    those of the same name. `return_path` is the envelope's sender, where the
    mailbox submits by SMTP and its server allows another one. `tracking_domain`
    is a name of the mailbox's own that leads to Paceline: opens and clicks are
    tracked on no other.
    """

    model_config = ConfigDict(extra="forbid")

    signature_text: Signature | None = None
    signature_html: Signature | None = None
    headers: Headers | None = None
    return_path: Email | None = None
    encoding: Encoding | None = None
    tracking_domain: Domain | None = None


class MessageDefaultsOut(BaseModel):
    """What a mailbox puts into each of its messages."""

    signature_text: str | None
    signature_html: str | None
    headers: list[Header]
    return_path: str | None
    encoding: Encoding
    tracking_domain: str | None


def columns(body: MessageDefaults | None) -> dict[str, Any]:
    """Return the columns that a request sets; raise `header_refused` or `template_invalid`."""
    if body is None:
        return {}
    values = {name: getattr(body, name) for name in COLUMNS if name in body.model_fields_set}
    for name in ("signature_text", "signature_html"):
        if source := values.get(name):
            _check_signature(name, source)
    if "headers" in values:
        values["headers"] = header_rows(values["headers"] or (), "message.headers")
    if values.get("encoding", "") is None:
        values["encoding"] = "quoted-printable"
    return values


def header_rows(given: Sequence[Header], where: str) -> list[list[str]]:
    """Return headers as they are stored; raise `header_refused`."""
    rows = [[one.name, one.value] for one in given]
    refused = headers.first_refusal([(name, value) for name, value in rows])
    if refused is not None:
        raise Problem(
            problems.HEADER_REFUSED,
            f"{refused.name}: {refused.text}",
            where=where,
            header=refused.name,
            reason=refused.reason,
        )
    return rows


def shown_headers(stored: Sequence[Sequence[str]]) -> list[Header]:
    """Return headers as they were set."""
    return [Header.model_construct(name=name, value=value) for name, value in stored]


def shown(row: Row[Any]) -> MessageDefaultsOut:
    """Return what a mailbox's row says."""
    return MessageDefaultsOut(
        signature_text=row.signature_text,
        signature_html=row.signature_html,
        headers=shown_headers(row.headers),
        return_path=row.return_path,
        encoding=row.encoding,
        tracking_domain=row.tracking_domain,
    )


def _check_signature(name: str, source: str) -> None:
    where = f"message.{name}"
    if fault := templates.fault(source):
        raise Problem(
            problems.TEMPLATE_INVALID,
            f"{where}: {fault}",
            where=where,
            errors=[{"where": where, "why": fault.why, "line": fault.line, "column": fault.column}],
        )
    if needed := templates.required(source):
        why = f"not every lead has {', '.join(needed)}: a signature prints what every message has"
        raise Problem(
            problems.TEMPLATE_INVALID,
            f"{where}: {why}",
            where=where,
            errors=[{"where": where, "why": why, "line": None, "column": None}],
        )
