from typing import get_args

import pytest

from paceline_gateway.domain.campaign import (
    ENDED,
    STATUSES,
    Action,
    Move,
    Refused,
    Status,
    Stay,
    apply,
)

ACTIONS = get_args(Action)


@pytest.mark.parametrize(
    ("action", "status", "to"),
    [
        ("start", "draft", "running"),
        ("schedule", "draft", "scheduled"),
        ("start", "scheduled", "running"),
        ("unschedule", "scheduled", "draft"),
        ("pause", "running", "paused"),
        ("resume", "paused", "running"),
        ("resume", "auto_paused", "running"),
        ("stop", "paused", "stopped"),
        ("archive", "stopped", "archived"),
    ],
)
def test_moves(action: Action, status: Status, to: Status) -> None:
    assert apply(action, status) == Move(to)


def test_a_repeated_action_changes_nothing() -> None:
    assert apply("start", "running") == Stay()
    assert apply("pause", "paused") == Stay()
    assert apply("stop", "stopped") == Stay()


def test_a_refusal_names_where_the_action_works() -> None:
    assert apply("pause", "draft") == Refused(("running", "auto_paused"))


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("status", sorted(ENDED))
def test_nothing_leads_back_from_an_end(action: Action, status: Status) -> None:
    step = apply(action, status)
    assert not isinstance(step, Move) or step.status in ENDED


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("status", STATUSES)
def test_every_pair_has_an_answer(action: Action, status: Status) -> None:
    assert isinstance(apply(action, status), Move | Stay | Refused)
