"""The runner as a process: its routes, its readiness, its end."""

import asyncio
import json
import secrets
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from tests.integration.common.conftest import Parts, kill_kafka, worker
from tests.waiting import until


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Running:
    """One process and a client for it."""

    def __init__(self, process: asyncio.subprocess.Process, client: httpx.AsyncClient) -> None:
        self.process = process
        self.client = client

    async def get(self, path: str, **headers: str) -> httpx.Response:
        return await self.client.get(path, headers=headers)

    async def answers(self, path: str, status: int) -> bool:
        try:
            return (await self.get(path)).status_code == status
        except httpx.TransportError:
            return False

    async def end(self) -> list[dict[str, Any]]:
        """Wait for the end; return its log lines."""
        output, _ = await asyncio.wait_for(self.process.communicate(), 30)
        return [json.loads(line) for line in output.splitlines()]


@asynccontextmanager
async def running(
    parts: Parts, *arguments: str, script: str = "service_process.py"
) -> AsyncIterator[Running]:
    port = free_port()
    async with (
        worker(parts, *arguments, script=script, http_port=str(port)) as process,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        yield Running(process, client)


async def test_it_is_ready_when_all_parts_are_and_ends_cleanly(clean: Parts) -> None:
    async with running(clean, "draining") as service:
        await until(lambda: service.answers("/readyz", 200), "ready")
        assert (await service.get("/livez")).json() == {"alive": True}
        checks = (await service.get("/readyz")).json()["checks"]
        assert checks == {"postgres": True, "kafka": True, "task": True, "accepting": True}
        page = (await service.get("/metrics")).text
        assert 'paceline_ready{check="postgres"} 1.0' in page
        assert "paceline_outbox_age_seconds 0.0" in page
        service.process.send_signal(signal.SIGTERM)
        lines = await service.end()
    assert service.process.returncode == 0
    said = [line["event"] for line in lines]
    assert said.index("stopping") < said.index("drained") < said.index("stopped")


async def test_problems_are_documents_and_tell_no_secrets(clean: Parts) -> None:
    async with running(clean, "draining") as service:
        await until(lambda: service.answers("/readyz", 200), "ready")
        gone = await service.get("/things/1")
        assert gone.headers["content-type"] == "application/problem+json"
        assert gone.json() == {
            "type": "urn:paceline:problem:gone",
            "title": "It is gone",
            "status": 410,
            "code": "gone",
            "detail": "thing 1 is gone",
            "remedy": "Look elsewhere.",
            "thing": 1,
        }
        assert (await service.get("/nowhere")).json()["code"] == "not_found"
        invalid = (await service.get("/things/secret-value")).json()
        assert (invalid["status"], invalid["code"]) == (422, "request_invalid")
        assert invalid["errors"][0]["at"] == "path/thing"
        assert "secret-value" not in json.dumps(invalid)
        assert (await service.get("/things/2")).json()["code"] == "internal_error"
        away = await service.get("/things/3")
        assert (away.status_code, away.json()["code"]) == (503, "dependency_away")

        assert (await service.get("/internal/things/5")).status_code == 401
        wrong = await service.get("/internal/things/5", authorization="Bearer internal-tokem")
        assert wrong.json()["code"] == "service_token_required"
        right = await service.get("/internal/things/5", authorization="Bearer internal-token")
        assert right.json() == {"thing": 5}
        page = (await service.get("/metrics")).text
        route = 'route="/things/{thing}",status="410"'
        assert f'paceline_http_request_seconds_count{{method="GET",{route}}} 1.0' in page

        service.process.send_signal(signal.SIGTERM)
        lines = await service.end()
    text = json.dumps(lines)
    assert "RuntimeError" in text
    assert "somebody@example.test" not in text
    assert "secret-value" not in text


async def test_a_task_that_lost_a_dependency_starts_again(clean: Parts) -> None:
    async with running(clean, "flaky") as service:
        await until(lambda: service.answers("/readyz", 503), "not ready at first")
        await until(lambda: service.answers("/readyz", 200), "ready at last")
        page = (await service.get("/metrics")).text
        assert 'paceline_background_restarts_total{task="flaky"} 2.0' in page
        service.process.send_signal(signal.SIGTERM)
        await service.end()
    assert service.process.returncode == 0


async def test_a_bug_in_a_task_ends_the_process(clean: Parts) -> None:
    async with running(clean, "buggy") as service:
        lines = await service.end()
    assert service.process.returncode == 1
    failed = next(line for line in lines if line["event"] == "task failed")
    assert (failed["task"], failed["error"]) == ("buggy", "RuntimeError")
    assert "somebody@example.test" not in json.dumps(lines)


async def test_it_starts_before_its_dependencies_and_survives_their_absence(clean: Parts) -> None:
    name = f"late-{secrets.token_hex(3)}"
    clean.create_topic(_plain(name))
    await kill_kafka(clean)
    await asyncio.to_thread(clean.stack.stop, "postgres")
    async with running(clean, name, script="worker.py") as service:
        await until(lambda: service.answers("/livez", 200), "alive")
        assert (await service.get("/readyz")).status_code == 503
        await asyncio.to_thread(clean.start, "postgres")
        await asyncio.to_thread(clean.start, "kafka")
        await until(lambda: service.answers("/readyz", 200), "ready", within_s=60)
        await asyncio.to_thread(clean.stack.stop, "postgres")
        await until(lambda: service.answers("/readyz", 503), "not ready")
        await asyncio.to_thread(clean.start, "postgres")
        await until(lambda: service.answers("/readyz", 200), "ready again", within_s=60)
        service.process.send_signal(signal.SIGTERM)
        await service.end()
    assert service.process.returncode == 0


def _plain(name: str) -> Any:
    from tests.integration.common.worker import topic

    return topic(name)
