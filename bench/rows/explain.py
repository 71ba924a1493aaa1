"""Row 11: `explain` of enrollments with a million jobs queued, in the present and in the past."""

import asyncio
import json
import random
import statistics
import time
from datetime import timedelta
from typing import Final

from bench import house
from bench.measure import Result
from paceline_scheduler.explain import Explainer
from paceline_scheduler.ledger import Ledger
from paceline_scheduler.pacing.redis import RedisPacing
from paceline_scheduler.rebuild import PacingState

JOBS: Final = 1_000_000
MAILBOXES: Final = 2_000
QUESTIONS: Final = 300
GOAL_MS: Final = 50.0
# A day's slots of every mailbox, as a past answer finds them.
SLOTS: Final = 50
POLICY: Final = json.dumps(
    {
        "cadence_s": 60, "jitter_s": [5, 30], "daily_cap": 400, "hourly_cap": 60,
        "ceiling_24h": 1800, "ramp": {"curve": [[0, 500]]},
        "windows": [{"days": [0, 1, 2, 3, 4, 5, 6], "start": "00:00", "end": "00:00"}],
    }
)  # fmt: skip


def measure(repeats: int) -> list[Result]:
    """Return the p99 of `explain`, now and in the past, in ms: the median of `repeats` runs."""
    with house.servers() as made:
        return asyncio.run(_measure(made, repeats))


async def _measure(made: house.Servers, repeats: int) -> list[Result]:
    house.campaign(made, mailboxes=MAILBOXES, policy=POLICY)
    house.jobs(made, JOBS)
    async with made.scheduler() as (db, queries, redis):
        kept = timedelta(days=30)
        ledger = Ledger(db, queries, kept)
        state = PacingState(db, queries, RedisPacing(redis), ledger, house.rng())
        await state.rebuild(house.WS)
        _history(made)
        explainer = Explainer(db, queries, kept)
        chance = random.Random(7)
        past = made.sql("SELECT now() - interval '20 s'")[0][0]
        made.sql("UPDATE scheduler.decision SET first_at = first_at - interval '1 hour'")
        made.sql("UPDATE scheduler.enrollment SET enrolled_at = enrolled_at - interval '2 hours'"
                 " WHERE enrollment_id %% 1000 = 7")  # fmt: skip
        made.sql("VACUUM ANALYZE")
        numbers = [1000 * chance.randrange(JOBS // 1000) + 7 for _ in range(QUESTIONS)]
        found = {}
        for name, at in (("present", None), ("past", past)):
            p99s = []
            for _ in range(repeats + 1):
                took = []
                for number in numbers:
                    start = time.perf_counter()
                    told = await explainer.explain(house.WS, number, at)
                    took.append((time.perf_counter() - start) * 1000)
                    assert told is not None
                p99s.append(statistics.quantiles(took, n=100)[98])
            # The first run warms plans and pages.
            found[name] = statistics.median(p99s[1:])
    return [
        Result(11, f"explain, {name}, 1 M jobs queued, p99", "ms", ms, 1.0, GOAL_MS, "lower")
        for name, ms in found.items()
    ]


def _history(made: house.Servers) -> None:
    """Write what a day leaves: slots of every mailbox, of jobs long sent."""
    made.sql(
        "INSERT INTO scheduler.slot (workspace_id, job_id, fence, mailbox_id, slot_at, not_after,"
        " day, hour, day_used, day_cap, reserved_at)"
        " SELECT %s, 10000000 + n, 1, 1 + n %% %s, t.at, t.at, t.at::date,"
        " date_trunc('hour', t.at), 1, 400, t.at"
        " FROM generate_series(1, %s) AS n,"
        " LATERAL (SELECT now() - interval '20 min' - n / %s * interval '75 s' AS at) AS t",
        house.WS, MAILBOXES, MAILBOXES * SLOTS, MAILBOXES,
    )  # fmt: skip
