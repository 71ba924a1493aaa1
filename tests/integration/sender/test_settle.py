"""`/internal/settle`: a person's word, audited with who and why, once."""

from typing import Any

import httpx
import pytest

from paceline_common import ids

from .conftest import World
from .test_proof import Bench, bench

__all__ = ["bench"]


def word(world: World, job_id: int, settle_as: str, **more: Any) -> dict[str, Any]:
    return {
        "workspace_id": ids.encode("ws", world.workspace_id),
        "job_id": ids.encode("job", job_id),
        "as": settle_as,
        "why": "seen in the Sent folder of ann@north.test",
        "by": "key_0011223344556677",
        "source_ip": "192.0.2.7",
        **more,
    }


@pytest.mark.parametrize(
    ("settle_as", "state", "outcome", "topic"),
    [
        ("sent", "sent", "accepted", "sent"),
        ("unsent", "queued", "unsent", "send-deferred"),
        ("failed", "failed", "failed", None),
    ],
)
async def test_a_persons_word_ends_the_doubt_and_says_who_and_why(
    bench: Bench,
    client: httpx.AsyncClient,
    settle_as: str,
    state: str,
    outcome: str,
    topic: str | None,
) -> None:
    world = bench.world
    job = bench.in_doubt("smtp")
    asked = word(world, job.job_id, settle_as)
    answer = await client.post("/internal/settle", json=asked)
    assert (answer.status_code, answer.json()["settled_as"]) == (200, settle_as), answer.text
    row = world.job_row(job)
    assert (row["state"], row["fence"]) == (state, job.fence + (state == "queued"))
    assert world.attempts(job)[0]["outcome"] == outcome
    closed = bench.row(job)
    assert (closed["settled_as"], closed["settled_by"]) == (settle_as, asked["by"])
    assert closed["why"] == asked["why"]
    assert closed["evidence"][-1]["source"] == "person"
    assert [len(world.events(one)) for one in ("sent", "send-deferred")] == [
        topic == "sent", topic == "send-deferred",
    ]  # fmt: skip
    (audit,) = bench.audits()
    assert (audit.actor, audit.source_ip, audit.subject) == (
        asked["by"], "192.0.2.7", job.public_id,
    )  # fmt: skip
    assert audit.detail["as"] == settle_as
    assert audit.detail["why"] == "seen in the Sent folder of <address>"

    again = await client.post("/internal/settle", json=word(world, job.job_id, "failed"))
    assert (again.status_code, again.json()["code"]) == (409, "doubt_settled")
    assert again.json()["settled_as"] == settle_as
    assert world.job_row(job) == row
    assert len(bench.audits()) == 1


async def test_a_job_that_was_never_in_doubt_and_another_workspaces_are_unknown(
    bench: Bench, client: httpx.AsyncClient
) -> None:
    world = bench.world
    leased, doubtful = bench.lease(), bench.in_doubt("smtp")
    other = ids.encode("ws", world.workspace_id + 1_000_000)
    for asked in (
        word(world, leased.job_id, "unsent"),
        word(world, doubtful.job_id, "unsent", workspace_id=other),
    ):
        answer = await client.post("/internal/settle", json=asked)
        assert (answer.status_code, answer.json()["code"]) == (404, "unknown_doubt")
    assert world.job_row(doubtful)["state"] == "in_doubt"
    assert world.job_row(leased)["state"] == "reserved"


@pytest.mark.parametrize("wrong", [{"as": "retry"}, {"why": "  "}, {"by": ""}])
async def test_a_word_without_a_name_or_a_reason_is_refused(
    bench: Bench, client: httpx.AsyncClient, wrong: dict[str, str]
) -> None:
    job = bench.in_doubt("smtp")
    answer = await client.post(
        "/internal/settle", json={**word(bench.world, job.job_id, "sent"), **wrong}
    )
    assert answer.status_code == 422
    assert bench.world.job_row(job)["state"] == "in_doubt"


async def test_the_token_is_asked_for(bench: Bench, client: httpx.AsyncClient) -> None:
    job = bench.in_doubt("smtp")
    answer = await client.post(
        "/internal/settle",
        json=word(bench.world, job.job_id, "sent"),
        headers={"Authorization": "Bearer x"},
    )
    assert answer.status_code == 401
    assert bench.world.job_row(job)["state"] == "in_doubt"
