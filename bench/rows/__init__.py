"""The rows of the bench, one file each; `ROWS` maps a row's number to its measurement."""

from collections.abc import Callable, Mapping
from typing import Final

from bench.measure import Result
from bench.rows import (
    enrollment,
    events,
    explain,
    lateness,
    memory,
    message,
    pacing,
    standstill,
    submission,
    warm,
)

Row = Callable[[int], list[Result]]

ROWS: Final[Mapping[int, Row]] = {
    1: submission.measure,
    2: warm.measure,
    3: pacing.measure_rate,
    4: pacing.measure_growth,
    5: memory.measure_bytes,
    7: lateness.measure,
    8: enrollment.measure,
    9: events.measure,
    10: message.measure,
    11: explain.measure,
    12: standstill.measure_pause,
    13: standstill.measure_wait,
}
