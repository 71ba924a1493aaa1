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
    "scheduler.before_stretches_commit": "the store has new open stretches, not committed here",
    "scheduler.after_unstuck": "follow-ups of a mailbox that is gone may go from any, committed",
    "scheduler.after_sender_gone": "enrollments of a mailbox that is gone are ended, committed",
    "scheduler.after_rechecks_taken": "failed mailboxes are taken for a test, nobody is asked yet",
    "scheduler.before_recheck_commit": "what a test found is written, not committed",
    "scheduler.after_throttled": "that a campaign is throttled, or no more, is committed",
    "scheduler.after_spread": "jobs to a domain are spread anew, its rule still counts as changed",
    "scheduler.after_holds_released": "enrollments that waited for another campaign go on",
    "scheduler.after_enrollments_stopped": "a part of a stopped campaign's enrollments is ended",
    "scheduler.after_first_jobs": "enrollments of a campaign without steps have their first jobs",
}
