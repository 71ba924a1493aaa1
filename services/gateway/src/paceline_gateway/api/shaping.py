"""How gently recipients are written to, and how much a sending domain may send."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, status
from pydantic import BaseModel, ConfigDict, Field, model_validator
from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Row
from sqlalchemy.orm import InstrumentedAttribute

from paceline_common.address import InvalidAddress, normalise_domain
from paceline_common.http import Problem
from paceline_gateway import problems, trail
from paceline_gateway.api.types import answers
from paceline_gateway.api.workspace import bump
from paceline_gateway.auth import Caller, Reader, Writer
from paceline_gateway.parts import Parts, PartsDep
from paceline_gateway.store.tables import DomainBudget, ShapingRule

router = APIRouter(prefix="/v1", tags=["shaping"])

_Table = type[ShapingRule | DomainBudget]

_WORDS: Final = ("*", "host:google", "host:microsoft")

DailyMax = Annotated[int, Field(ge=0, le=10_000_000)]
PatternPath = Annotated[
    str,
    Path(
        max_length=260,
        description="A recipients' domain; `host:google` or `host:microsoft`, for every domain "
        "whose mail goes there; or `*`, for each domain that has no rule of its own.",
    ),
]
DomainPath = Annotated[str, Path(max_length=260, description="A domain that mailboxes send from.")]


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ShapingRuleIn(_In):
    """At least one of the two; null is no limit."""

    spacing_s: float | None = Field(
        default=None, gt=0, le=86_400, description="Seconds between two messages."
    )
    daily_max: DailyMax | None = Field(default=None, description="Messages a day.")

    @model_validator(mode="after")
    def _limits(self) -> "ShapingRuleIn":
        if self.spacing_s is None and self.daily_max is None:
            raise ValueError("set spacing_s, daily_max or both; DELETE takes a rule away")
        return self


class ShapingRuleOut(BaseModel):
    """A rule; it holds for each matching recipient domain by itself, across all mailboxes."""

    pattern: str
    spacing_s: float | None
    daily_max: int | None
    created_at: datetime
    updated_at: datetime


class ShapingRules(BaseModel):
    """Every rule of the workspace."""

    items: list[ShapingRuleOut]


class DomainBudgetIn(_In):
    """Messages a day that all mailboxes of the domain may send together."""

    daily_max: DailyMax


class DomainBudgetOut(BaseModel):
    """A sending domain's budget."""

    domain: str
    daily_max: int
    created_at: datetime
    updated_at: datetime


class DomainBudgets(BaseModel):
    """Every budget of the workspace."""

    items: list[DomainBudgetOut]


@router.get("/shaping-rules", operation_id="listShapingRules", responses=answers())
async def list_shaping_rules(parts: PartsDep, caller: Reader) -> ShapingRules:
    """List the rules, by pattern."""
    rows = await _rows(parts, caller, ShapingRule, ShapingRule.pattern)
    return ShapingRules(items=[_rule(row) for row in rows])


@router.get(
    "/shaping-rules/{pattern}",
    operation_id="getShapingRule",
    responses=answers(problems.NOT_FOUND, problems.PATTERN_INVALID),
)
async def get_shaping_rule(pattern: PatternPath, parts: PartsDep, caller: Reader) -> ShapingRuleOut:
    """Return one rule."""
    key = _pattern(pattern)
    rows = await _rows(parts, caller, ShapingRule, ShapingRule.pattern, key)
    if not rows:
        raise Problem(problems.NOT_FOUND, f"there is no rule for {key}")
    return _rule(rows[0])


@router.put(
    "/shaping-rules/{pattern}",
    operation_id="setShapingRule",
    responses=answers(problems.PATTERN_INVALID),
)
async def set_shaping_rule(
    pattern: PatternPath, body: ShapingRuleIn, parts: PartsDep, caller: Writer
) -> ShapingRuleOut:
    """Make a rule, or replace it."""
    limits = {
        "spacing_s": None if body.spacing_s is None else Decimal(str(body.spacing_s)),
        "daily_max": body.daily_max,
    }
    key = _pattern(pattern)
    return _rule(await _put(parts, caller, ShapingRule, {"pattern": key}, limits, "shaping_rule"))


@router.delete(
    "/shaping-rules/{pattern}",
    operation_id="deleteShapingRule",
    status_code=status.HTTP_204_NO_CONTENT,
    responses=answers(problems.PATTERN_INVALID),
)
async def delete_shaping_rule(pattern: PatternPath, parts: PartsDep, caller: Writer) -> None:
    """Take a rule away. May be repeated."""
    key = _pattern(pattern)
    await _drop(parts, caller, ShapingRule, ShapingRule.pattern == key, "shaping_rule", key)


