"""Every limit counted anew from the event list alone.

It knows the rules as they are promised and shares no code with those that
decide: nothing of `domain`, `pacing` or `policy` is imported (import-linter
contract `checker-apart`). Submissions are judged at the instant they began;
caps, ceilings, windows and blackouts by what was in force when their slot was
leased, a few seconds before; suspensions, health, stage, types and
suppressions by what was in force at the submission itself.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import cache
from itertools import pairwise
from typing import Any, Final
from zoneinfo import ZoneInfo

from paceline_scheduler.simulator.events import TYPES, EventList, Fact

CLASSES: Final = (
    "cadence", "hourly_cap", "daily_cap", "rolling_24h", "window", "blackout", "stage", "health",
    "restriction", "cooldown", "domain_pause", "suspension", "duplicate", "suppressed",
)  # fmt: skip

_MINUTE: Final = 60_000
_QUARTER: Final = 15 * _MINUTE
_HOUR: Final = 3_600_000
_DAY: Final = 24 * _HOUR
_EPOCH_DAY: Final = date(1970, 1, 1).toordinal()
_NEVER: Final = 1 << 62


def check(events: EventList) -> dict[str, int]:
    """Return how many violations of each class the list holds, every class named."""
    found = dict.fromkeys(CLASSES, 0)
    sends = _Sends(events)
    histories = _histories(events.facts)
    floors = _floors(events.facts)
    for mailbox, rows in sends.by_mailbox.items():
        history = histories.get(mailbox, _History())
        _check_limits(sends, rows, history, found)
        _check_admission(sends, rows, history, floors, found)
    _check_ceilings(sends, histories, found)
    _check_suspensions(sends, events.facts, found)
    _check_steps(sends, events.facts, found)
    return found


# Values in the order they came to hold, each with the number of sends before it.
_Values = Sequence[tuple[int, Any]]


class _Sends:
    """The columns, and the numbers of the rows by what they have in common."""

    def __init__(self, events: EventList) -> None:
        self.columns = events.columns
        self.at = events.columns["at"]
        self.reserved = events.columns["reserved"]
        self.by_mailbox = self.by("mailbox", set(self.columns["mailbox"]))

    def by(self, column: str, values: Container[int]) -> dict[int, list[int]]:
        """Return the row numbers of each of some values of a column."""
        rows: dict[int, list[int]] = defaultdict(list)
        for n, value in enumerate(self.columns[column]):
            if value in values:
                rows[value].append(n)
        return rows


@dataclass(frozen=True, slots=True)
class _Regime:
    """What one mailbox was held to from one instant on."""

    settings: Fact
    is_known: bool
    throttled_until: int


@dataclass(slots=True)
class _History:
    """What held for one mailbox: regimes by instant, values by the sends before them."""

    froms: list[int] = field(default_factory=list)
    regimes: list[_Regime] = field(default_factory=list)
    settings: list[tuple[int, Any]] = field(default_factory=list)
    health: list[tuple[int, Any]] = field(default_factory=list)
    stage: list[tuple[int, Any]] = field(default_factory=list)

    def at(self, instant: int) -> _Regime | None:
        n = bisect_right(self.froms, instant)
        return self.regimes[n - 1] if n else None


def _histories(facts: Iterable[Fact]) -> dict[int, _History]:
    histories: dict[int, _History] = defaultdict(_History)
    for fact in facts:
        kind = fact["kind"]
        if kind not in ("mailbox", "health", "stage", "throttle"):
            continue
        history = histories[fact["mailbox"]]
        last = history.regimes[-1] if history.regimes else _Regime({}, False, 0)
        if kind == "mailbox":
            history.settings.append((fact["n"], fact))
            last = _Regime(fact, last.is_known, last.throttled_until)
        elif kind == "health":
            history.health.append((fact["n"], fact["score"]))
            last = _Regime(last.settings, fact["score"] is not None, last.throttled_until)
        elif kind == "throttle":
            last = _Regime(last.settings, last.is_known, fact["until"] or 0)
        else:
            history.stage.append((fact["n"], fact["stage"]))
            continue
        history.froms.append(fact["at"])
        history.regimes.append(last)
    return histories


def _check_limits(
    sends: _Sends, rows: Sequence[int], history: _History, found: dict[str, int]
) -> None:
    """Cadence, window, blackout, and the caps of the day and the hour, of one mailbox."""
    at, reserved, slots = sends.at, sends.reserved, sends.columns["slot"]
    paced: list[tuple[int, int]] = []
    hour = used_in_hour = -1
    free_at = -_NEVER
    used_on: dict[int, int] = {}
    caps: dict[tuple[int, bool], int | None] = {}
    regime: _Regime | None = None
    since, until = 0, -1
    for row in rows:
        now, leased = at[row], reserved[row]
        if not since <= leased < until:
            n = bisect_right(history.froms, leased)
            if n == 0 or not history.regimes[n - 1].settings:
                # Nothing is known of the mailbox: it had no right to send at all.
                found["window"] += 1
                continue
            since = history.froms[n - 1]
            until = history.froms[n] if n < len(history.froms) else _NEVER
            if history.regimes[n - 1] is not regime:
                regime = history.regimes[n - 1]
                settings = regime.settings
                zone = settings["zone"]
                offsets = _offsets(zone)
                cadence, spacing = settings["cadence_ms"], settings["spacing_ms"]
                hourly_cap = settings["hourly_cap"]
                closed = _days(settings["blackouts"]) | _days(settings["holidays"])
                starts, ends = _open_spans(
                    zone, _hashable(settings["windows"]), at[0] // _DAY, at[-1] // _DAY
                )
                caps.clear()
        assert regime is not None
        if now < free_at:
            found["cadence"] += 1
        free_at = now + cadence
        if spacing:
            paced.append((slots[row], spacing))
        day = (now + offsets[now // _QUARTER]) // _DAY
        if day in closed:
            found["blackout"] += 1
        if starts is not None:
            n = bisect_right(starts, now)
            if n == 0 or now >= ends[n - 1]:
                found["window"] += 1
        used_on[day] = used_on.get(day, 0) + 1
        half = leased < regime.throttled_until
        key = (day, half)
        if key in caps:
            cap = caps[key]
        else:
            cap = caps[key] = _day_cap(settings, day, regime.is_known, half)
        if cap is not None and used_on[day] > cap:
            found["daily_cap"] += 1
        if now // _HOUR != hour:
            hour, used_in_hour = now // _HOUR, 0
        used_in_hour += 1
        if hourly_cap is not None and used_in_hour > hourly_cap:
            found["hourly_cap"] += 1
    paced.sort()
    found["cadence"] += sum(
        following - slot < spacing for (slot, spacing), (following, _) in pairwise(paced)
    )


def _day_cap(settings: Fact, day: int, is_known: bool, half: bool) -> int | None:
    caps: list[int] = []
    if settings["daily_cap"] is not None:
        caps.append(settings["daily_cap"])
    if settings["ramp"] is not None:
        caps.append(_on_curve(settings["ramp"], day - _day(settings["ramp_from"])))
    if settings["health_floor"] and not is_known:
        caps.append(settings["probation_cap"])
    cap = min(caps, default=settings["ceiling_24h"] if half else None)
    if cap and half:
        return max(1, cap // 2)
    return cap


def _on_curve(points: Sequence[Sequence[int]], day: int) -> int:
    """Read a piecewise linear curve, whole messages only."""
    if day <= points[0][0]:
        return points[0][1]
    for (x0, y0), (x1, y1) in pairwise(points):
        if day <= x1:
            return y0 + (y1 - y0) * (day - x0) // (x1 - x0)
    return points[-1][1]


def _check_admission(
    sends: _Sends,
    rows: Sequence[int],
    history: _History,
    floors: Mapping[int, _Values],
    found: dict[str, int],
) -> None:
    """Whether it is active; campaign types, stage gate and health floor of one mailbox."""
    types, campaigns = sends.columns["campaign_type"], sends.columns["campaign"]
    highest = max((score for values in floors.values() for _, score in values), default=0)
    marks = sorted(
        {0, *(n for n, _ in history.settings), *(n for n, _ in history.health)}
        | {n for n, _ in history.stage}
    )
    for begin, end in zip(marks, [*marks[1:], _NEVER], strict=True):
        settings = _value_at(history.settings, begin)
        if settings is None:
            continue
        score: int | None = _value_at(history.health, begin)
        stage: int | None = _value_at(history.stage, begin)
        if stage is None:
            stage = 3 if settings["attested"] else 0
        if not settings["active"]:
            found["suspension"] += len(_between(rows, begin, end))
        allowed = {TYPES.index(name) for name in settings["types"]}
        gate = settings["stage_gate"] or {}
        low = {TYPES.index(name) for name, needed in gate.items() if stage < needed}
        if score is None or not settings["health_floor"] or score >= highest:
            score = highest
        if len(allowed) == len(TYPES) and not low and score == highest:
            continue
        for row in _between(rows, begin, end):
            if types[row] not in allowed:
                found["restriction"] += 1
            if types[row] in low:
                found["stage"] += 1
            if score < (_value_at(floors.get(campaigns[row], ()), row) or 0):
                found["health"] += 1


def _check_ceilings(
    sends: _Sends, histories: Mapping[int, _History], found: dict[str, int]
) -> None:
    """No account, whoever sends through it, passes its ceiling within any 24 hours."""
    at, reserved, mailboxes = sends.at, sends.reserved, sends.columns["mailbox"]
    accounts = sends.columns["account"]
    for rows in sends.by("account", set(accounts)).values():
        first = 0
        for n, row in enumerate(rows):
            now = at[row]
            while at[rows[first]] <= now - _DAY:
                first += 1
            regime = histories[mailboxes[row]].at(reserved[row])
            ceiling = regime.settings.get("ceiling_24h") if regime else None
            if ceiling is not None and n - first + 1 > ceiling:
                found["rolling_24h"] += 1


def _check_suspensions(sends: _Sends, facts: Sequence[Fact], found: dict[str, int]) -> None:
    """Nothing is submitted within a scope while a suspension of it is open."""
    at, workspaces = sends.at, sends.columns["workspace"]
    closed = {fact["suspension"]: fact["n"] for fact in facts if fact["kind"] == "resumed"}
    opened = [fact for fact in facts if fact["kind"] == "suspended"]
    refs: dict[str, set[int]] = defaultdict(set)
    for fact in opened:
        refs[fact["scope"]].add(fact["ref"])
    rows_of = {scope: sends.by(scope, named) for scope, named in refs.items()}
    for fact in opened:
        scope, until = fact["scope"], fact["until"] or _NEVER
        rows = rows_of[scope].get(fact["ref"], [])
        broken = sum(
            at[row] < until and workspaces[row] == fact["workspace"]
            for row in _between(rows, fact["n"], closed.get(fact["suspension"], _NEVER))
        )
        if fact["reason"] == "cooldown":
            found["cooldown"] += broken
        elif scope == "domain":
            found["domain_pause"] += broken
        else:
            found["suspension"] += broken


def _check_steps(sends: _Sends, facts: Sequence[Fact], found: dict[str, int]) -> None:
    """Each step of an enrollment is accepted once, in order; nothing goes out after a stop."""
    columns = sends.columns
    suppressed: dict[tuple[int, int], int] = {}
    ended: dict[int, int] = {}
    for fact in facts:
        if fact["kind"] == "suppressed":
            suppressed.setdefault((fact["workspace"], fact["address"]), fact["n"])
        elif fact["kind"] == "ended":
            ended.setdefault(fact["enrollment"], fact["n"])
    reached: dict[int, int] = {}
    jobs: set[int] = set()
    for row, (workspace, enrollment, address, step, job, accepted) in enumerate(
        zip(
            columns["workspace"],
            columns["enrollment"],
            columns["address"],
            columns["step"],
            columns["job"],
            columns["accepted"],
            strict=True,
        )
    ):
        if step != reached.get(enrollment, 0) + 1 or job in jobs:
            found["duplicate"] += 1
        if accepted:
            reached[enrollment] = step
            jobs.add(job)
        if (
            suppressed.get((workspace, address), _NEVER) <= row
            or ended.get(enrollment, _NEVER) <= row
        ):
            found["suppressed"] += 1


def _floors(facts: Iterable[Fact]) -> dict[int, list[tuple[int, Any]]]:
    floors: dict[int, list[tuple[int, Any]]] = defaultdict(list)
    for fact in facts:
        if fact["kind"] == "campaign":
            floors[fact["campaign"]].append((fact["n"], fact["min_health"]))
    return floors


def _value_at(values: _Values, row: int) -> Any:
    """Return the value in force at send `row`; None before the first."""
    n = bisect_right(values, row, key=lambda one: one[0])
    return values[n - 1][1] if n else None


def _between(rows: Sequence[int], begin: int, end: int) -> Sequence[int]:
    """Return those of the ascending `rows` in [begin, end)."""
    return rows[bisect_left(rows, begin) : bisect_left(rows, end)]


def _days(dates: Iterable[str]) -> frozenset[int]:
    return frozenset(map(_day, dates))


@cache
def _day(text: str) -> int:
    return date.fromisoformat(text).toordinal() - _EPOCH_DAY


class _Offsets(dict[int, int]):
    """A zone's offset from UTC in ms by quarter of an hour: no zone changes within one."""

    def __init__(self, zone: str) -> None:
        self._zone = ZoneInfo(zone)

    def __missing__(self, quarter: int) -> int:
        at = datetime.fromtimestamp(quarter * _QUARTER // 1000, UTC).astimezone(self._zone)
        offset = at.utcoffset() or timedelta()
        self[quarter] = value = offset // timedelta(milliseconds=1)
        return value


@cache
def _offsets(zone: str) -> _Offsets:
    return _Offsets(zone)


def _instant(zone: str, day: int, minute: int) -> int:
    """Return when the clocks of `zone` first show `minute` of `day`, or skip it."""
    offsets = _offsets(zone)
    wall = day * _DAY + minute * _MINUTE
    around = {offsets[(wall + shift) // _QUARTER] for shift in (-_DAY, 0, _DAY)}
    shown = [wall - one for one in around if offsets[(wall - one) // _QUARTER] == one]
    if shown:
        return min(shown)
    quarter = (wall - max(around)) // _QUARTER - 1
    while offsets[quarter] == offsets[quarter + 1]:
        quarter += 1
    return (quarter + 1) * _QUARTER


_Windows = tuple[tuple[tuple[int, ...], str, str], ...]


def _hashable(windows: Sequence[Mapping[str, Any]] | None) -> _Windows | None:
    if windows is None:
        return None
    return tuple((tuple(one["days"]), one["start"], one["end"]) for one in windows)


@cache
def _open_spans(
    zone: str, windows: _Windows | None, first: int, last: int
) -> tuple[list[int] | None, list[int]]:
    """Return starts and ends of the open time of the days around `first`..`last`, merged."""
    if windows is None:
        return None, []
    spans = []
    for day in range(first - 3, last + 4):
        for days, opens, closes in windows:
            if (day + 3) % 7 in days:  # 1 January 1970 was a Thursday.
                start, end = _minute(opens), _minute(closes)
                begin = _instant(zone, day, start)
                finish = _instant(zone, day + (end <= start), end)
                if begin < finish:
                    spans.append((begin, finish))
    starts: list[int] = []
    ends: list[int] = []
    for begin, finish in sorted(spans):
        if ends and begin <= ends[-1]:
            ends[-1] = max(ends[-1], finish)
        else:
            starts.append(begin)
            ends.append(finish)
    return starts, ends


def _minute(text: str) -> int:
    hours, minutes = text.split(":")
    return 60 * int(hours) + int(minutes)
