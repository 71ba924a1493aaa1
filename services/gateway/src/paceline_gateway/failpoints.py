"""The gateway's persisted transitions beside its topics', by the name of their failpoint."""

from collections.abc import Mapping
from typing import Final

FAILPOINTS: Final[Mapping[str, str]] = {
    "gateway.before_import_commit": "rows of an import and their events are written, not committed",
    "gateway.after_import_commit": "rows of an import and their events are committed",
    "gateway.before_suppress_commit": "a suppression is written, not committed",
    "gateway.after_suppress_commit": "a suppression is committed, nobody was told",
    "gateway.before_suspend_commit": "a gate is closed, that is not committed",
    "gateway.after_suspend_commit": "a gate is closed and committed, nobody was told",
    "gateway.after_resume_commit": "a gate is open again and that committed, nobody was told",
    "gateway.after_change_commit": "a mailbox, campaign or workspace is changed and committed",
    "gateway.oauth_link_used": "a start link is used up, the browser was not sent on",
    "gateway.oauth_arrived": "a way back from the provider is used up, its code is not",
    "gateway.oauth_exchanged": "the provider has given tokens, they are kept nowhere",
    "gateway.oauth_held": "the first of two consents is held, the browser was not sent on",
    "gateway.oauth_testing": "a consented mailbox is about to be tested, that is committed",
    "gateway.disconnect_held": "a mailbox sends no more, its grants are not revoked",
    "gateway.disconnect_revoked": "a mailbox's grants are revoked, its credentials not destroyed",
    "gateway.attachment_begun": "an attachment has a row, no object",
    "gateway.attachment_put": "an attachment has its object, its row does not say so",
    "gateway.attachment_deleted": "an attachment's row says deleted, its object is still there",
}
