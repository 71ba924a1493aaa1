"""How far a mailbox has come, by numbers: 0 (connected) to 5 (DESIGN §7).

This is the measured stage. That somebody attested a mailbox is older than its
numbers is the business of who gates by stage.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Final

HIGHEST: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRules:
    """The numbers of the stages.

    `delivered`: needed for stages 1 to 5, counted over the mailbox's life; the
    first delivery proves what a probe proves. `bounce_rates`: allowed at stages
    3 to 5, the last over `month_days`. After it fell, a stage stays `rest_h`
    hours, so that one bad day costs one stage.
    """

    delivered: tuple[int, int, int, int, int] = (1, 50, 200, 1_000, 3_000)
    score: int = 70
    bounce_rates: tuple[float, float, float] = (0.03, 0.02, 0.01)
    complaint_rate: float = 0.001
    month_days: int = 30
    rest_h: float = 24

    def __post_init__(self) -> None:
        if any(low > high for low, high in pairwise(self.delivered)) or self.delivered[0] < 1:
            raise ValueError("a higher stage needs as many deliveries or more")
        if any(low < high for low, high in pairwise(self.bounce_rates)):
            raise ValueError("a higher stage allows as many bounces or fewer")
        if self.month_days < 1 or self.rest_h < 0:
            raise ValueError("a month has a day or more, a rest 0 hours or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """What is known of a mailbox. Rates (0..1) are believed ones, of the score's window.

    `delivered`: accepted and not returned, ever; `score`: None if unknown;
    `bounce_rate_month`: over the rules' month; `records_right`: whether the
    domain's records are there, None if nobody looked.
    """

    delivered: int
    score: int | None
    bounce_rate: float
    complaint_rate: float
    bounce_rate_month: float
    records_right: bool | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """The stage a mailbox holds, and when it last fell (aware, UTC)."""

    stage: int = 0
    fell_at: datetime | None = None

    def rests_until(self, rules: StageRules) -> datetime | None:
        """Return when a stage that fell may change again."""
        return None if self.fell_at is None else self.fell_at + timedelta(hours=rules.rest_h)


def measure(standing: Standing, numbers: Numbers, now: datetime, rules: StageRules) -> Standing:
    """Return the standing at `now` (aware, UTC).

    Up to the highest stage whose numbers hold; down by one when the rates of
    the held one break. Silence breaks nothing: a score no longer known keeps a
    stage, but earns none.
    """
    rest = standing.rests_until(rules)
    if rest is not None and now < rest:
        return standing
    if not _holds(standing.stage, numbers, rules):
        return Standing(standing.stage - 1, now)
    stage = standing.stage
    while stage < HIGHEST and _earns(stage + 1, numbers, rules):
        stage += 1
    return Standing(stage, standing.fell_at)


def _earns(stage: int, numbers: Numbers, rules: StageRules) -> bool:
    return (
        numbers.delivered >= rules.delivered[stage - 1]
        and (stage < 2 or numbers.score is not None)
        and _holds(stage, numbers, rules)
    )


def _holds(stage: int, numbers: Numbers, rules: StageRules) -> bool:
    """Tell whether no rate of this stage, or of one below it, is broken."""
    wide, wider, month = rules.bounce_rates
    broken = (
        stage >= 1 and numbers.records_right is False,
        stage >= 2 and numbers.score is not None and numbers.score < rules.score,
        stage >= 3 and numbers.complaint_rate > rules.complaint_rate,
        stage >= 3 and numbers.bounce_rate > wide,
        stage >= 4 and numbers.bounce_rate > wider,
        stage >= 5 and numbers.bounce_rate_month > month,
    )
    return not any(broken)
