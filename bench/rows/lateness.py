"""Row 7: how late MAIL FROM comes, on the whole house under half its load, against bare timers;
and the second half of row 6: what the sender keeps of a mailbox it has served."""

import json
import math
import re
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench import house
from bench.measure import Result
from bench.sink import Arrival, Sink, await_, process, sink

JOBS: Final = 1_000_000
# Numbers of mailboxes. Some ask for all that the house can do; half of that is shared by those
# that are timed; then others come, to be remembered or not.
FLOOD: Final = range(1, 65)
TIMED: Final = range(65, 2_065)
OTHERS: Final = range(2_065, 5_065)

WARM_UP_S: Final = 10.0
CAPACITY_S: Final = 20.0
WINDOW_S: Final = 30.0
GOAL_P999_MS: Final = 20.0
GOAL_BYTES: Final = 2048
# How long after its settings a mailbox's first slot comes: they are to be known by then.
HEAD_START_S: Final = 15.0
# Every 100th timed mailbox may send this often in a day: less often than it could.
CAPPED: Final = range(100, TIMED.stop, 100)
CAP: Final = 2
JITTER_S: Final = (2.0, 8.0)
GRACE_S: Final = 2.0
# No distance between slots, and time enough for every one that was leased.
FLOODING: Final = {
    "profile": "node", "cadence_s": None, "grace_s": 20.0, "max_outstanding": 4, "windows": None,
}  # fmt: skip
SINGLE: Final = {"windows": None}


@dataclass(frozen=True, slots=True)
class Sent:
    """A slot and its message. `late_ns`: from the one's opening to MAIL FROM."""

    mailbox: int
    slot_ns: int
    late_ns: int


class Run:
    """The whole house with its queue, the sink, and what is asked of its mailboxes."""

    def __init__(self, made: house.Servers, sink: Sink) -> None:
        self._made, self._stack, self._sink = made, made.stack, sink

    def begin(self) -> None:
        """Queue the jobs, connect every mailbox, and start what paces and sends."""
        house.campaign(self._made, mailboxes=OTHERS.stop - 1, policy="{}")
        self._made.sql("UPDATE gateway.mailbox SET is_active = false")
        house.jobs(self._made, JOBS)
        every = range(FLOOD.start, OTHERS.stop)
        settings = {
            "host": "127.0.0.1", "port": self._sink.port(), "tls": "none", "username": "bench",
        }  # fmt: skip
        house.connect(self._made, every, settings)
        changed = house.activate(self._made, FLOOD, FLOODING)
        for name in ("sender", "scheduler"):
            self._stack.restart(name)
        # With the first it hears of a workspace the scheduler reads the whole of it.
        house.tell(self._made, changed)
        await_(lambda: self._sink.count() > 0, "the first message")

    def capacity(self) -> float:
        """Return messages per second that the house sends when it is asked for ever more."""
        time.sleep(WARM_UP_S)
        before = self._sink.count()
        time.sleep(CAPACITY_S)
        return (self._sink.count() - before) / CAPACITY_S

    def turn_to(self, mailboxes: range, policy: dict[str, Any], spread_s: float) -> None:
        """Have these mailboxes send from now on, and no others, the first slots spread out."""
        changed = house.activate(self._made, mailboxes, policy)
        self._made.sql(
            "UPDATE gateway.mailbox SET policy = policy || %s WHERE mailbox_id = ANY (%s)",
            json.dumps({"daily_cap": CAP}), list(CAPPED),
        )  # fmt: skip
        self._made.sql(
            "UPDATE scheduler.mailbox_budget"
            " SET next_at = clock_timestamp() + make_interval(secs => %s + random() * %s)"
            " WHERE mailbox_id BETWEEN %s AND %s",
            HEAD_START_S, spread_s, mailboxes.start, mailboxes.stop - 1,
        )  # fmt: skip
        house.tell(self._made, changed)

    def window(self, seconds: float) -> tuple[int, int]:
        """Let time pass; return its bounds in ns of CLOCK_REALTIME."""
        start = time.time_ns()
        time.sleep(seconds)
        return start, time.time_ns()

    def await_served(self, mailboxes: range) -> None:
        """Wait until each of these mailboxes has sent something."""
        wanted = set(mailboxes)
        await_(
            lambda: wanted <= {one.mailbox for one in self._sink.arrivals()}, "all are served", 1.0
        )

    def quiet_bytes(self) -> int:
        """Return the sender's own resident bytes (RssAnon, proc(5)) once it has nothing to do.

        Taken as the process is: nobody asks its allocator to give anything back.
        """
        await_(self._made.idle, "the sender is idle", 1.0)
        status = Path(f"/proc/{self._made.pid('sender')}/status").read_text()
        found = re.search(r"^RssAnon:\s+(\d+) kB", status, re.MULTILINE)
        assert found is not None
        return int(found[1]) * 1024

    def sent(self) -> tuple[list[Sent], int]:
        """Return every message with its slot, and how many came without one or twice."""
        slots: dict[int, int] = dict(
            self._made.sql(
                "SELECT job_id, (extract(epoch FROM slot_at) * 1000000000)::bigint"
                " FROM scheduler.slot JOIN sender.attempt USING (workspace_id, job_id, fence)"
                " WHERE claimed_at IS NOT NULL"
            )
        )
        sent, strange = [], 0
        for one in self._sink.arrivals():
            slot_ns = slots.pop(one.job, None)
            if slot_ns is None:
                strange += 1
            else:
                sent.append(Sent(one.mailbox, slot_ns, one.at_ns - slot_ns))
        return sent, strange


