"""Group commit: what arrives within a few milliseconds goes into one transaction."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Batcher(Generic[T, R]):
    """Collects items and hands them over in groups; each caller gets its own result.

    `handle` gets at most `limit` items and returns one result per item, in
    order; if it raises, every caller of the group gets the exception. A group
    leaves `linger_s` after its first item, or as soon as one of `lanes` groups
    under way is done.
    """

    def __init__(
        self,
        handle: Callable[[Sequence[T]], Awaitable[Sequence[R]]],
        *,
        linger_s: float,
        limit: int,
        lanes: int = 1,
    ) -> None:
        self._handle = handle
        self._linger_s = linger_s
        self._limit = limit
        self._free = lanes
        self._waiting: deque[tuple[T, asyncio.Future[R]]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def put(self, item: T) -> R:
        """Return the result of `item` once its group is done; raise what `handle` raised."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        self._arm(self._linger_s)
        # The group goes on if one of its callers is cancelled.
        return await future

    def _arm(self, delay_s: float) -> None:
        if self._timer is None and self._free and self._waiting:
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._start)

    def _start(self) -> None:
        self._timer = None
        count = min(self._limit, len(self._waiting))
        group = [self._waiting.popleft() for _ in range(count)]
        self._free -= 1
        task = asyncio.create_task(self._run(group))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._arm(0)

    async def _run(self, group: Sequence[tuple[T, asyncio.Future[R]]]) -> None:
        try:
            results = await self._handle([item for item, _ in group])
        except BaseException as error:  # noqa: BLE001 - each caller gets it, cancellation too
            for _, future in group:
                if not future.done():
                    future.set_exception(error)
        else:
            for (_, future), result in zip(group, results, strict=True):
                if not future.done():
                    future.set_result(result)
        finally:
            self._free += 1
            self._arm(0)
