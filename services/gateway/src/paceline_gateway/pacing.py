"""What the scheduler alone can say: why, when, how much. Thin calls of its `/internal`."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any, Final, Literal, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from paceline_common import ids, telemetry
from paceline_common.http import Problem, internal_client
from paceline_gateway import problems
from paceline_gateway.settings import GatewaySettings

# A forecast runs the simulator, over several seeds.
_FORECAST_S: Final = 120.0
# Mailboxes of a page asked for at once.
_AT_ONCE: Final = 8

_log = telemetry.logger("pacing")


class Constraint(BaseModel):
    """What holds a job back: the limit with its numbers, `until` it does, in `zone`."""

    scope: str
    ref: str | None
    reason: str
    used: int | None
    limit: int | None
    until: datetime | None
    zone: str | None


class Interval(BaseModel):
    """The earliest and the latest time expected; `latest` null if it cannot be told."""

    earliest: datetime | None
    latest: datetime | None


class ReleaseBy(BaseModel):
    """The smallest change that would let the job go."""

    action: str
    detail: str | None


class Happening(BaseModel):
    """One entry of the decision ledger; `inputs` are the numbers it was decided from."""

    at: datetime
    what: str
    reason: str | None
    inputs: dict[str, Any]


class Explanation(BaseModel):
    """Why an enrollment stands where it stands, now or `at` a time in the past.

    `reason` is a stable code of docs/reasons.md, `message` says it with its numbers.
    """

    enrollment_id: str
    at: datetime
    state: str
    reason: str | None
    message: str
    constraint: Constraint | None
    eta: Interval | None
    release: ReleaseBy | None
    history: list[Happening]


class Capacity(BaseModel):
    """Messages a mailbox can send on a day, however high its caps, and which limit binds it.

    `per_day` null: nothing limits it. `parts` are the limits by their reason code.
    """

    per_day: int | None
    bound_by: str | None
    parts: dict[str, int] = {}


class MailboxCapacity(BaseModel):
    """What one mailbox adds to a pool or a campaign."""

    mailbox_id: str
    per_day: int | None
    bound_by: str | None


class GroupCapacity(BaseModel):
    """Messages that the mailboxes of a pool or a campaign can send on a day, together."""

    per_day: int | None
    bound_by: str | None
    mailboxes: list[MailboxCapacity]


class Standing(BaseModel):
    """Whether a mailbox may send now; otherwise why not, and until when."""

    reason: str | None
    until: datetime | None
    message: str


class Limit(BaseModel):
    """One limit: used and left of it, and when it starts anew."""

    reason: str
    used: int | None
    limit: int | None
    left: int | None
    resets_at: datetime | None


class Schedule(BaseModel):
    """When a mailbox sends next if enough is queued, and what is left of each of its limits.

    `health` is 0..100, null while too little is known; `stage` is 0..5.
    """

    mailbox_id: str
    timezone: str
    state: Standing
    next_slots: list[datetime]
    limits: list[Limit]
    effective_capacity: Capacity
    stage: int | None
    health: int | None


class Finish(BaseModel):
    """When a campaign will have sent everything: sooner in 10, 50, 90 of 100 runs."""

    p10: datetime
    p50: datetime
    p90: datetime


class DayCount(BaseModel):
    """Messages of the campaign by one mailbox on one of its local days, the mean of all runs.

    Mailboxes that were added for the forecast are called `new_1`, `new_2`, …
    """

    date: date
    mailbox_id: str
    count: float


class Forecast(BaseModel):
    """How a campaign will go, by `seeds` runs (fewer than asked for where they take long).

    `finish` null if it never will. `bottleneck` is a reason code of docs/reasons.md.
    """

    finish: Finish | None
    days: list[DayCount]
    bottleneck: str | None
    message: str
    seeds: int


Unknown = Literal["scheduler_away", "not_known_yet", "just_changed"]
"""Why a figure is missing: the scheduler does not answer, has not read the settings yet, or is
about to read changed ones."""

Answer = TypeVar("Answer", bound=BaseModel)


class Pacing:
    """Asks the scheduler; ids are public in every call."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._client = internal_client(
            settings.scheduler_url, settings.scheduler_token, timeout_s=settings.pacing_timeout_s
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def explain(
        self, workspace_id: int, enrollment_id: int, at: datetime | None
    ) -> Explanation:
        """Say why an enrollment stands where it stands, or stood `at` (aware)."""
        path = f"explain/{ids.encode('ws', workspace_id)}/{ids.encode('enr', enrollment_id)}"
        return await self._get(Explanation, path, {} if at is None else {"at": at.isoformat()})

    async def schedule(self, workspace_id: int, mailbox_id: int) -> Schedule:
        """Say when a mailbox sends next and what is left of its limits."""
        path = f"schedule/{ids.encode('ws', workspace_id)}/{ids.encode('mbx', mailbox_id)}"
        return await self._get(Schedule, path, {})

    async def pool_capacity(self, workspace_id: int, pool_id: int) -> GroupCapacity:
        """Say what a pool's mailboxes can send on a day."""
        return await self._capacity(workspace_id, {"pool": ids.encode("pool", pool_id)})

    async def campaign_capacity(self, workspace_id: int, campaign_id: int) -> GroupCapacity:
        """Say what the mailboxes of a campaign's tiers can send on a day."""
        return await self._capacity(workspace_id, {"campaign": ids.encode("cmp", campaign_id)})

    async def mailbox_capacities(
        self, workspace_id: int, mailboxes: Sequence[int]
    ) -> dict[int, Capacity | Unknown]:
        """Say of each mailbox what it can send on a day, or why that is not known. Never raises."""
        found: dict[int, Capacity | Unknown] = {}
        waiting = list(reversed(mailboxes))
        away = False

        async def ask() -> None:
            nonlocal away
            while waiting:
                number = waiting.pop()
                if away:
                    found[number] = "scheduler_away"
                    continue
                try:
                    schedule = await self.schedule(workspace_id, number)
                    found[number] = schedule.effective_capacity
                except Problem as problem:
                    away = problem.kind is problems.PACING_UNAVAILABLE
                    found[number] = "scheduler_away" if away else "not_known_yet"

        await asyncio.gather(*(ask() for _ in range(min(_AT_ONCE, len(mailboxes)))))
        return found

    async def forecast(self, workspace_id: int, question: Mapping[str, Any]) -> Forecast:
        """Run a campaign ahead of time on the scheduler's own rules."""
        answer = await self._ask(
            "POST", f"forecast/{ids.encode('ws', workspace_id)}", json=question,
            timeout=_FORECAST_S,
        )  # fmt: skip
        return _read(Forecast, answer)

    async def _capacity(self, workspace_id: int, query: Mapping[str, str]) -> GroupCapacity:
        return await self._get(GroupCapacity, f"capacity/{ids.encode('ws', workspace_id)}", query)

    async def _get(self, shape: type[Answer], path: str, query: Mapping[str, str]) -> Answer:
        return _read(shape, await self._ask("GET", path, params=query))

    async def _ask(self, method: str, path: str, **request: Any) -> httpx.Response:
        try:
            answer = await self._client.request(method, f"/internal/{path}", **request)
        except httpx.HTTPError as error:
            raise Problem(problems.PACING_UNAVAILABLE) from error
        match answer.status_code:
            case 200:
                return answer
            # It exists here, or nobody would have asked. A route that is not there (another
            # release of the scheduler) is a 404 too, with another code.
            case 404 if (_member(answer, "code") or "").startswith("unknown_"):
                raise Problem(problems.PACING_PENDING)
            case 422:
                raise Problem(problems.PACING_QUESTION_INVALID, _member(answer, "detail"))
            case status:
                _log.warning("scheduler refused a question", http_status=status)
                raise Problem(problems.PACING_UNAVAILABLE)


def _read(shape: type[Answer], answer: httpx.Response) -> Answer:
    try:
        return shape.model_validate_json(answer.content)
    except ValidationError as error:
        # Another release of the scheduler, say, in the middle of an upgrade.
        _log.warning("scheduler's answer not understood", name=shape.__name__)
        raise Problem(problems.PACING_UNAVAILABLE) from error


def _member(answer: httpx.Response, name: str) -> str | None:
    """Return a text of a problem document, None where there is none."""
    try:
        value = answer.json()[name]
    except (ValueError, KeyError, TypeError):
        return None
    return value if isinstance(value, str) else None
