"""`python -m bench.bare_timer RATE`: how late uvloop's own timers come, when they do nothing else.

RATE timers per second at random instants, set one to two seconds ahead. Prints
one line per timer: CLOCK_REALTIME in ns at which it was due, and how many ns
later it ran. Ends with its standard input.
"""

import asyncio
import os
import random
import sys
import time

import uvloop


def _ran(due_s: float) -> None:
    late = round((time.monotonic() - due_s) * 1e9)
    os.write(1, b"%d %d\n" % (time.time_ns() - late, late))


async def _run(rate: float) -> None:
    loop = asyncio.get_running_loop()
    rng = random.Random(7)
    ended = loop.run_in_executor(None, sys.stdin.buffer.read)
    second = loop.time()
    while not ended.done():
        for _ in range(round(rate)):
            due_s = second + 1 + rng.random()
            loop.call_at(due_s, _ran, due_s)
        second += 1
        await asyncio.wait({ended}, timeout=second - loop.time())


if __name__ == "__main__":
    uvloop.run(_run(float(sys.argv[1])))
