"""Audit's persisted transitions beside its topic's, by the name of their failpoint."""

from collections.abc import Mapping
from typing import Final

FAILPOINTS: Final[Mapping[str, str]] = {
    "audit.before_checkpoint_commit": "a head is signed, its checkpoint not committed",
    "audit.after_checkpoint_commit": "a checkpoint is committed",
}
