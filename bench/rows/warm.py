"""Row 2: the sender alone over connections that are open already, against a loop of aiosmtplib
and against Postfix's `smtp-source`.

The leases are made and committed before; then they are told, and the sender takes them from Kafka,
loads, renders and builds, claims, submits, records and tells. Its CPU is counted until the last
outcome is told, its time until the last message is accepted. The peers send one message of as many
octets again and again; `smtp-source` writes to the same sink over as many connections.
"""

import asyncio
import json
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Final

import aiosmtplib
import uvloop

from bench import house, peer
from bench.measure import Result, in_turn, others_cpu_s
from bench.rows.message import HTML, TEXT
from bench.rows.submission import TEMPLATE
from bench.sink import Sink, await_, sink
from paceline_common.db import Database, Outbox
from paceline_common.db.outbox import Relay
from paceline_common.kafka.broker import Publisher
from paceline_common.telemetry import Metrics
from paceline_scheduler.metrics import METRICS

MAILBOXES: Final = 16
CONNECTIONS: Final = 4
OUTSTANDING: Final = 128
COUNT: Final = MAILBOXES * OUTSTANDING
JOBS: Final = 20_000
POLICY: Final = json.dumps(
    {
        "profile": "node", "cadence_s": None, "grace_s": 120.0, "max_outstanding": OUTSTANDING,
        "windows": None,
    }
)  # fmt: skip
SOURCE: Final = "/usr/sbin/smtp-source"  # Debian's postfix: on no user's PATH
# It is soon done.
SOURCED: Final = COUNT * 3


class Sender:
    """The sender, and what the scheduler tells it."""

    def __init__(self, made: house.Servers, taker: Sink) -> None:
        self._made, self._taker = made, taker
        self.per_s: list[float] = []

    def begin(self) -> None:
        """Queue the jobs, connect the mailboxes, start the sender."""
        house.campaign(self._made, mailboxes=MAILBOXES, policy=POLICY)
        house.letter(self._made, text=TEMPLATE + TEXT, html=HTML)
        house.jobs(self._made, JOBS)
        settings = {"host": peer.HOST, "port": self._taker.port(), "tls": "none"}
        house.connect(self._made, range(1, MAILBOXES + 1), settings)
        self._made.stack.restart(
            "sender",
            {
                "PACELINE_SMTP_CONNECTIONS": str(CONNECTIONS),
                # No connection ends between the runs.
                "PACELINE_SMTP_MESSAGES": "1000000",
                "PACELINE_SMTP_IDLE_S": "120",
            },
        )

    def send(self) -> float:
        """Send `COUNT` messages; return messages per CPU-second of the sender, and note how many
        a second there were."""
        asyncio.run(self._lease())
        wanted, cpu = self._taker.count() + COUNT, self._cpu()
        start = time.perf_counter()
        self.per_s.append(asyncio.run(self._tell(start, wanted)))
        await_(self._told, "every outcome is told")
        return COUNT / (self._cpu() - cpu)

    async def _lease(self) -> None:
        async with self._made.scheduler() as (db, queries, redis):
            pacer, leased = await house.paced(self._made, db, queries, redis)
            while leased() < COUNT:
                await pacer.reserve_ready(float("inf"))

    async def _tell(self, start: float, wanted: int) -> float:
        """Publish the leases as the scheduler does; return messages per second from then on."""
        settings = self._made.login("scheduler")
        db, publisher = Database(settings), Publisher(settings, "scheduler")
        relay = Relay(db, Outbox(db), publisher, Metrics(METRICS), "scheduler")
        running = asyncio.create_task(relay.run())
        while self._taker.count() < wanted:
            if running.done():
                await running
            await asyncio.sleep(0.02)
        took = time.perf_counter() - start
        running.cancel()
        await asyncio.wait({running})
        await publisher.close()
        await db.close()
        return COUNT / took

    def _told(self) -> bool:
        ((busy,),) = self._made.sql("SELECT EXISTS (SELECT FROM sender.outbox)")
        return not busy and self._made.idle()

    def _cpu(self) -> float:
        return others_cpu_s(self._made.pid("sender"))


async def _loop(job: peer.Job) -> float:
    """Return messages per CPU-second of a loop of aiosmtplib on each connection."""
    clients = [peer.client(job.port) for _ in range(MAILBOXES * CONNECTIONS)]
    for one in clients:
        await one.connect()
        await one.ehlo()
    left = COUNT

    async def send(one: aiosmtplib.SMTP) -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await one.sendmail(peer.FROM, peer.TO, peer.letter(job.octets))

    cpu = time.process_time()
    await asyncio.gather(*map(send, clients))
    rate = COUNT / (time.process_time() - cpu)
    for one in clients:
        await one.quit()
    return rate


def _source(letter: Path, job: peer.Job) -> float:
    """Return messages per second of `smtp-source`."""
    # It ends each line of the file itself, and the message with an empty one.
    letter.write_bytes(peer.letter(job.octets - 2).replace(b"\r\n", b"\n"))
    start = time.perf_counter()
    subprocess.run(
        [SOURCE, "-d", "-s", str(MAILBOXES * CONNECTIONS), "-m", str(SOURCED), "-f", peer.FROM,
         "-t", peer.TO, "-F", str(letter), f"{peer.HOST}:{job.port}"],
        check=True,
    )  # fmt: skip
    return SOURCED / (time.perf_counter() - start)


def measure(repeats: int) -> list[Result]:
    """Row 2."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pl-bench-")))
        made = stack.enter_context(house.everything())
        taker = stack.enter_context(sink())
        sender = Sender(made, taker)
        sender.begin()
        job = peer.Job(taker.port(), 0)

        def ours() -> float:
            nonlocal job
            rate = sender.send()
            job = job._replace(octets=taker.octets())
            return rate

        def source() -> float:
            rate = _source(folder / "letter", job)
            if taker.octets() != job.octets:
                raise RuntimeError(f"smtp-source sent {taker.octets()} octets, not {job.octets}")
            return rate

        mine, looped, sourced = in_turn(repeats, ours, lambda: uvloop.run(_loop(job)), source)
    return [
        Result(2, f"the sender alone, {job.octets} octets, warm connections, against a loop of"
               " aiosmtplib", "messages/CPU-s", mine, looped, 1.5, "higher"),
        Result(2, "the same, leases told to accepted, against smtp-source", "messages/s",
               median(sender.per_s[1:]), sourced, 0.4, "higher"),
    ]  # fmt: skip
