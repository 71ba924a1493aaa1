"""The checker counts each kind of broken limit, and nothing where none is broken."""

import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from paceline_scheduler.simulator.checker import CLASSES, check
from paceline_scheduler.simulator.events import TYPES, EventList

# A Tuesday, 10:00 in Paris (summer time ended two days before).
TUESDAY = datetime(2026, 10, 27, 9, 0, tzinfo=UTC)
MAILBOX, OTHER, WORKSPACE, CAMPAIGN, POOL, DOMAIN = 11, 12, 1, 21, 31, 41
SETTINGS: dict[str, Any] = {
    "workspace": WORKSPACE,
    "account": 51,
    "domain": DOMAIN,
    "zone": "Europe/Paris",
    "active": True,
    "cadence_ms": 90_000,
    "spacing_ms": 0,
    "daily_cap": None,
    "hourly_cap": None,
    "ceiling_24h": None,
    "ramp": None,
    "ramp_from": "2026-10-01",
    "probation_cap": 50,
    "windows": [{"days": [0, 1, 2, 3, 4], "start": "09:00", "end": "17:00"}],
    "blackouts": [],
    "holidays": [],
    "types": list(TYPES),
    "stage_gate": {"cold": 3, "nurture": 2},
    "attested": True,
    "health_floor": True,
}


def ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)


class Forged:
    """An event list written by hand; sends are two minutes apart unless said otherwise."""

    def __init__(self, **settings: Any) -> None:
        self.events = EventList()
        self.at = TUESDAY
        self.sent = 0
        long_ago = ms(TUESDAY - timedelta(days=20))
        self.events.fact(
            long_ago, "campaign", campaign=CAMPAIGN, workspace=WORKSPACE, type="cold", min_health=70
        )
        for mailbox in (MAILBOX, OTHER):
            facts = SETTINGS | {"mailbox": mailbox} | settings
            self.events.fact(long_ago, "mailbox", **facts)
            self.events.fact(long_ago, "health", mailbox=mailbox, score=90)
            self.events.fact(long_ago, "stage", mailbox=mailbox, stage=4)

    def fact(self, kind: str, **values: Any) -> "Forged":
        self.events.fact(ms(self.at), kind, **values)
        return self

    def settings(self, **changed: Any) -> "Forged":
        return self.fact("mailbox", **SETTINGS | {"mailbox": MAILBOX} | changed)

    def send(
        self,
        after: timedelta = timedelta(minutes=2),
        *,
        mailbox: int = MAILBOX,
        enrollment: int | None = None,
        step: int = 1,
        accepted: bool = True,
        reserved: timedelta = timedelta(seconds=2),
    ) -> "Forged":
        self.at += after
        self.sent += 1
        who = 1000 + self.sent if enrollment is None else enrollment
        self.events.send(
            ms(self.at), ms(self.at), ms(self.at - reserved), WORKSPACE, mailbox, 51, DOMAIN,
            CAMPAIGN, TYPES.index("cold"), POOL, who, who, step, who * 16 + step - 1, accepted,
        )  # fmt: skip
        return self

    def sends(self, count: int, after: timedelta = timedelta(minutes=2)) -> "Forged":
        for _ in range(count):
            self.send(after)
        return self

    def suspend(self, scope: str, ref: int, reason: str, until: datetime | None = None) -> "Forged":
        return self.fact(
            "suspended", suspension=1, workspace=WORKSPACE, scope=scope, ref=ref, reason=reason,
            until=until and ms(until),
        )  # fmt: skip


def found(forged: Forged) -> dict[str, int]:
    return {name: count for name, count in check(forged.events).items() if count}


