"""What the gateway asks under `/internal` is what sender, reply and scheduler understand."""

import json
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from pydantic import BaseModel, SecretStr

from paceline_common import ids
from paceline_common.preview import AttachmentShown, HeaderShown, Preview
from paceline_gateway import pacing, preview, probe
from paceline_gateway.api.pacing import ForecastIn, WhatIf
from paceline_gateway.settings import GatewaySettings
from paceline_reply.api import ProbeRequest as ReadRequest
from paceline_scheduler import api as scheduler
from paceline_scheduler import forecast
from paceline_sender import preview as sender_preview
from paceline_sender.probe import ProbeRequest as SendRequest

WORKSPACE, MAILBOX = 7, 2**40 + 5
SIDE = {"host": "mail.example.test", "port": 993, "tls": "implicit", "username": "ann"}
OAUTH = {
    "provider": "google", "scopes": ["https://www.googleapis.com/auth/gmail.modify"],
    "tenant": None, "account": "1", "app": "workspace", "client_id": "c",
}  # fmt: skip
BY_SERVERS = probe.Draft(
    WORKSPACE, MAILBOX, "ann@north.test", None, "smtp",
    probe.Side(SIDE, None, b"s"), probe.Side(SIDE, None, b"i", 2),
)  # fmt: skip
BY_API = probe.Draft(
    WORKSPACE, MAILBOX, "ann@north.test", "Ann", "gmail",
    probe.Side(None, OAUTH, b"s"), probe.Side(None, OAUTH, b"i", 3),
)  # fmt: skip


@pytest.mark.parametrize("draft", [BY_SERVERS, BY_API], ids=lambda draft: draft.kind)
async def test_both_legs_are_asked_by_public_ids_and_understood(
    monkeypatch: pytest.MonkeyPatch, draft: probe.Draft
) -> None:
    asked: list[dict[str, Any]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(json.loads(request.content))
        return httpx.Response(200, json={"ok": True, "code": "ok", "message": "", "remedy": None})

    def client(base_url: str, _token: SecretStr, *, timeout_s: float) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            transport=httpx.MockTransport(answer), base_url=base_url, timeout=timeout_s
        )

    monkeypatch.setattr(probe, "internal_client", client)
    prober = probe.Prober(GatewaySettings.model_construct(
        sender_url="http://sender", sender_token=SecretStr("s"),
        reply_url="http://reply", reply_token=SecretStr("r"),
    ))  # fmt: skip
    assert (await prober.probe(draft)).ok
    await prober.close()

    send, read = asked
    for body in asked:
        assert body["workspace_id"] == ids.encode("ws", WORKSPACE)
        assert body["mailbox_id"] == ids.encode("mbx", MAILBOX)
    for understood in (SendRequest.model_validate(send), ReadRequest.model_validate(read)):
        assert (understood.workspace_id, understood.mailbox_id) == (WORKSPACE, MAILBOX)
        assert understood.kind == draft.kind
    asked_of = SendRequest.model_validate(send), ReadRequest.model_validate(read)
    assert [one.credential_version for one in asked_of] == [
        draft.send.version, draft.read.version,
    ]  # fmt: skip


def test_a_forecast_is_asked_and_answered_in_the_same_words() -> None:
    asked = ForecastIn(
        seeds=3,
        what_if=WhatIf(add_mailboxes=2, caps={"*": {"daily_cap": 90}}, leads=100),
    ).model_dump(exclude_none=True)
    question = forecast.Question.model_validate({"campaign_id": "cmp_0", **asked})
    assert question.model_dump(exclude={"campaign_id"}) == asked
    forecast.Question.model_validate(
        {"campaign_id": "cmp_0", **ForecastIn().model_dump(exclude_none=True)}
    )
    at = datetime(2026, 11, 20, 9, tzinfo=UTC)
    answer = forecast.Forecast(
        finish=forecast.Finish(p10=at, p50=at, p90=at),
        days=[forecast.DayCount(date=at.date(), mailbox_id="new_1", count=1.5)],
        bottleneck="ramp_cap", message="the ramp binds", seeds=3,
    ).model_dump_json()  # fmt: skip
    assert pacing.Forecast.model_validate_json(answer).model_dump_json() == answer


@pytest.mark.parametrize(
    ("read", "told"),
    [
        (pacing.Explanation, scheduler.Explanation),
        (pacing.Constraint, scheduler.Constraint),
        (pacing.Interval, scheduler.Interval),
        (pacing.ReleaseBy, scheduler.ReleaseBy),
        (pacing.Happening, scheduler.Happened),
        (pacing.Schedule, scheduler.Schedule),
        (pacing.Standing, scheduler.Standing),
        (pacing.Limit, scheduler.Limit),
        (pacing.Capacity, scheduler.Capacity),
        (pacing.GroupCapacity, scheduler.GroupCapacity),
        (pacing.MailboxCapacity, scheduler.MailboxCapacity),
        (pacing.Forecast, forecast.Forecast),
        (pacing.Finish, forecast.Finish),
        (pacing.DayCount, forecast.DayCount),
    ],
    ids=lambda model: model.__name__,
)
def test_the_gateway_reads_all_that_the_scheduler_tells(
    read: type[BaseModel], told: type[BaseModel]
) -> None:
    assert set(read.model_fields) == set(told.model_fields)


async def test_previews_are_asked_and_answered_in_the_same_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[str, dict[str, Any]]] = []
    shown = Preview(
        from_email="a@north.test", to_email="b@x.test", envelope_from="a@north.test", subject="s",
        text="t", html=None, headers=[HeaderShown(name="To", value="b")],
        attachments=[
            AttachmentShown(filename="a", content_type="a/b", size=1, content_id=None)
        ],
        size=1, variant="A", missing=[], message=None,
    )  # fmt: skip

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append((request.url.path, json.loads(request.content)))
        return httpx.Response(200, json=shown.model_dump())

    def client(base_url: str, _token: SecretStr, *, timeout_s: float) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            transport=httpx.MockTransport(answer), base_url=base_url, timeout=timeout_s
        )

    monkeypatch.setattr(preview, "internal_client", client)
    previewer = preview.Previewer(
        GatewaySettings.model_construct(sender_url="http://sender", sender_token=SecretStr("s"))
    )
    whose = {"workspace_id": ids.encode("ws", WORKSPACE), "mailbox_id": ids.encode("mbx", MAILBOX)}
    job = {**whose, "job_id": ids.encode("job", 5), "at": None, "variant": "A", "raw": True}
    step = {**whose, "campaign_id": ids.encode("cmp", 3), "step": 2, "lead": {}, "draw": 1}
    assert (await previewer.job(job)).model_dump() == shown.model_dump()
    assert (await previewer.step(step)).model_dump() == shown.model_dump()
    await previewer.close()
    assert [path for path, _ in asked] == ["/internal/preview/job", "/internal/preview"]
    assert sender_preview.JobPreviewRequest.model_validate(asked[0][1]).job_id == 5
    assert sender_preview.PreviewRequest.model_validate(asked[1][1]).draw == 1
