"""Previews: the sender makes the message, by the code that makes what it sends."""

from typing import Any, Final

import httpx
from pydantic import BaseModel, ValidationError

from paceline_common import telemetry
from paceline_common.http import Problem, internal_client
from paceline_gateway import problems
from paceline_gateway.settings import GatewaySettings

_TIMEOUT_S: Final = 30.0
_log = telemetry.logger("preview")


class HeaderShown(BaseModel):
    """A header field as it is written, unfolded."""

    name: str
    value: str


class AttachmentShown(BaseModel):
    """A file that goes along; `content_id` where the HTML shows it inline."""

    filename: str
    content_type: str
    size: int
    content_id: str | None


class Message(BaseModel):
    """A message as it leaves; a missing variable stands there as `[name]` and in `missing`.

    `size` counts the octets of the whole message; `message` is that (base64),
    when asked for with `raw`.
    """

    from_email: str
    to_email: str
    envelope_from: str
    subject: str
    text: str | None
    html: str | None
    headers: list[HeaderShown]
    attachments: list[AttachmentShown]
    size: int
    variant: str | None
    missing: list[str]
    message: str | None


class Previewer:
    """Asks the sender's `/internal/preview`."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._sender = internal_client(
            settings.sender_url, settings.sender_token, timeout_s=_TIMEOUT_S
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._sender.aclose()

    async def job(self, asked: dict[str, Any]) -> Message:
        """Return the message of a job (see the sender's `JobPreviewRequest`).

        Raises `not_found`, `preview_failed`, `preview_unavailable`.
        """
        return await self._ask("/internal/preview/job", asked)

    async def step(self, asked: dict[str, Any]) -> Message:
        """Return what a step would be for given values (the sender's `PreviewRequest`)."""
        return await self._ask("/internal/preview", asked)

    async def _ask(self, path: str, asked: dict[str, Any]) -> Message:
        try:
            answer = await self._sender.post(path, json=asked)
            told = answer.json()
            if answer.status_code == httpx.codes.OK:
                return Message.model_validate(told)
            code, detail = str(told["code"]), str(told["detail"])
        except (httpx.HTTPError, ValueError, KeyError, TypeError, ValidationError) as error:
            _log.warning("no preview", **telemetry.describe_error(error))
            raise Problem(problems.PREVIEW_UNAVAILABLE) from None
        if answer.status_code == httpx.codes.NOT_FOUND:
            raise Problem(problems.NOT_FOUND, detail)
        if answer.status_code == httpx.codes.UNPROCESSABLE_ENTITY:
            raise Problem(problems.PREVIEW_FAILED, detail, reason=told.get("reason", code))
        raise Problem(problems.PREVIEW_UNAVAILABLE, detail)