BROKEN: dict[str, Callable[[], Forged]] = {
    "cadence": lambda: Forged().send().send(timedelta(seconds=89.999)),
    "hourly_cap": lambda: Forged(hourly_cap=3).sends(4),
    "daily_cap": lambda: Forged(daily_cap=3).sends(4, timedelta(hours=1)),
    "rolling_24h": lambda: (
        Forged(ceiling_24h=2).send().send().send(timedelta(hours=24) - timedelta(minutes=3))
    ),
    "window": lambda: Forged().send(timedelta(hours=-1, milliseconds=-1)),
    "blackout": lambda: Forged(blackouts=["2026-10-27"]).send(),
    "stage": lambda: Forged().fact("stage", mailbox=MAILBOX, stage=2).send(),
    "health": lambda: Forged().fact("health", mailbox=MAILBOX, score=69).send(),
    "restriction": lambda: Forged(types=["nurture", "transactional"]).send(),
    "cooldown": lambda: Forged().suspend("mailbox", MAILBOX, "cooldown").send(),
    "domain_pause": lambda: Forged().suspend("domain", DOMAIN, "domain_paused").send(),
    "suspension": lambda: Forged().suspend("mailbox", MAILBOX, "node_failed").send(),
    "duplicate": lambda: Forged().send(enrollment=7).send(enrollment=7),
    "suppressed": lambda: (
        Forged().fact("suppressed", workspace=WORKSPACE, address=7).send(enrollment=7)
    ),
}


def test_every_class_is_forged_here() -> None:
    assert set(BROKEN) == set(CLASSES)


@pytest.mark.parametrize("name", CLASSES)
def test_a_broken_limit_is_counted_once_and_as_what_it_is(name: str) -> None:
    assert found(BROKEN[name]()) == {name: 1}


HELD: dict[str, Callable[[], Forged]] = {
    "exactly one cadence apart": lambda: Forged().send().send(timedelta(seconds=90)),
    "as many as the hour may have, and the next hour": lambda: (
        Forged(hourly_cap=3).sends(3).send(timedelta(minutes=54))
    ),
    "as many as the day may have, and the next day": lambda: (
        Forged(daily_cap=3).sends(3).send(timedelta(hours=24))
    ),
    "the ceiling, and again after 24 hours": lambda: (
        Forged(ceiling_24h=2).sends(2).send(timedelta(hours=24))
    ),
    "the first and the last instant of the window": lambda: (
        Forged().send(timedelta(hours=-1)).send(timedelta(hours=8, milliseconds=-1))
    ),
    "an attested mailbox that nobody measured counts as one of stage 3": lambda: (
        Forged().fact("stage", mailbox=MAILBOX, stage=None).send()
    ),
    "health that recovered": lambda: (
        Forged()
        .fact("health", mailbox=MAILBOX, score=10)
        .fact("health", mailbox=MAILBOX, score=70)
        .send()
    ),
    "health nobody asks for": lambda: (
        Forged(health_floor=False).fact("health", mailbox=MAILBOX, score=10).send()
    ),
    "after a suspension's time": lambda: (
        Forged().suspend("mailbox", MAILBOX, "cooldown", TUESDAY + timedelta(minutes=2)).send()
    ),
    "after a resume": lambda: (
        Forged().suspend("pool", POOL, "operator").fact("resumed", suspension=1).send()
    ),
    "a second try of what the host refused for a while": lambda: (
        Forged().send(enrollment=7, accepted=False).send(enrollment=7).send(enrollment=7, step=2)
    ),
    "leased before the cap was lowered": lambda: (
        Forged().send().settings(daily_cap=1).send(reserved=timedelta(minutes=3))
    ),
}


@pytest.mark.parametrize("what", HELD)
def test_a_limit_that_is_just_held_is_no_violation(what: str) -> None:
    assert found(HELD[what]()) == {}


@pytest.mark.parametrize(
    ("scope", "ref"),
    [("workspace", WORKSPACE), ("campaign", CAMPAIGN), ("pool", POOL), ("enrollment", 1001)],
)
def test_suspensions_of_every_scope_are_seen(scope: str, ref: int) -> None:
    assert found(Forged().suspend(scope, ref, "operator").send()) == {"suspension": 1}


def test_an_inactive_mailbox_sends_nothing() -> None:
    assert found(Forged().settings(active=False).send()) == {"suspension": 1}


