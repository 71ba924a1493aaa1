"""Types that requests and answers share."""

from datetime import datetime
from typing import Annotated, Any

from email_validator import EmailNotValidError, validate_email
from fastapi import Header
from pydantic import AfterValidator, BaseModel, StringConstraints

from paceline_common import ids
from paceline_common.address import InvalidAddress, normalise_domain
from paceline_common.http import ProblemType, public_id
from paceline_gateway import problems
from paceline_gateway.domain.zone import is_timezone

# Row numbers inside, public ids outside.
MailboxId = Annotated[int, *public_id("mbx")]
PoolId = Annotated[int, *public_id("pool")]
CampaignId = Annotated[int, *public_id("cmp")]
ImportId = Annotated[int, *public_id("imp")]
LeadId = Annotated[int, *public_id("lead")]
EnrollmentId = Annotated[int, *public_id("enr")]
AddressId = Annotated[int, *public_id("addr")]
JobId = Annotated[int, *public_id("job")]
QuarantineId = Annotated[int, *public_id("qua")]
AttachmentId = Annotated[int, *public_id("att")]

# Postgres keeps no NUL in a text.
NoNul = StringConstraints(pattern=r"^[^\x00]*$")
Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        description="Repeats of a request with the same key have no further effect.",
    ),
]


def email_fault(text: str) -> str | None:
    """Return why `text` is no email address (RFC 5321, 6531), None if it is one. No DNS.

    Whether `.test` counts (RFC 2606) is what `app.build` told the library.
    """
    try:
        validate_email(text, check_deliverability=False)
    except EmailNotValidError as error:
        return str(error)
    return None


def _email(text: str) -> str:
    if fault := email_fault(text):
        raise ValueError(fault)
    return text


Email = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=3, max_length=320),
    AfterValidator(_email),
]


def _domain(text: str) -> str:
    try:
        return normalise_domain(text)
    except InvalidAddress as error:
        raise ValueError(str(error)) from None


Domain = Annotated[str, StringConstraints(min_length=1, max_length=260), AfterValidator(_domain)]


def _timezone(name: str) -> str:
    if not is_timezone(name):
        raise ValueError(f"{name!r} is no IANA time zone; write it like Europe/Berlin")
    return name


Timezone = Annotated[str, AfterValidator(_timezone)]


def _aware(at: datetime) -> datetime:
    if at.tzinfo is None:
        raise ValueError("a time needs its offset: 2026-01-31T09:00:00+01:00, or …Z")
    return at


Instant = Annotated[datetime, AfterValidator(_aware)]


class ProblemOut(BaseModel):
    """RFC 9457, with our stable `code`. Some kinds have further members."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    remedy: str


_USUAL = (
    problems.UNAUTHENTICATED, problems.FORBIDDEN, problems.BAD_REQUEST, problems.REQUEST_INVALID,
)  # fmt: skip


def answers(*kinds: ProblemType) -> dict[int | str, dict[str, Any]]:
    """Return OpenAPI responses for the problems a route may answer with, beside the usual ones."""
    by_status: dict[int, list[str]] = {}
    for kind in (*_USUAL, *kinds):
        by_status.setdefault(kind.status, []).append(kind.code)
    return {
        status: {
            "description": "Problem: " + ", ".join(f"`{code}`" for code in codes),
            "content": {
                "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}
            },
        }
        for status, codes in by_status.items()
    }


def public(kind: ids.Kind, number: int | None) -> str | None:
    """Return the public id of a row that may be absent."""
    return None if number is None else ids.encode(kind, number)
