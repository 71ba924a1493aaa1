"""Reply's persisted transitions beside its topic's, by the name of their failpoint."""

from collections.abc import Mapping
from typing import Final

FAILPOINTS: Final[Mapping[str, str]] = {
    "reply.before_inbound_commit": "a message's effect and its cursor are written, not committed",
    "reply.after_inbound_commit": "a message's effect and its cursor are committed",
    "reply.token_refreshed": "a grant has new tokens, not stored",
    "reply.token_stored": "a grant's new tokens are committed",
    "reply.after_cursor_placed": "a mailbox's first place, or a new one, is committed",
    "reply.after_cursor_moved": "the place behind all that was read is committed",
    "reply.mailboxes_taken": "mailboxes are taken, or left, by their leases; nothing is read yet",
    "reply.after_reading_told": "that a mailbox can be read is committed, its holds are lifted",
    "reply.after_refusal_told": "that a mailbox refuses us is committed, with its hold",
    "reply.grant_revoked": "a grant is revoked at its provider, its tokens are still kept",
}