def test_a_ceiling_counts_all_mailboxes_of_the_account() -> None:
    forged = Forged(ceiling_24h=2).send().send(mailbox=OTHER).send()
    assert found(forged) == {"rolling_24h": 1}


def test_unknown_health_is_held_to_the_probation_cap() -> None:
    forged = Forged(probation_cap=2, ramp=[[0, 9]])
    forged.fact("health", mailbox=MAILBOX, score=None).sends(3)
    assert found(forged) == {"daily_cap": 1}


def test_a_ramp_is_read_on_the_day_and_between_its_points() -> None:
    # Day 26 of a curve from 0 at day 20 to 10 at day 30: 6.
    assert found(Forged(ramp=[[0, 0], [20, 0], [30, 10]]).sends(6)) == {}
    assert found(Forged(ramp=[[0, 0], [20, 0], [30, 10]]).sends(7)) == {"daily_cap": 1}


def test_a_throttled_mailbox_has_half_its_cap() -> None:
    until = ms(TUESDAY + timedelta(hours=1))
    forged = Forged(daily_cap=5).fact("throttle", mailbox=MAILBOX, until=until)
    assert found(forged.sends(3)) == {"daily_cap": 1}


def test_a_cap_lowered_in_mid_day_holds_from_then_on() -> None:
    forged = Forged(daily_cap=10).sends(3).settings(daily_cap=2)
    assert found(forged.send()) == {"daily_cap": 1}


def test_a_node_keeps_its_rate_by_its_slots() -> None:
    forged = Forged(cadence_ms=0, spacing_ms=1000)
    forged.send(timedelta(seconds=1)).send(timedelta(seconds=1))
    assert found(forged) == {}
    assert found(forged.send(timedelta(seconds=0.999))) == {"cadence": 1}


def test_a_day_is_a_local_day_also_when_it_has_25_hours() -> None:
    always = [{"days": list(range(7)), "start": "00:00", "end": "00:00"}]
    forged = Forged(daily_cap=2, windows=always)
    # Sunday 25 October 2026 in Paris: 22:00 UTC the day before to 23:00 UTC.
    forged.at = datetime(2026, 10, 24, 22, 0, tzinfo=UTC)
    forged.send(timedelta()).send(timedelta(hours=24, minutes=50))
    assert found(forged) == {}
    assert found(forged.send(timedelta(minutes=9))) == {"daily_cap": 1}


def test_windows_follow_the_clocks() -> None:
    night = [{"days": list(range(7)), "start": "02:30", "end": "04:00"}]
    # 02:30 comes twice on 25 October; the first pass opens, at 00:30 UTC; 04:00 is 03:00 UTC.
    opens, closes = (
        datetime(2026, 10, 25, 0, 30, tzinfo=UTC),
        datetime(2026, 10, 25, 3, 0, tzinfo=UTC),
    )
    for at, broken in [
        (opens - timedelta(seconds=1), 1),
        (opens, 0),
        (closes - timedelta(seconds=1), 0),
        (closes, 1),
    ]:
        forged = Forged(windows=night)
        forged.at = at
        assert check(forged.send(timedelta()).events)["window"] == broken


def test_an_unknown_mailbox_has_no_right_to_send() -> None:
    assert found(Forged().send(mailbox=99)) == {"window": 1}


def test_a_list_reads_back_as_written(tmp_path: Any) -> None:
    forged = Forged().sends(3).suspend("mailbox", MAILBOX, "cooldown")
    forged.events.write(tmp_path)
    read = EventList.read(tmp_path)
    assert read.columns == forged.events.columns
    assert read.facts == forged.events.facts
    assert read.digest() == forged.events.digest()


def test_it_loads_nothing_of_what_decides() -> None:
    script = (
        "import sys, paceline_scheduler.simulator.checker\n"
        "print(*[name for name in sys.modules if name.startswith('paceline_scheduler')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split()) == {
        "paceline_scheduler",
        "paceline_scheduler.simulator",
        "paceline_scheduler.simulator.checker",
        "paceline_scheduler.simulator.events",
    }
