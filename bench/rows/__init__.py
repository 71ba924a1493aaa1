"""The rows of the bench, one file each; `ROWS` maps a row's number to its measurement."""

from collections.abc import Callable, Mapping
from typing import Final

from bench.measure import Result
from bench.rows import enrollment, message

Row = Callable[[int], list[Result]]

ROWS: Final[Mapping[int, Row]] = {8: enrollment.measure, 10: message.measure}