@router.get("/domain-budgets", operation_id="listDomainBudgets", responses=answers())
async def list_domain_budgets(parts: PartsDep, caller: Reader) -> DomainBudgets:
    """List the budgets, by domain."""
    rows = await _rows(parts, caller, DomainBudget, DomainBudget.domain)
    return DomainBudgets(items=[_budget(row) for row in rows])


@router.get(
    "/domain-budgets/{domain}",
    operation_id="getDomainBudget",
    responses=answers(problems.NOT_FOUND, problems.DOMAIN_INVALID),
)
async def get_domain_budget(domain: DomainPath, parts: PartsDep, caller: Reader) -> DomainBudgetOut:
    """Return one budget."""
    key = _domain(domain)
    rows = await _rows(parts, caller, DomainBudget, DomainBudget.domain, key)
    if not rows:
        raise Problem(problems.NOT_FOUND, f"there is no budget for {key}")
    return _budget(rows[0])


@router.put(
    "/domain-budgets/{domain}",
    operation_id="setDomainBudget",
    responses=answers(problems.DOMAIN_INVALID),
)
async def set_domain_budget(
    domain: DomainPath, body: DomainBudgetIn, parts: PartsDep, caller: Writer
) -> DomainBudgetOut:
    """Make a budget, or replace it."""
    limits = {"daily_max": body.daily_max}
    key = _domain(domain)
    return _budget(await _put(parts, caller, DomainBudget, {"domain": key}, limits, "budget"))


@router.delete(
    "/domain-budgets/{domain}",
    operation_id="deleteDomainBudget",
    status_code=status.HTTP_204_NO_CONTENT,
    responses=answers(problems.DOMAIN_INVALID),
)
async def delete_domain_budget(domain: DomainPath, parts: PartsDep, caller: Writer) -> None:
    """Take a budget away. May be repeated."""
    key = _domain(domain)
    await _drop(parts, caller, DomainBudget, DomainBudget.domain == key, "budget", key)


async def _rows(
    parts: Parts,
    caller: Caller,
    table: _Table,
    name: InstrumentedAttribute[str],
    wanted: str | None = None,
) -> Sequence[Row[Any]]:
    """Return the workspace's rows by name, or the wanted one alone."""
    statement = select(table.__table__).where(table.workspace_id == caller.workspace_id)
    if wanted is not None:
        statement = statement.where(name == wanted)
    async with parts.db.transaction([caller.workspace_id]) as tx:
        return (await tx.execute(statement.order_by(name))).all()


async def _put(
    parts: Parts,
    caller: Caller,
    table: _Table,
    key: Mapping[str, str],
    limits: Mapping[str, Any],
    noun: str,
) -> Row[Any]:
    async with parts.db.transaction([caller.workspace_id]) as tx:
        await bump(parts, tx, caller, {})
        (named,) = key.values()
        # No addresses in the trail; a domain is none, and the only name these have.
        await trail.audit(parts, tx, caller, f"{noun}.set", caller.workspace, of=named)
        row = insert(table).values(workspace_id=caller.workspace_id, **key, **limits)
        made: Row[Any] = (
            await tx.execute(
                row.on_conflict_do_update(
                    index_elements=["workspace_id", *key],
                    set_={**limits, "updated_at": func.clock_timestamp()},
                ).returning(table.__table__)
            )
        ).one()
        return made


async def _drop(
    parts: Parts,
    caller: Caller,
    table: _Table,
    which: ColumnElement[bool],
    noun: str,
    named: str,
) -> None:
    async with parts.db.transaction([caller.workspace_id]) as tx:
        gone = await tx.execute(
            delete(table)
            .where(table.workspace_id == caller.workspace_id, which)
            .returning(table.workspace_id)
        )
        if gone.one_or_none() is not None:
            await bump(parts, tx, caller, {})
            await trail.audit(parts, tx, caller, f"{noun}.removed", caller.workspace, of=named)


def _pattern(text: str) -> str:
    word = text.strip().lower()
    if word in _WORDS:
        return word
    try:
        return _domain(text)
    except Problem:
        raise Problem(problems.PATTERN_INVALID, f"{text!r} is none") from None


def _domain(text: str) -> str:
    try:
        return normalise_domain(text)
    except InvalidAddress as error:
        raise Problem(problems.DOMAIN_INVALID, str(error)) from None


def _rule(row: Row[Any]) -> ShapingRuleOut:
    return ShapingRuleOut(
        pattern=row.pattern,
        spacing_s=None if row.spacing_s is None else float(row.spacing_s),
        daily_max=row.daily_max,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def _budget(row: Row[Any]) -> DomainBudgetOut:
    return DomainBudgetOut(
        domain=row.domain,
        daily_max=row.daily_max,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )
