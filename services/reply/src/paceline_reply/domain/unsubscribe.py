"""Unsubscribing by mail: the token in the subject that our List-Unsubscribe asked for."""

import re
from typing import Final

from paceline_reply.domain.inbound import Inbound

_SUBJECT: Final = re.compile(r"(?i)\bunsubscribe\s+(ws_\S{1,300})")


def unsubscribe_token(inbound: Inbound) -> str | None:
    """Return the token that the subject carries, not verified yet; None without one."""
    found = _SUBJECT.search(inbound.subject)
    return found.group(1) if found else None
