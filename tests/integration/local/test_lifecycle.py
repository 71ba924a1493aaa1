"""Starting, finding and ending processes of a stack."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
import redis
from confluent_kafka import Consumer, Producer, TopicPartition
from pydantic import SecretStr

from paceline_common import topics
from paceline_common.keys import KeyAdmin, KeyService
from paceline_local.parts.base import PartFailed
from paceline_local.passwords import Passwords
from paceline_local.ports import LOOPBACK, is_free
from paceline_local.process import wait_until
from paceline_local.stack import Stack


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Stack]:
    """A stack of its own, of which a test starts one part."""
    stack = Stack(tmp_path / "run")
    yield stack
    stack.down()
    shutil.rmtree(stack.layout.state)


def pid_of(stack: Stack, name: str) -> int:
    record = stack.processes.find(name)
    assert record is not None, f"{name} does not run"
    return record.pid


def test_starting_a_running_stack_changes_nothing(stack: Stack) -> None:
    before = {row.process: row.pid for row in stack.status()}
    ports = dict(stack.ports)

    stack.up(services=False)

    assert {row.process: row.pid for row in stack.status()} == before
    assert dict(stack.ports) == ports


def test_every_part_of_the_stack_is_ready_and_tells_its_version(stack: Stack) -> None:
    parts = {row.process: row for row in stack.status() if row.part not in stack.services}
    assert set(parts) == {"postgres", "redis", "kafka", "keys", "dovecot", "postfix"}
    assert all(row.ready and row.version and row.port for row in parts.values()), parts
    assert "vault" in parts["keys"].version


def test_another_process_of_this_user_finds_the_running_part(small: Stack) -> None:
    small.start("redis")
    pid = pid_of(small, "redis")

    again = Stack(small.layout.run)
    again.start("redis")

    assert pid_of(again, "redis") == pid


def test_a_pid_that_another_program_got_is_neither_trusted_nor_killed(small: Stack) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        small.start("redis")
        path = small.layout.pids / "redis.json"
        record = json.loads(path.read_text())
        small.stop("redis")
        # Who has the pid now started later than the record says.
        stale = json.dumps(
            record | {"pid": stranger.pid, "start_ticks": record["start_ticks"] - 100}
        )
        path.write_text(stale)

        small.stop("redis")
        assert stranger.poll() is None

        path.write_text(stale)
        small.start("redis")

        assert pid_of(small, "redis") not in {stranger.pid, record["pid"]}
        assert stranger.poll() is None
        stranger.communicate(b"\n", timeout=5)


def test_a_record_of_an_earlier_boot_is_stale(small: Stack) -> None:
    small.start("redis")
    path = small.layout.pids / "redis.json"
    record = path.read_text()
    path.write_text(json.dumps(json.loads(record) | {"boot": "another"}))
    assert small.processes.find("redis") is None
    # Back, so that the fixture can end it.
    path.write_text(record)


def test_a_killed_part_is_started_again(small: Stack) -> None:
    small.start("redis")
    pid = pid_of(small, "redis")
    small.kill("redis")
    assert small.processes.find("redis") is None

    small.start("redis")

    assert pid_of(small, "redis") != pid


# As a killed JVM for a moment: its first thread is a zombie, another one still holds the port.
_DYING = """
import ctypes, socket, sys, threading
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
threading.Thread(target=threading.Event().wait).start()
ctypes.CDLL(None).pthread_exit(None)
"""


def test_a_process_lives_until_its_last_thread_has_ended(small: Stack) -> None:
    with socket.create_server((LOOPBACK, 0)) as unused:
        port = unused.getsockname()[1]
    argv = [sys.executable, "-c", _DYING, str(port)]
    pid = small.processes.spawn("redis", argv, print_="").pid
    stat = Path(f"/proc/{pid}/stat")
    try:
        assert wait_until(lambda: stat.read_text().rpartition(") ")[2][0] == "Z", 5)
        assert not is_free(port)
        assert pid_of(small, "redis") == pid
    finally:
        os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: small.processes.find("redis") is None, 5)
    assert is_free(port)


def test_a_killed_broker_comes_back_at_its_port(small: Stack) -> None:
    small.start("kafka")
    ports = dict(small.ports)
    small.kill("kafka")
    small.start("kafka")
    assert dict(small.ports) == ports


def test_a_port_is_kept_while_it_is_free_and_changed_when_it_is_taken(small: Stack) -> None:
    small.start("redis")
    port = small.ports["redis"]
    small.stop("redis")
    small.start("redis")
    assert small.ports["redis"] == port

    small.stop("redis")
    with socket.create_server((LOOPBACK, port)):
        small.start("redis")
        moved = small.ports["redis"]
        assert moved != port
        assert f"PACELINE_PORT_REDIS={moved}\n" in small.layout.ports_file.read_text()
        with redis.Redis.from_url(small.redis.url()) as client:
            assert client.ping()


@dataclass(frozen=True)
class Login:
    """What a client of the key service needs to sign in."""

    keys_url: str
    keys_role_id: str
    keys_secret_id: SecretStr


def login(stack: Stack, principal: str) -> Login:
    secret = stack.passwords.get(principal, "paceline_keys_secret_id")
    return Login(stack.keys.url(), stack.keys.role_id(principal), SecretStr(secret))


async def test_what_the_twin_sealed_opens_after_a_restart(small: Stack) -> None:
    small.start("keys")
    admin = KeyAdmin(login(small, "admin"))
    await admin.create_workspace_keys(1)
    admin.close()
    async with KeyService(login(small, "gateway")) as gateway:
        sealed = await gateway.seal("send", 1, b"a password", table="mailbox", row=7)
    before = login(small, "sender")

    small.stop("keys")
    small.start("keys")

    # The login as well: a service that runs meanwhile goes on.
    assert login(small, "sender") == before
    async with KeyService(before) as sender:
        assert await sender.open("send", 1, sealed, table="mailbox", row=7) == b"a password"
    assert (small.layout.state / "twin.json").stat().st_mode & 0o777 == 0o600


def break_redis(stack: Stack) -> None:
    manifest = stack.layout.state / "redis" / "appendonlydir" / "appendonly.aof.manifest"
    manifest.parent.mkdir(parents=True)
    manifest.write_text("not a manifest\n")


def test_a_part_that_fails_says_which_and_why_and_what_to_do(small: Stack) -> None:
    break_redis(small)

    with pytest.raises(PartFailed) as failed:
        small.start("redis")

    assert failed.value.part == "redis"
    assert "ended while starting" in failed.value.reason
    assert any("manifest" in line for line in failed.value.tail)
    assert failed.value.remedy


def test_the_command_explains_a_failing_part_and_exits_1(small: Stack) -> None:
    break_redis(small)

    tried = subprocess.run(
        [sys.executable, "-m", "paceline_local.cli", "restart", "redis"],
        env=os.environ | {"PACELINE_RUN_DIR": str(small.layout.run)},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip

    assert tried.returncode == 1
    assert "redis: redis ended while starting" in tried.stdout
    assert "manifest" in tried.stdout
    assert str(small.processes.log_path("redis")) in tried.stdout
    assert "what to do:" in tried.stdout


def test_secrets_are_readable_by_their_owner_only(stack: Stack, small: Stack) -> None:
    small.start("redis")
    for each in (stack, small):
        files = [path for path in each.layout.secrets.rglob("*") if path.is_file()]
        assert files
        assert [path for path in files if path.stat().st_mode & 0o077] == []
        assert each.layout.secrets.stat().st_mode & 0o077 == 0


def test_services_that_start_together_draw_one_token(tmp_path: Path) -> None:
    passwords = Passwords(tmp_path)
    for round_ in range(50):
        owner = f"round-{round_}"
        together = threading.Barrier(8)

        def draw(_: int, owner: str = owner, together: threading.Barrier = together) -> str:
            together.wait()
            passwords.put("gateway", "paceline_sender_token", passwords.get(owner, "token"))
            return passwords.get(owner, "token")

        with ThreadPoolExecutor(8) as pool:
            assert len(set(pool.map(draw, range(8)))) == 1
        assert [path.name for path in (tmp_path / owner).iterdir()] == ["token"]
        assert (tmp_path / owner / "token").stat().st_mode & 0o777 == 0o600


def test_servers_listen_on_the_loopback_address_only(stack: Stack) -> None:
    mine = {f"{port:04X}" for port in stack.ports.values()}
    listening = [
        fields[1]
        for table in ("/proc/net/tcp", "/proc/net/tcp6")
        for fields in (line.split() for line in Path(table).read_text().splitlines()[1:])
        if fields[3] == "0A" and fields[1].rpartition(":")[2] in mine
    ]
    assert len(listening) >= 13
    # 127.0.0.1, as such or as an IPv4-mapped address; both are written in host order.
    loopback = ("0100007F", "0000000000000000FFFF00000100007F")
    assert [address for address in listening if address.split(":")[0] not in loopback] == []


def test_a_new_database_meets_no_old_events(small: Stack) -> None:
    small.up(keys="twin", services=False)
    small.kafka.add_publisher("acme")
    names = (topics.LEAD_ENROLLED.name, topics.publisher_topic("acme"))
    producer = Producer(small.kafka.client_config("stack"))
    for name in names:
        producer.produce(name, b"of the old database", partition=0)
    assert producer.flush(20) == 0
    with psycopg.connect(small.dsn()) as tx:
        tx.execute("INSERT INTO gateway.workspace (name, timezone) VALUES ('old', 'UTC')")

    small.recreate()

    consumer = Consumer(small.kafka.client_config("stack") | {"group.id": "tests"})
    for name in names:
        low, high = consumer.get_watermark_offsets(TopicPartition(name, 0), timeout=20)
        assert (low, high) == (1, 1), name
    consumer.close()
    with psycopg.connect(small.dsn()) as tx:
        assert tx.execute("SELECT count(*) FROM gateway.workspace").fetchone() == (0,)


def workspaces(stack: Stack) -> int:
    with psycopg.connect(stack.dsn()) as tx:
        row = tx.execute("SELECT count(*) FROM gateway.workspace").fetchone()
    assert row is not None
    return int(row[0])


def test_another_key_service_means_another_database(small: Stack) -> None:
    small.up(services=False)
    with psycopg.connect(small.dsn()) as tx:
        tx.execute("INSERT INTO gateway.workspace (name, timezone) VALUES ('kept', 'UTC')")
    small.up(keys="twin", services=False)
    assert workspaces(small) == 1, "the same key service: nothing is lost"

    small.up(keys="vault", services=False)
    assert workspaces(small) == 0
