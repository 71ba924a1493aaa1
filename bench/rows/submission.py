"""Row 1: a queued job → accepted by an SMTP server, over a connection of its own, against Celery
with smtplib and Taskiq with aiosmtplib; in the clear, and with TLS and AUTH.

Messages per CPU-second of the processes that do it. Ours are scheduler and sender, which decide
the slot, commit lease and claim, render and build, submit, record the outcome and tell it, with
1 % of the traces sampled and exported. A peer's are its workers, which take a task from Redis and
submit a message of as many octets that is made already; nothing is recorded. Nobody's servers
(Postgres, Redis, Kafka) count, nor what queues. Celery runs as it comes, with a process per core
(prefork, its parent counted: a solo worker would let one slow server hold up everything); Taskiq
with one process on uvloop.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from bench import house, peer
from bench.measure import Result, in_turn, others_cpu_s
from bench.rows import celery_peer, taskiq_peer
from bench.rows.message import HTML, LIQUID, TEXT
from bench.sink import Sink, await_, sink

JOBS: Final = 80_000
# Numbers of mailboxes: a few large nodes without a pace, as many as keep the house busy.
PLAIN: Final = range(1, 17)
SECURED: Final = range(17, 33)
WARM_UP_S: Final = 2.0
WINDOW_S: Final = 5.0
TASKS: Final = 1_000
FLOODING: Final = {
    "profile": "node", "cadence_s": None, "grace_s": 20.0, "max_outstanding": 16, "windows": None,
}  # fmt: skip
SERVICES: Final = ("sender", "scheduler")
# With a lead that has nothing but its address.
TEMPLATE: Final = LIQUID.replace("{{ first_name }}", "{{ first_name | default: 'there' }}").replace(
    "{{ product ", "{{ product | default: 'engine' "
)


class Collector(ThreadingHTTPServer):
    """Takes traces (OTLP/HTTP) and keeps no more than their number of exports."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Export)
        self.exports = 0


class _Export(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        assert isinstance(self.server, Collector)
        self.server.exports += 1
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Say nothing of it."""


@contextmanager
def collector() -> Iterator[Collector]:
    """Run a collector of traces in a thread."""
    with Collector() as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made
        made.shutdown()


class House:
    """The whole house with its queue."""

    def __init__(self, made: house.Servers) -> None:
        self._made = made

    def begin(self, traces_port: int, plain: Sink, secured: Sink) -> None:
        """Queue the jobs, connect the mailboxes, and start what paces and sends."""
        house.campaign(self._made, mailboxes=SECURED.stop - 1, policy="{}")
        house.letter(self._made, text=TEMPLATE + TEXT, html=HTML)
        self._made.sql("UPDATE gateway.mailbox SET is_active = false")
        house.jobs(self._made, JOBS)
        # Every enrollment has a trace; of a hundred one is sampled.
        self._made.sql(
            "UPDATE scheduler.send_job SET traceparent = concat('00-', md5(job_id::text), '-',"
            " left(md5((-job_id)::text), 16), CASE job_id %% 100 WHEN 0 THEN '-01' ELSE '-00' END)"
        )
        self._made.sql("VACUUM ANALYZE scheduler.send_job")
        open_ = {"host": peer.HOST, "port": plain.port(), "tls": "none"}
        house.connect(self._made, PLAIN, open_)
        closed = {"host": peer.HOST, "port": secured.port(), "tls": "implicit"}
        house.connect(self._made, SECURED, closed | {"username": peer.USER, "auth": "plain"})
        extra = {"PACELINE_OTLP_ENDPOINT": f"http://{peer.HOST}:{traces_port}"}
        for name in SERVICES:
            self._made.stack.restart(name, extra | {"PACELINE_SMTP_MESSAGES": "1"})

    def send(self, mailboxes: range, taker: Sink) -> float:
        """Have these mailboxes send for a while; return messages per CPU-second."""
        before = taker.count()
        house.tell(self._made, house.activate(self._made, mailboxes, FLOODING))
        await_(lambda: taker.count() > before, "the first message")
        time.sleep(WARM_UP_S)
        count, cpu = taker.count(), self._cpu()
        time.sleep(WINDOW_S)
        rate = (taker.count() - count) / (self._cpu() - cpu)
        house.tell(self._made, house.activate(self._made, range(0), FLOODING))
        await_(self._made.idle, "the house is idle")
        return rate

    def _cpu(self) -> float:
        return others_cpu_s(*map(self._made.pid, SERVICES))


class Peer:
    """A worker of a queue, and what queues `count` submissions for it."""

    def __init__(self, pid: int, queue: Callable[[int, peer.Job], None]) -> None:
        self._pid, self._queue = pid, queue

    def send(self, taker: Sink, ca_file: str | None, octets: Callable[[], int]) -> float:
        """Have it send `TASKS` messages; return messages per CPU-second."""
        job = peer.Job(taker.port(), octets(), ca_file)
        wanted, cpu = taker.count() + TASKS, others_cpu_s(self._pid)
        self._queue(TASKS, job)
        await_(lambda: taker.count() >= wanted, "the peer's messages")
        time.sleep(0.5)  # it takes leave of the server and of its tasks
        return TASKS / (others_cpu_s(self._pid) - cpu)


def _celery(url: str, count: int, job: peer.Job) -> None:
    app = celery_peer.connect(url)
    for _ in range(count):
        app.send_task("submit", args=list(job))
    app.close()


def measure(repeats: int) -> list[Result]:
    """Row 1."""
    with ExitStack() as stack:
        made = stack.enter_context(house.everything())
        traces = stack.enter_context(collector())
        tls = made.stack.layout.run / "tls"
        plain = stack.enter_context(sink())
        secured = stack.enter_context(sink(tls / "server.pem", tls / "server.key"))
        ours = House(made)
        ours.begin(traces.server_port, plain, secured)
        # Beside ours, in databases of their own.
        first, second = (made.stack.redis.url().removesuffix("0") + n for n in "12")
        celery = Peer(
            stack.enter_context(
                celery_peer.worker(first, f"--concurrency={os.cpu_count()}", "--pool=prefork")
            ),
            partial(_celery, first),
        )
        taskiq = Peer(
            stack.enter_context(taskiq_peer.worker(second)), partial(taskiq_peer.send, second)
        )
        sizes: dict[Sink, int] = {}

        def size(taker: Sink) -> int:
            # What is last at the first call, in the first round, is ours.
            return sizes.setdefault(taker, taker.octets())

        mine, by_celery, by_taskiq = in_turn(
            repeats,
            lambda: ours.send(PLAIN, plain),
            lambda: celery.send(plain, None, lambda: size(plain)),
            lambda: taskiq.send(plain, None, lambda: size(plain)),
        )
        ca_file = str(tls / "ca.pem")
        mine_secured, by_celery_secured = in_turn(
            repeats,
            lambda: ours.send(SECURED, secured),
            lambda: celery.send(secured, ca_file, lambda: size(secured)),
        )
        if not traces.exports:
            raise RuntimeError("no trace was exported")
    return [
        Result(1, f"queued to accepted, {sizes[plain]} octets, a connection each, against Celery"
               " and smtplib", "messages/CPU-s", mine, by_celery, 8, "higher"),
        Result(1, "the same, against Taskiq and aiosmtplib", "messages/CPU-s", mine, by_taskiq, 6,
               "higher"),
        Result(1, "the same with TLS and AUTH, against Celery and smtplib", "messages/CPU-s",
               mine_secured, by_celery_secured, 4, "higher"),
    ]  # fmt: skip
