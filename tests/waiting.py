"""The one way in which tests wait."""

import asyncio
import time
from collections.abc import Callable
from inspect import isawaitable
from typing import Any


async def until(
    condition: Callable[[], Any],
    what: str = "it",
    *,
    within_s: float = 30.0,
    every_s: float = 0.02,
) -> Any:
    """Return the first true thing that `condition`, plain or async, gives.

    For what has no event to wait for: looks every `every_s` seconds. Raises
    AssertionError that names `what` when it does not come within `within_s`
    seconds. Where no loop runs, `paceline_local.process.wait_until` waits.
    """
    deadline = time.monotonic() + within_s
    while True:
        found = condition()
        if isawaitable(found):
            found = await found
        if found:
            return found
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {within_s:g} s: {what}")
        await asyncio.sleep(every_s)
