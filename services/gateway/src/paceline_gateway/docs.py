"""The gateway's generated documents: the API's errors and OpenAPI, and what grants allow."""

import json
from collections.abc import Mapping

from paceline_gateway import problems
from paceline_gateway.app import openapi
from paceline_gateway.domain import consent


def documents() -> Mapping[str, str]:
    """Return path below `docs/` → text."""
    return {
        "errors.md": problems.markdown(),
        "oauth-grants.md": consent.markdown(),
        "openapi.json": json.dumps(openapi(), indent=2, ensure_ascii=False) + "\n",
    }
