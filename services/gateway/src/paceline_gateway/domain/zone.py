"""IANA time zones by name."""

from functools import cache
from zoneinfo import available_timezones


@cache
def _names() -> frozenset[str]:
    return frozenset(available_timezones())


def is_timezone(name: str) -> bool:
    """Tell whether `name` is a zone of the IANA database, as `Europe/Berlin` is."""
    return name in _names()
