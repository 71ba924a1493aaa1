"""The scheduler's persisted transitions, by the name of their failpoint."""

from collections.abc import Mapping
from typing import Final

FAILPOINTS: Final[Mapping[str, str]] = {
    "scheduler.after_proposal": "the store has proposed slots, Postgres has not leased them",
    "scheduler.before_lease_commit": "leases and their events are written, not committed",
    "scheduler.after_lease_commit": "leases are committed, the store not corrected",
    "scheduler.before_changes_commit": "the store knows of changes that are still noted as new",
    "scheduler.after_changes_commit": "the store knows of changes, and that is committed",
    "scheduler.after_leases_expired": "leases nobody claimed are taken back",
    "scheduler.after_suspensions_ended": "suspensions whose time was over are closed",
    "scheduler.after_epoch_commit": "a new epoch is committed, the store still holds the old one",
    "scheduler.before_store_opened": "the store is written anew, not opened",
}
