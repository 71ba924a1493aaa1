"""The sender's persisted transitions, by the name of their failpoint."""

from collections.abc import Mapping
from typing import Final

FAILPOINTS: Final[Mapping[str, str]] = {
    "sender.token_refreshed": "a grant has new tokens, not stored",
    "sender.token_stored": "a grant's new tokens are committed",
    "sender.draft_intended": "that a draft is about to be made is committed, it is not made",
    "sender.draft_made": "a draft stands with the provider, nothing is claimed",
    "sender.draft_destroyed": "a draft left over is destroyed, that is not noted",
    "sender.before_claim": "a message is built and signed in for, not claimed",
    "sender.before_claim_commit": "claims and their attempts are written, not committed",
    "sender.after_claim": "a claim is committed, nothing has left",
    "sender.after_mail_from": "MAIL FROM has left",
    "sender.after_final_dot": "the whole message has left, no answer was read",
    "sender.before_outcome": "an answer is read, not recorded",
    "sender.before_outcome_commit": "outcomes and their events are written, not committed",
    "sender.after_outcome": "an outcome is committed",
    "sender.after_abandoned": "tries without an answer are named in doubt",
    "sender.before_destroy": "that a draft is about to be destroyed is committed",
    "sender.after_destroy": "a draft is destroyed, its doubt is not settled",
    "sender.before_settle_commit": "a doubt's end and its events are written, not committed",
    "sender.after_settle": "a doubt's end is committed",
    "sender.doubts_taken": "doubts are this process's to look at, none was looked at",
    "sender.after_look": "a look that proved nothing is committed, and when the next one is",
    "sender.grant_revoked": "a grant is revoked at its provider, its tokens are still kept",
}
