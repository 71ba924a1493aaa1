"""The API keeps to its own document, whatever it is sent."""

import asyncio
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from paceline_gateway import problems
from paceline_gateway.app import build, openapi
from paceline_gateway.docs import documents
from paceline_gateway.settings import GatewaySettings
from paceline_local.stack import Stack

from .conftest import Peers

CHECKS = [
    not_a_server_error, content_type_conformance, response_schema_conformance,
    status_code_conformance,
]  # fmt: skip
SCHEMA = schemathesis.openapi.from_dict(openapi())


@pytest.fixture
def served(
    stack: Stack,
    peers: Peers,
    admin: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[tuple[str, str]]:
    """The gateway on a port, in a thread of its own: its URL and a key."""
    for name, value in stack.env("gateway").items():
        monkeypatch.setenv(name, value)
    peers.scheduler = {
        "settle": (404, {"code": "unknown_doubt"}),
        "preview": (404, {"code": "step_not_found", "detail": "There is no such step."}),
    }
    service = build(
        GatewaySettings(
            http_port=0, sender_url=peers.url, reply_url=peers.url, scheduler_url=peers.url
        )
    )
    server = uvicorn.Server(uvicorn.Config(service.http, port=0, log_config=None, lifespan="off"))
    started = threading.Event()

    async def serve() -> None:
        serving = asyncio.create_task(server.serve())
        while not server.started and not serving.done():
            await asyncio.wait([serving], timeout=0.01)
        started.set()
        await serving
        await service.http.state.parts.prober.close()
        await service.http.state.parts.pacing.close()
        service.keys.close()
        await service.db.close()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert started.wait(30)
    workspace = admin("workspace", "create", "tests")["workspace_id"]
    key = admin("key", "create", workspace, "--name", "tests")["key"]
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}", key
    server.should_exit = True
    thread.join(30)


def test_every_operation_has_a_name_an_answer_and_its_problems() -> None:
    document = openapi()
    names = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            names.append(operation["operationId"])
            answers = operation["responses"]
            assert {"401", "403", "422"} <= set(answers), (method, path)
            assert operation["security"], (method, path)
            for status, answer in answers.items():
                if status != "204":
                    assert answer["content"], (method, path, status)
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"[a-z]+[A-Za-z]+", name) for name in names)


def test_every_problem_is_documented() -> None:
    page = documents()["errors.md"]
    for code, kind in problems.TABLE.items():
        assert f"| `{code}` | {kind.status} |" in page


@SCHEMA.parametrize()
@settings(
    max_examples=15, deadline=None, database=None, derandomize=True,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
def test_an_operation_keeps_to_the_document(
    case: "schemathesis.Case[Any]", served: tuple[str, str]
) -> None:
    url, key = served
    case.call_and_validate(base_url=url, headers={"Authorization": f"Bearer {key}"}, checks=CHECKS)
