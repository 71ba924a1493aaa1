"""Previews: the sender makes the message, by the code that makes what it sends."""

from typing import Any, Final

import httpx
from pydantic import ValidationError

from paceline_common import telemetry
from paceline_common.http import Problem, internal_client
from paceline_common.preview import Preview
from paceline_gateway import problems
from paceline_gateway.settings import GatewaySettings

_TIMEOUT_S: Final = 30.0
_log = telemetry.logger("preview")


class Previewer:
    """Asks the sender's `/internal/preview`."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._sender = internal_client(
            settings.sender_url, settings.sender_token, timeout_s=_TIMEOUT_S
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._sender.aclose()

    async def job(self, asked: dict[str, Any]) -> Preview:
        """Return the message of a job (see the sender's `JobPreviewRequest`).

        Raises `not_found`, `preview_failed`, `preview_unavailable`.
        """
        return await self._ask("/internal/preview/job", asked)

    async def step(self, asked: dict[str, Any]) -> Preview:
        """Return what a step would be for given values (the sender's `PreviewRequest`)."""
        return await self._ask("/internal/preview", asked)

    async def _ask(self, path: str, asked: dict[str, Any]) -> Preview:
        try:
            answer = await self._sender.post(path, json=asked)
            told = answer.json()
            if answer.status_code == httpx.codes.OK:
                return Preview.model_validate(told)
            code, detail = str(told["code"]), str(told["detail"])
        except (httpx.HTTPError, ValueError, KeyError, TypeError, ValidationError) as error:
            _log.warning("no preview", **telemetry.describe_error(error))
            raise Problem(problems.PREVIEW_UNAVAILABLE) from None
        if answer.status_code == httpx.codes.NOT_FOUND:
            raise Problem(problems.NOT_FOUND, detail)
        if answer.status_code == httpx.codes.UNPROCESSABLE_ENTITY:
            raise Problem(problems.PREVIEW_FAILED, detail, reason=told.get("reason", code))
        raise Problem(problems.PREVIEW_UNAVAILABLE, detail)
