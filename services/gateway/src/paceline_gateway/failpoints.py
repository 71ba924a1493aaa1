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
}
