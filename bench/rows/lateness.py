"""Row 7: how late MAIL FROM comes, on the whole house under half its load, against bare timers;
and the second half of row 6: what the sender keeps of a mailbox it has served."""

import asyncio
import json
import math
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Final

import msgspec
from confluent_kafka import Producer
from pydantic import SecretStr

from bench import house
from bench.measure import Result
from paceline_common import events, ids, topics
from paceline_common.keys import KeyAdmin, KeyService
from paceline_common.settings import ServiceSettings
from paceline_local.process import wait_until
from paceline_local.stack import Stack

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
PATIENCE_S: Final = 300.0
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
class Arrival:
    """A message at the sink: when its MAIL FROM came, by CLOCK_REALTIME."""

    job: int
    mailbox: int
    at_ns: int


@dataclass(frozen=True, slots=True)
class Sent:
    """A slot and its message. `late_ns`: from the one's opening to MAIL FROM."""

    mailbox: int
    slot_ns: int
    late_ns: int


@contextmanager
def _process(output: Path, *argv: str) -> Iterator[None]:
    """Run a module of the bench; it ends with its standard input."""
    with output.open("wb") as stream:
        child = subprocess.Popen(
            [sys.executable, "-m", *argv], stdin=subprocess.PIPE, stdout=stream
        )
    try:
        yield
    finally:
        child.communicate(timeout=30)


@dataclass(frozen=True, slots=True)
class Sink:
    """What the SMTP sink wrote."""

    output: Path

    def port(self) -> int:
        """Wait for the sink to listen; return where."""
        _await(lambda: self.output.read_bytes().endswith(b"\n"), "the sink listens")
        return int(self.output.read_text())

    def count(self) -> int:
        """Return how many messages it has taken."""
        return self.output.read_bytes().count(b"\n") - 1

    def arrivals(self) -> list[Arrival]:
        """Return every message taken so far."""
        rows = [line.split() for line in self.output.read_text().splitlines()[1:]]
        return [
            Arrival(ids.decode("job", job), int(sender[1 : sender.index("@")]), int(at))
            for job, sender, at in rows
        ]


class Run:
    """The whole house with its queue, the sink, and what is asked of its mailboxes."""

    def __init__(self, made: house.Servers, sink: Sink) -> None:
        self._made, self._stack, self._sink = made, made.stack, sink

    def begin(self) -> None:
        """Queue the jobs, connect every mailbox, and start what paces and sends."""
        house.campaign(self._made, mailboxes=OTHERS.stop - 1, policy="{}")
        self._made.sql("UPDATE gateway.mailbox SET is_active = false")
        house.jobs(self._made, JOBS)
        asyncio.run(self._connect())
        changed = self._set(FLOOD, FLOODING)
        for name in ("sender", "scheduler"):
            self._stack.restart(name)
        # With the first it hears of a workspace the scheduler reads the whole of it.
        _tell(self._stack, changed)
        _await(lambda: self._sink.count() > 0, "the first message")

    async def _connect(self) -> None:
        """Give every mailbox the sink and a sealed password."""
        admin = KeyAdmin(_login(self._made, "admin"))
        await admin.create_workspace_keys(house.WS)
        admin.close()
        smtp = {"host": "127.0.0.1", "port": self._sink.port(), "tls": "none", "username": "bench"}
        password = msgspec.json.encode({"password": "any"})
        every = range(FLOOD.start, OTHERS.stop)
        async with KeyService(_login(self._made, "gateway")) as keys:
            sealed = await asyncio.gather(
                *(keys.seal("send", house.WS, password, table="mailbox", row=n) for n in every)
            )
        self._made.sql(
            "UPDATE gateway.mailbox AS m SET smtp = %s, send_credential = u.sealed"
            " FROM unnest(%s::bigint[], %s::bytea[]) AS u(mailbox_id, sealed)"
            " WHERE m.mailbox_id = u.mailbox_id",
            json.dumps(smtp), list(every), sealed,
        )  # fmt: skip

    def capacity(self) -> float:
        """Return messages per second that the house sends when it is asked for ever more."""
        time.sleep(WARM_UP_S)
        before = self._sink.count()
        time.sleep(CAPACITY_S)
        return (self._sink.count() - before) / CAPACITY_S

    def _set(self, mailboxes: range, policy: dict[str, Any]) -> list[tuple[int, int]]:
        """Have these mailboxes send by `policy`, and no others; return who changed, to what."""
        rows: list[tuple[int, int]] = self._made.sql(
            "UPDATE gateway.mailbox SET is_active = mailbox_id BETWEEN %s AND %s, policy = %s,"
            " version = version + 1 WHERE is_active OR mailbox_id BETWEEN %s AND %s"
            " RETURNING mailbox_id, version",
            mailboxes.start, mailboxes.stop - 1, json.dumps(policy), mailboxes.start,
            mailboxes.stop - 1,
        )  # fmt: skip
        return rows

    def turn_to(self, mailboxes: range, policy: dict[str, Any], spread_s: float) -> None:
        """Have these mailboxes send from now on, and no others, the first slots spread out."""
        changed = self._set(mailboxes, policy)
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
        _tell(self._stack, changed)

    def window(self, seconds: float) -> tuple[int, int]:
        """Let time pass; return its bounds in ns of CLOCK_REALTIME."""
        start = time.time_ns()
        time.sleep(seconds)
        return start, time.time_ns()

    def await_served(self, mailboxes: range) -> None:
        """Wait until each of these mailboxes has sent something."""
        wanted = set(mailboxes)
        _await(
            lambda: wanted <= {one.mailbox for one in self._sink.arrivals()}, "all are served", 1.0
        )

    def quiet_bytes(self) -> int:
        """Return the sender's own resident bytes (RssAnon, proc(5)) once it has nothing to do.

        Taken as the process is: nobody asks its allocator to give anything back.
        """
        _await(self._is_idle, "the sender is idle", 1.0)
        record = self._stack.processes.find("sender")
        assert record is not None
        status = Path(f"/proc/{record.pid}/status").read_text()
        found = re.search(r"^RssAnon:\s+(\d+) kB", status, re.MULTILINE)
        assert found is not None
        return int(found[1]) * 1024

    def _is_idle(self) -> bool:
        ((busy,),) = self._made.sql(
            "SELECT EXISTS (SELECT FROM scheduler.send_job WHERE state IN ('reserved', 'sending'))"
        )
        return not busy

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


