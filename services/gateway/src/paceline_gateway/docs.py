"""The gateway's generated documents: the errors of the API, and its OpenAPI document."""

import json
from collections.abc import Mapping

from paceline_gateway import problems
from paceline_gateway.app import openapi


def documents() -> Mapping[str, str]:
    """Return path below `docs/` → text."""
    return {
        "errors.md": problems.markdown(),
        "openapi.json": json.dumps(openapi(), indent=2, ensure_ascii=False) + "\n",
    }
