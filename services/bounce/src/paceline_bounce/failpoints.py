"""Bounce's persisted transitions beside its topics', by the name of their failpoint."""

from collections.abc import Mapping
from typing import Final

FAILPOINTS: Final[Mapping[str, str]] = {
    "bounce.before_health_commit": "health is computed anew and written, not committed",
    "bounce.after_health_commit": "health computed anew is committed",
    "bounce.before_hold_commit": "a mailbox's cooldown, or hold, is written, not committed",
}
