"""A mailbox's way in, from what is stored: its settings, and its credential opened."""

import json
from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Row

from paceline_common.db.session import Database
from paceline_common.db.sql import Queries
from paceline_common.keys import KeyService, SealBroken
from paceline_sender.transport import Account

_TABLE: Final = "mailbox"


class Accounts:
    """Loads and opens one mailbox at a time: for tests, proofs and tidying up, not for batches."""

    def __init__(self, db: Database, keys: KeyService) -> None:
        self._db = db
        self._keys = keys
        self._queries = Queries("paceline_sender")

    async def load(self, workspace_id: int, mailbox_id: int) -> Account | None:
        """Return the mailbox's account, None when it is disconnected.

        Raises `SealBroken` for a credential that cannot be opened, and what `KeyService` and
        Postgres raise.
        """
        named = {"workspace": workspace_id, "mailbox": mailbox_id}
        async with self._db.transaction([workspace_id]) as tx:
            row = (await tx.execute(self._queries["load_mailbox"], named)).one_or_none()
        if row is None or row.credential is None:
            return None
        credential = await opened(self._keys, workspace_id, mailbox_id, row.credential)
        return account_of(row, credential)


def account_of(row: Row[Any], credential: Mapping[str, Any]) -> Account:
    """Return the account of a row of `load_mailbox` or `load_jobs`."""
    return Account(
        workspace_id=row.workspace_id,
        mailbox_id=row.mailbox_id,
        kind=row.provider,
        email=row.from_email,
        smtp=row.smtp,
        oauth=row.oauth,
        credential=credential,
        credential_version=row.credential_version,
        settings_version=row.settings_version,
    )


async def opened(
    keys: KeyService, workspace_id: int, mailbox_id: int, sealed: bytes
) -> Mapping[str, Any]:
    """Open a mailbox's sending credential; raise `SealBroken` for one that is not what it was."""
    plain = await keys.open("send", workspace_id, bytes(sealed), table=_TABLE, row=mailbox_id)
    return _credential(plain)


async def opened_all(
    keys: KeyService, workspace_id: int, sealed: Mapping[int, bytes]
) -> dict[int, Mapping[str, Any] | SealBroken]:
    """Open the sending credentials of a workspace's mailboxes; the error for a broken one."""
    found: dict[int, Mapping[str, Any] | SealBroken] = {}
    for mailbox_id, plain in (
        await keys.open_all("send", workspace_id, sealed, table=_TABLE)
    ).items():
        try:
            found[mailbox_id] = plain if isinstance(plain, SealBroken) else _credential(plain)
        except SealBroken as broken:
            found[mailbox_id] = broken
    return found


def _credential(plain: bytes) -> Mapping[str, Any]:
    try:
        credential = json.loads(plain)
    except ValueError:
        credential = None
    if not isinstance(credential, dict):
        raise SealBroken("the credential is not what the sender knows")
    return credential
