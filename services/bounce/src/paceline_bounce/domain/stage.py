"""How far a mailbox has come, by numbers: 0 (connected) to 5.

Its owner may attest that a mailbox was in use before it came here: that counts
as the deliveries, and as the score, of stage `ATTESTED`. Rates are never attested.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Final

HIGHEST: Final = 5
ATTESTED: Final = 3


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
    domain's records are there, None if nobody looked; `attested`: whether its
    owner says that it was in use before.
    """

    delivered: int
    score: int | None
    bounce_rate: float
    complaint_rate: float
    bounce_rate_month: float
    records_right: bool | None = None
    attested: bool = False


@dataclass(frozen=True, slots=True)
class Standing:
    """The stage a mailbox holds, when it last fell (aware, UTC), and whether it rests on an
    attestation."""

    stage: int = 0
    fell_at: datetime | None = None
    attested: bool = False

    def rests_until(self, rules: StageRules) -> datetime | None:
        """Return when a stage that fell may change again."""
        return None if self.fell_at is None else self.fell_at + timedelta(hours=rules.rest_h)


def measure(standing: Standing, numbers: Numbers, now: datetime, rules: StageRules) -> Standing:
    """Return the standing at `now` (aware, UTC).

    Up to the highest stage whose numbers hold; down by one when the rates of
    the held one break. Silence breaks nothing: a score no longer known keeps a
    stage, but earns none above `ATTESTED`, and up to it only where attested.
    """
    standing = _sworn(standing, numbers, rules)
    rest = standing.rests_until(rules)
    if rest is not None and now < rest:
        return standing
    if not _holds(standing.stage, numbers, rules):
        return replace(standing, stage=standing.stage - 1, fell_at=now)
    stage = standing.stage
    while stage < HIGHEST and _earns(stage + 1, numbers, rules):
        stage += 1
    return replace(standing, stage=stage)


def _sworn(standing: Standing, numbers: Numbers, rules: StageRules) -> Standing:
    """Return the standing with the attestation as it is now.

    Given, it is where a mailbox that never fell begins: what fell has to earn
    its way back. Withdrawn, what rested on it alone is lost.
    """
    stage = standing.stage
    if numbers.attested and not standing.attested and standing.fell_at is None:
        stage = max(stage, ATTESTED)
    elif standing.attested and not numbers.attested:
        stage = min(stage, sum(numbers.delivered >= least for least in rules.delivered))
    return Standing(stage, standing.fell_at, numbers.attested)


def _earns(stage: int, numbers: Numbers, rules: StageRules) -> bool:
    enough = numbers.delivered >= rules.delivered[stage - 1]
    known = stage < 2 or numbers.score is not None
    attested = numbers.attested and stage <= ATTESTED
    return (attested or (enough and known)) and _holds(stage, numbers, rules)


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
