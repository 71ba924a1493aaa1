"""A service whose parts misbehave as told: `service_process.py <what>`."""

import asyncio
import sys

from fastapi import APIRouter

from paceline_common.http import Problem, ProblemType
from paceline_common.service import Service
from paceline_common.settings import ServiceSettings

GONE = ProblemType("gone", 410, "It is gone", "Look elsewhere.")


def main() -> None:
    service = Service("scratch", ServiceSettings())
    what = sys.argv[1]
    router = APIRouter()

    @router.get("/things/{thing}")
    async def thing(thing: int) -> dict[str, int]:
        if thing == 1:
            raise Problem(GONE, "thing 1 is gone", thing=1)
        if thing == 2:
            raise RuntimeError("somebody@example.test")
        if thing == 3:
            raise ConnectionRefusedError
        return {"thing": thing}

    service.include(router)
    service.internal(router)
    tries = 0

    async def flaky() -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise ConnectionRefusedError
        await asyncio.Event().wait()

    async def buggy() -> None:
        raise RuntimeError("somebody@example.test")

    async def draining() -> None:
        await service.stopping.wait()
        print('{"event": "drained"}', flush=True)  # noqa: T201 - the test reads it

    async def settled() -> bool:
        return tries >= 3 if what == "flaky" else True

    service.readiness("task", settled)
    service.background(
        what, {"flaky": flaky, "buggy": buggy, "draining": draining}[what], drain=what == "draining"
    )
    service.run()


if __name__ == "__main__":
    main()
