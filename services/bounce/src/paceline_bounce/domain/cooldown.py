"""When a mailbox has to be left alone for a while: hard bounces come in a row, or somebody
complained."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

Cause = Literal["bounces", "share", "complaint"]
# The current UTC hour and 24 before it: the last 24 h, and at most an hour more.
HOURS: Final = 25
_HOUR: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class CooldownRules:
    """The numbers of cooldown.

    It starts at `bounces` hard bounces in the last `sends`, or when a `share`
    of at least `share_sends` in 24 h bounced hard: `first_h` hours, twice as
    long each further time up to `longest_h`, and anew after `forget_days`
    without. A complaint: `complaint_h` hours.
    """

    bounces: int = 5
    sends: int = 50
    share: float = 0.08
    share_sends: int = 20
    first_h: float = 24
    longest_h: float = 168
    complaint_h: float = 24
    forget_days: int = 14

    def __post_init__(self) -> None:
        if not 1 <= self.bounces <= self.sends or self.share_sends < 1:
            raise ValueError("at least one bounce, in at least as many sends")
        if not 0 < self.share <= 1:
            raise ValueError("a share is above 0, at most 1")
        if not 0 < self.first_h <= self.longest_h or self.complaint_h <= 0:
            raise ValueError("a cooldown lasts, and the longest is no shorter than the first")
        if self.forget_days < 0:
            raise ValueError("days are 0 or more")


@dataclass(frozen=True, slots=True)
class Cooldown:
    """The last cooldown of a mailbox: from `since` to `until` (aware, UTC).

    `level`: how many for bounces came one after the other.
    """

    since: datetime
    until: datetime
    level: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Recent:
    """What may start the next cooldown: counted since the last one that bounces started.

    `sends`: accepted or refused; `hard`: at which of them the latest hard
    bounces came; `hour_sends` and `hour_hard`: the same per UTC hour, the
    `newest` first.
    """

    sends: int = 0
    hard: tuple[int, ...] = ()
    newest: datetime | None = None
    hour_sends: tuple[int, ...] = ()
    hour_hard: tuple[int, ...] = ()

    def count(self, at: datetime, *, sends: int, hard: int, rules: CooldownRules) -> "Recent":
        """Return this with `sends`, then `hard` bounces, of the instant `at` (aware) counted."""
        hour = at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        counted = self._at_hour(hour)
        index = 0 if counted.newest is None else int((counted.newest - hour) / _HOUR)
        total = counted.sends + sends
        hour_sends, hour_hard = list(counted.hour_sends), list(counted.hour_hard)
        if index < HOURS:
            hour_sends[index] += sends
            hour_hard[index] += hard
        return Recent(
            sends=total,
            hard=(*counted.hard, *(total for _ in range(hard)))[-rules.bounces :],
            newest=counted.newest,
            hour_sends=tuple(hour_sends),
            hour_hard=tuple(hour_hard),
        )

    def last_day(self, now: datetime) -> tuple[int, int]:
        """Return the sends and the hard bounces of the 24 h before `now`."""
        if self.newest is None:
            return 0, 0
        left = HOURS - max(0, int((now - self.newest) / _HOUR))
        return sum(self.hour_sends[: max(0, left)]), sum(self.hour_hard[: max(0, left)])

    def _at_hour(self, hour: datetime) -> "Recent":
        if self.newest is None:
            return replace(self, newest=hour, hour_sends=(0,) * HOURS, hour_hard=(0,) * HOURS)
        passed = min(HOURS, max(0, int((hour - self.newest) / _HOUR)))
        if not passed:
            return self
        return replace(
            self,
            newest=hour,
            hour_sends=((0,) * passed + self.hour_sends)[:HOURS],
            hour_hard=((0,) * passed + self.hour_hard)[:HOURS],
        )


def counts(
    recent: Recent, last: Cooldown | None, at: datetime, *, is_send: bool, rules: CooldownRules
) -> bool:
    """Tell whether a send, or a hard bounce, at `at` says something new.

    What was sent before the last cooldown has started that one; its late
    reports must not start another. `is_send`: it was sent, or refused, at `at`;
    otherwise it is a report on something sent earlier.
    """
    if last is None:
        return True
    # Sends since then, in spite of the cooldown: somebody lifted it.
    sends_on = recent.sends >= rules.bounces
    return at > last.since and (is_send or sends_on or at >= last.until)


def judge(recent: Recent, now: datetime, rules: CooldownRules) -> Cause | None:
    """Return why a mailbox must cool down at `now`, None if it need not."""
    if (
        len(recent.hard) >= rules.bounces
        and recent.sends - recent.hard[-rules.bounces] < rules.sends
    ):
        return "bounces"
    sends, hard = recent.last_day(now)
    if sends >= rules.share_sends and hard >= rules.share * sends:
        return "share"
    return None


def begin(cause: Cause, last: Cooldown | None, now: datetime, rules: CooldownRules) -> Cooldown:
    """Return the cooldown that starts at `now`; never one that ends before the last."""
    forgotten = last is None or now >= last.until + timedelta(days=rules.forget_days)
    level = 0 if last is None or forgotten else last.level
    since = now
    if cause == "complaint":
        hours = rules.complaint_h
        if last is not None and now < last.until:
            since = last.since
    else:
        # Past any longest, and within what a float holds.
        hours = min(rules.longest_h, rules.first_h * 2.0 ** min(level, 60))
        level += 1
    until = now + timedelta(hours=hours)
    return Cooldown(since, until if last is None else max(until, last.until), level)