def _quantile(values: Sequence[float], share: float) -> float:
    """Return the value that `share` of all do not exceed (nearest rank)."""
    return sorted(values)[math.ceil(share * len(values)) - 1]


def _offences(arrivals: Sequence[Arrival], sent: Sequence[Sent], cadence_s: float) -> int:
    """Count messages that came early, too close to the one before, or over a cap."""
    early = sum(one.late_ns < 0 for one in sent)
    by_mailbox: dict[int, list[int]] = {}
    for one in arrivals:
        if one.mailbox in TIMED:
            by_mailbox.setdefault(one.mailbox, []).append(one.at_ns)
    close = sum(
        later - earlier < cadence_s * 1e9
        for instants in by_mailbox.values()
        for earlier, later in pairwise(sorted(instants))
    )
    days = Counter((one.mailbox, one.slot_ns // 86_400_000_000_000) for one in sent)
    over = sum(max(0, n - CAP) for (mailbox, _), n in days.items() if mailbox in CAPPED)
    return early + close + over


def measure(repeats: int) -> list[Result]:
    """Rows 7 and 6. One run of `repeats` windows, in each of which the timers run beside."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pl-bench-")))
        timers = folder / "timers"
        made = stack.enter_context(house.everything())
        taker = stack.enter_context(sink())
        run = Run(made, taker)
        run.begin()
        capacity = run.capacity()
        rate = capacity / 2
        spacing_s = len(TIMED) / rate
        cadence_s = spacing_s - sum(JITTER_S) / 2
        policy = {
            "cadence_s": cadence_s, "jitter_s": JITTER_S, "grace_s": GRACE_S, "windows": None,
        }  # fmt: skip
        run.turn_to(TIMED, policy, spacing_s)
        time.sleep(HEAD_START_S + WARM_UP_S)
        with process(timers, "bench.bare_timer", str(rate)):
            windows = [run.window(WINDOW_S) for _ in range(repeats)]
        run.turn_to(OTHERS, SINGLE, len(OTHERS) / rate)
        before = run.quiet_bytes()
        run.await_served(OTHERS)
        grown = run.quiet_bytes() - before
        sent, strange = run.sent()
        offences = strange + _offences(taker.arrivals(), sent, cadence_s)
        bare = [
            (int(due), int(late) / 1e6)
            for due, late in map(str.split, timers.read_text().splitlines())
        ]
    ours = [[one.late_ns / 1e6 for one in sent if a <= one.slot_ns < b] for a, b in windows]
    theirs = [[late for due, late in bare if a <= due < b] for a, b in windows]
    every = [late for window in ours for late in window]
    return [
        Result(6, f"idle sender bytes per mailbox, {len(OTHERS)} served, against 2 KB", "B",
               grown / len(OTHERS), GOAL_BYTES, 1, "lower"),
        Result(7, f"slot to MAIL FROM, p99 at {len(every) / WINDOW_S / repeats:.0f}/s of"
               f" {capacity:.0f}/s, 1 M queued, against a bare timer's", "ms",
               median(_quantile(one, 0.99) for one in ours),
               median(_quantile(one, 0.99) for one in theirs), 5, "lower"),
        Result(7, f"slot to MAIL FROM, p99.9 (p50 {_quantile(every, 0.5):.2f}, first"
               f" {min(every):.3f}, last {max(every):.1f}), against 20 ms", "ms",
               _quantile(every, 0.999), GOAL_P999_MS, 1, "lower"),
        Result(7, f"early, too close or over a cap, of {len(sent)} messages", "messages",
               offences, 1, 0, "lower"),
    ]  # fmt: skip
