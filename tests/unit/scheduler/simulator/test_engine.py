"""The engine holds every limit, repeats itself by seed, and a broken rule shows in the checker."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from paceline_scheduler import policy
from paceline_scheduler.domain.blackout import Blackouts
from paceline_scheduler.domain.rules import ALL_TYPES, Rules
from paceline_scheduler.simulator import fleet
from paceline_scheduler.simulator.budget import Account, Budget
from paceline_scheduler.simulator.checker import check
from paceline_scheduler.simulator.engine import Engine
from paceline_scheduler.simulator.events import EventList
from paceline_scheduler.simulator.pacer import Pacer
from paceline_scheduler.simulator.plans import START
from paceline_scheduler.simulator.run import Size, simulate
from paceline_scheduler.simulator.sending import RESERVED

SMALL = Size(days=9, mailboxes=60, leads=2000, steps=2, seed=3)


def run(size: Size = SMALL) -> EventList:
    plans = fleet.generate(size.days, size.mailboxes, size.leads, size.steps, size.seed)
    return Engine(plans, str(size.seed)).run(size.days)


def test_a_small_fleet_sends_much_and_breaks_nothing() -> None:
    report = simulate(SMALL, workers=1)
    assert report["ok"]
    assert report["sends"] > 2500
    assert set(report["violations"].values()) == {0}
    assert report["enrollments"]["finished"] > 1000
    assert sum(report["per_day"].values()) == report["submissions"]


def test_equal_seeds_give_equal_events_and_others_do_not() -> None:
    size = Size(days=4, mailboxes=30, leads=600, steps=2, seed=3)
    digest = run(size).digest()
    assert run(size).digest() == digest
    assert run(replace(size, seed=4)).digest() != digest


def test_the_digest_depends_neither_on_the_hash_seed_nor_on_processes(tmp_path: Path) -> None:
    arguments = ["--days", "3", "--mailboxes", "30", "--leads", "400", "--seed", "5", "--json"]
    reports = []
    for workers, hash_seed in (("1", "0"), ("2", "4242")):
        done = subprocess.run(
            [sys.executable, "-m", "paceline_scheduler.simulator", *arguments,
             "--workers", workers, "--out", str(tmp_path / workers)],
            capture_output=True, text=True, check=True,
            env={"PYTHONHASHSEED": hash_seed, "PATH": ""},
        )  # fmt: skip
        reports.append(json.loads(done.stdout))
        assert json.loads((tmp_path / workers / "report.json").read_text()) == reports[-1]
    assert reports[0]["digest"] == reports[1]["digest"]
    assert reports[0]["sends"] == reports[1]["sends"] > 0


def test_three_steps_go_out_in_order() -> None:
    events = run(Size(days=12, mailboxes=30, leads=300, steps=3, seed=1))
    steps: dict[int, list[int]] = {}
    for enrollment, step, accepted in zip(
        events.columns["enrollment"],
        events.columns["step"],
        events.columns["accepted"],
        strict=True,
    ):
        if accepted:
            steps.setdefault(enrollment, []).append(step)
    assert max(map(len, steps.values())) == 3
    assert all(found == list(range(1, len(found) + 1)) for found in steps.values())


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        fleet.generate(0, 10, 10, 2, 7)


def _without(**changed: Any) -> Callable[[pytest.MonkeyPatch], None]:
    """Break the rules that the engine is given; the checker knows the true ones."""

    def apply(patch: pytest.MonkeyPatch) -> None:
        read = policy.read

        def broken(row: Mapping[str, Any]) -> Rules:
            return replace(read(row), **changed)

        patch.setattr(policy, "read", broken)

    return apply


def _no_holidays(patch: pytest.MonkeyPatch) -> None:
    read = policy.read

    def broken(row: Mapping[str, Any]) -> Rules:
        rules = read(row)
        return replace(rules, window=replace(rules.window, blackouts=Blackouts()))

    patch.setattr(policy, "read", broken)


def _hasty(patch: pytest.MonkeyPatch) -> None:
    read = policy.read

    def broken(row: Mapping[str, Any]) -> Rules:
        rules = read(row)
        return replace(rules, cadence=replace(rules.cadence, every=rules.cadence.every / 2))

    patch.setattr(policy, "read", broken)


def _always_open(patch: pytest.MonkeyPatch) -> None:
    read = policy.read

    def broken(row: Mapping[str, Any]) -> Rules:
        rules = read(row)
        return replace(rules, window=replace(rules.window, intervals=None))

    patch.setattr(policy, "read", broken)


def _no_gates(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Engine, "_suspended", lambda *_: None)
    patch.setattr(Pacer, "may_send", lambda _self, mailbox: mailbox.budget.active)


def _forgetful_account(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Account, "add", lambda *_: None)


def _unaware_of_health(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        "paceline_scheduler.routes.admits", lambda klass, kind, _floor: bool(klass & kind)
    )
    patch.setattr(Budget, "admits", lambda self, kind, _floor: bool(self.types & kind))


def _deaf(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        Engine,
        "_end",
        lambda self, enrollment, state: self.events.fact(
            self._now, "ended", enrollment=enrollment, state=state
        ),
    )


def _forgetful_of_sends(patch: pytest.MonkeyPatch) -> None:
    requeue = Engine._requeue
    accepted = Engine._accepted

    def twice(self: Engine, lease: Any, step: int) -> None:
        if lease.enrollment % 50 == 0 and step == 1:
            requeue(self, lease, self._now + 60_000, RESERVED)
        else:
            accepted(self, lease, step)

    patch.setattr(Engine, "_accepted", twice)


BROKEN: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], set[str]]] = {
    "no daily cap": (_without(daily_cap=None), {"daily_cap"}),
    "no ramp": (_without(ramp=None), {"daily_cap"}),
    "no hourly cap": (_without(hourly_cap=None), {"hourly_cap"}),
    "no ceiling": (_without(ceiling=None), {"rolling_24h"}),
    "accounts that are not counted": (_forgetful_account, {"rolling_24h"}),
    "half the cadence": (_hasty, {"cadence"}),
    "always open": (_always_open, {"window"}),
    "no holidays": (_no_holidays, {"blackout"}),
    "no restriction": (_without(types=ALL_TYPES), {"restriction"}),
    "no stage gate": (_without(stage_gate={}), {"stage"}),
    "no health floor": (_unaware_of_health, {"health"}),
    "no gates": (_no_gates, {"suspension", "cooldown", "domain_pause"}),
    "replies unheard": (_deaf, {"suppressed"}),
    "a step sent twice": (_forgetful_of_sends, {"duplicate"}),
}


@pytest.mark.parametrize("rule", BROKEN)
def test_a_broken_rule_shows(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    break_it, classes = BROKEN[rule]
    break_it(monkeypatch)
    # Over the holidays of November, with more to send than there is room for; gates close seldom.
    mailboxes = 400 if rule == "no gates" else 60
    size = Size(days=16, mailboxes=mailboxes, leads=6_000, steps=2, seed=11)
    found = {name for name, count in check(run(size)).items() if count}
    assert found >= classes


def test_virtual_days_hold_both_ends_of_summer_time() -> None:
    end = START + timedelta(days=30)
    for zone in ("Europe/Paris", "America/New_York"):
        tz = policy.zone(zone)
        assert START.astimezone(tz).utcoffset() != end.astimezone(tz).utcoffset()
