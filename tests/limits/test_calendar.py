"""The calendar while the house sends: summer time and back, long and short days, midnight.

Which instants a window amounts to on such a day is written down here, not computed.
"""

import signal
from datetime import datetime, timedelta
from typing import Final

import pytest
import pytest_asyncio

from tests.limits.house import MovedHouse
from tests.limits.judge import Box, next_change
from tests.limits.scene import OVERDUE, PATIENCE_S, Scene, enlist, prepare
from tests.waiting import until

CAP: Final = 3
NODES_CAP: Final = 8
CLAIMED: Final = "sender.after_claim"
PARIS: Final = "Europe/Paris"
SYDNEY: Final = "Australia/Sydney"
SECOND: Final = timedelta(seconds=1)
MINUTE: Final = timedelta(minutes=1)
HOUR: Final = timedelta(hours=1)
_DAY: Final = "SELECT 1 FROM scheduler.mailbox_budget WHERE mailbox_id = %s AND day = %s"
_AT_REST: Final = (
    "SELECT 1 WHERE NOT EXISTS (SELECT FROM scheduler.send_job WHERE workspace_id = %s"
    " AND state IN ('reserved', 'sending'))"
)

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def spring(house: MovedHouse) -> datetime:
    """When Paris goes to summer time: at 02:00 it is 03:00."""
    return next_change(PARIS, house.clock.now(), forward=True)


@pytest.fixture(scope="module")
def autumn(spring: datetime) -> datetime:
    """When Sydney goes back, a week later: at 03:00 it is 02:00.

    Paris does half a year later: longer than the house's certificates last.
    """
    return next_change(SYDNEY, spring, forward=False)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scenes(house: MovedHouse, spring: datetime, autumn: datetime) -> dict[str, Scene]:
    """All scenes, prepared the day before."""
    cast = {
        "spring": {
            "steady": Box(),
            "daily": Box(daily_cap=CAP, zone=PARIS),
            # 02:30 is skipped: it opens at the change.
            "opening": Box(
                windows=[("02:30", "03:30")], open=[(spring, spring + 30 * MINUTE)], zone=PARIS
            ),
            # 02:30 is skipped: it closes at the change.
            "closing": Box(
                windows=[("01:00", "02:30")], open=[(spring - HOUR, spring)], zone=PARIS
            ),
        },
        "autumn": {
            "steady": Box(),
            "daily": Box(daily_cap=CAP, zone=SYDNEY),
            # The hour that shows twice is two hours.
            "hourly": Box(hourly_cap=CAP, zone=SYDNEY),
            # It closes when 02:59 first shows, and does not open again.
            "closing": Box(
                windows=[("01:00", "02:59")], open=[(autumn - 2 * HOUR, autumn - MINUTE)],
                zone=SYDNEY,
            ),
            "again": Box(
                windows=[("02:00", "02:30")], open=[(autumn - HOUR, autumn - 30 * MINUTE)],
                zone=SYDNEY,
            ),
            # From the first 02:30 to 03:30, which shows once: two hours.
            "across": Box(
                windows=[("02:30", "03:30")], open=[(autumn - 30 * MINUTE, autumn + 90 * MINUTE)],
                zone=SYDNEY,
            ),
        },
        "midnight": {"node": Box(daily_cap=NODES_CAP, node=True)},
    }  # fmt: skip
    made = {name: Scene(house, name, boxes) for name, boxes in cast.items()}
    await enlist(made.values())
    await prepare(made.values())
    return made


async def test_summer_time_begins(
    house: MovedHouse, scenes: dict[str, Scene], spring: datetime
) -> None:
    house.clock.set(spring - MINUTE)
    async with scenes["spring"].running() as scene:
        await scene.until_sent("closing", 2)
        await scene.until_sent("daily", CAP)
        assert scene.count("opening") == 0
        house.clock.set(max(house.clock.now(), spring - 3 * SECOND))
        await scene.until_sent("opening", 2, since=spring)
        await scene.goes_on()
        assert scene.breaches() == []
        # That day is over an hour early: it began with the one hour as offset, and ends with two.
        midnight = spring + 21 * HOUR
        house.clock.set(midnight - 3 * SECOND)
        await scene.until_sent("daily", CAP, since=midnight)
        await scene.goes_on()
    assert scene.breaches() == []
    assert scene.count("daily") == 2 * CAP


async def test_summer_time_ends(
    house: MovedHouse, scenes: dict[str, Scene], autumn: datetime
) -> None:
    closes = autumn - MINUTE
    house.clock.set(closes - MINUTE)
    async with scenes["autumn"].running() as scene:
        await scene.until_sent("closing", 2)
        await scene.until_sent("daily", CAP)
        await scene.until_sent("hourly", CAP)
        house.clock.set(max(house.clock.now(), closes - 2 * SECOND))
        await scene.goes_on()
        house.clock.set(max(house.clock.now(), autumn - 3 * SECOND))
        await scene.until_sent("across", 2, since=autumn)
        await scene.until_sent("hourly", CAP, since=autumn)
        await scene.goes_on()
        assert scene.breaches() == []
        assert scene.count("again") == 0
        # That day has 25 hours: after 24 of them nothing is new.
        midnight = autumn + 22 * HOUR
        house.clock.set(midnight - HOUR - 2 * SECOND)
        await scene.until_sent("steady", 3, since=midnight - HOUR)
        assert scene.count("daily") == CAP
        house.clock.set(midnight - 2 * SECOND)
        await scene.until_sent("daily", CAP, since=midnight)
        await scene.goes_on()
    assert scene.breaches() == []
    assert scene.count("daily") == 2 * CAP


async def test_what_is_given_back_after_midnight_is_not_used_again(
    house: MovedHouse, scenes: dict[str, Scene], autumn: datetime
) -> None:
    midnight = (autumn + timedelta(days=2)).replace(hour=0)
    senders = house.those("sender")
    house.clock.set(midnight - MINUTE)
    async with scenes["midnight"].running() as scene:
        await scene.until_sent("node", 2)
        house.clock.set(max(house.clock.now(), midnight - 3 * SECOND))
        # Stopped with a claim of the old day; slots of the new one are leased meanwhile.
        for one in senders:
            one.order(CLAIMED, "stop")
        await until(
            lambda: any(one.obeyed(CLAIMED) for one in senders), "stopped", within_s=PATIENCE_S
        )
        assert house.clock.now() < midnight
        await until(
            lambda: house.sql(_DAY, scene.number("node"), midnight.date()), within_s=PATIENCE_S
        )
        await until(lambda: house.sql(OVERDUE), within_s=PATIENCE_S)
        for one in senders:
            one.withdraw()
            one.send(signal.SIGCONT)
        await scene.until_sent("node", NODES_CAP, since=midnight)
        # Much still waits; whatever could be used again would be by then.
        await until(lambda: house.sql(_AT_REST, scene.workspace), within_s=PATIENCE_S)
        await until(lambda: house.clock.now() > midnight + 15 * SECOND, within_s=PATIENCE_S)
    assert scene.breaches() == []
    assert scene.count("node", since=midnight) == NODES_CAP
