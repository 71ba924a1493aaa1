"""From where a follow-up goes when the mailbox that sent the first message is gone."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

Mode = Literal["wait", "reassign", "stop"]


@dataclass(frozen=True, slots=True)
class Wait:
    """It stays with its mailbox; `until` is when that is decided anew, None for never."""

    until: datetime | None


@dataclass(frozen=True, slots=True)
class Reassign:
    """Any mailbox of the campaign may send it, within the same conversation."""


@dataclass(frozen=True, slots=True)
class Stop:
    """The enrollment ends: nobody else may write to its lead."""


def decide(
    mode: Mode, after: timedelta, gone_since: datetime | None, now: datetime
) -> Wait | Reassign | Stop:
    """Return what becomes of the follow-ups of a mailbox that is gone since `gone_since`.

    None: it is not gone. A mailbox may come back: `reassign` and `stop` wait
    until it has been gone, without interruption, for `after`.
    """
    if gone_since is None or mode == "wait":
        return Wait(None)
    if now < gone_since + after:
        return Wait(gone_since + after)
    return Reassign() if mode == "reassign" else Stop()