def _login(made: house.Servers, principal: str) -> ServiceSettings:
    secret = made.stack.passwords.folder(principal) / "paceline_keys_secret_id"
    return made.settings(principal).model_copy(
        update={
            "keys_url": made.stack.keys.url(),
            "keys_role_id": made.stack.keys.role_id(principal),
            "keys_secret_id": SecretStr(secret.read_text()),
        }
    )


def _tell(stack: Stack, changed: Sequence[tuple[int, int]]) -> None:
    """Tell `mailbox-changed`, as the gateway would."""
    producer = Producer(stack.kafka.client_config("gateway"))
    workspace = ids.encode("ws", house.WS)
    for number, version in changed:
        mailbox = ids.encode("mbx", number)
        body = events.MailboxChanged(workspace_id=workspace, mailbox_id=mailbox, version=version)
        producer.produce(
            topics.MAILBOX_CHANGED.name,
            key=mailbox,
            value=msgspec.json.encode(body),
            headers={
                "ce_specversion": "1.0",
                "ce_id": ids.new_event_id(),
                "ce_type": events.event_type(topics.MAILBOX_CHANGED),
                "ce_source": "gateway",
                "ce_time": datetime.now(UTC).isoformat(),
                "ce_workspaceid": workspace,
                "content-type": "application/json",
            },
        )
    if producer.flush(30):
        raise RuntimeError("Kafka took not every event")


def _await(condition: Callable[[], bool], what: str, every: float = 0.1) -> None:
    if not wait_until(condition, PATIENCE_S, every):
        raise TimeoutError(f"waited {PATIENCE_S:g} s in vain: {what}")


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
        sink, timers = Sink(folder / "sink"), folder / "timers"
        made = stack.enter_context(house.everything())
        stack.enter_context(_process(sink.output, "bench.smtp_sink"))
        run = Run(made, sink)
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
        with _process(timers, "bench.bare_timer", str(rate)):
            windows = [run.window(WINDOW_S) for _ in range(repeats)]
        run.turn_to(OTHERS, SINGLE, len(OTHERS) / rate)
        before = run.quiet_bytes()
        run.await_served(OTHERS)
        grown = run.quiet_bytes() - before
        sent, strange = run.sent()
        offences = strange + _offences(sink.arrivals(), sent, cadence_s)
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
