"""The files of a message: fetched, opened, and for a short while kept for the next job."""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from paceline_common.clock import Clock
from paceline_common.keys import SealBroken
from paceline_common.storage import AttachmentFiles, ObjectMissing
from paceline_sender.domain.message import Attachment

# What was removed or altered in the storage is noticed after this at the latest.
KEPT_FOR: Final = timedelta(seconds=60)
KEPT_BYTES: Final = 64 * 1024 * 1024


class AttachmentFault(Exception):
    """A file that the step names cannot be sent along; the message is not sent without it.

    reason: `attachment_missing`, `attachment_unreadable`.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Filed:
    """A file as the step names it; without a `storage_key` it is gone."""

    attachment_id: int
    filename: str
    content_type: str
    size: int
    storage_key: str | None
    content_id: str | None

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> "Filed":
        """Read one entry of `attachments` as `load_jobs.sql` gives it."""
        return cls(
            stored["attachment_id"], stored["filename"] or "", stored["content_type"] or "",
            stored["size"] or 0, stored["storage_key"], stored["content_id"],
        )  # fmt: skip


class AttachmentLoader:
    """Fetches files. Opened content is kept in memory for `KEPT_FOR`, `KEPT_BYTES` in all."""

    def __init__(self, files: AttachmentFiles, clock: Clock) -> None:
        self._files = files
        self._clock = clock
        self._kept: OrderedDict[tuple[int, str], tuple[float, bytes]] = OrderedDict()
        self._kept_bytes = 0
        self._fetching: dict[tuple[int, str], asyncio.Task[bytes]] = {}

    async def load(self, workspace_id: int, filed: Sequence[Filed]) -> tuple[Attachment, ...]:
        """Return the files with their content.

        Raises `AttachmentFault`; `StorageUnavailable` and `KeyServiceError` pass.
        """
        contents = await asyncio.gather(*(self._content(workspace_id, one) for one in filed))
        return tuple(
            Attachment(one.filename, one.content_type, content, one.content_id)
            for one, content in zip(filed, contents, strict=True)
        )

    async def _content(self, workspace_id: int, one: Filed) -> bytes:
        if one.storage_key is None:
            raise AttachmentFault(
                "attachment_missing", f"the step's attachment {one.attachment_id} was removed"
            )
        key = workspace_id, one.storage_key
        held = self._kept.get(key)
        if held is not None and held[0] > self._clock.monotonic():
            return held[1]
        # Of the jobs that come due together, one fetches.
        task = self._fetching.get(key)
        if task is None:
            task = asyncio.create_task(self._fetch(workspace_id, one, one.storage_key))
            self._fetching[key] = task
            task.add_done_callback(lambda _: self._fetching.pop(key, None))
        return await asyncio.shield(task)

    async def _fetch(self, workspace_id: int, one: Filed, storage_key: str) -> bytes:
        try:
            content = await self._files.get(workspace_id, one.attachment_id, storage_key)
        except ObjectMissing:
            raise AttachmentFault(
                "attachment_missing", f"{one.filename} is not in the storage any more"
            ) from None
        except SealBroken:
            raise AttachmentFault(
                "attachment_unreadable",
                f"{one.filename} was altered in the storage, or its key was destroyed",
            ) from None
        if len(content) != one.size:
            raise AttachmentFault(
                "attachment_unreadable", f"{one.filename} has not the size it was uploaded with"
            )
        self._keep((workspace_id, storage_key), content)
        return content

    def _keep(self, key: tuple[int, str], content: bytes) -> None:
        _, former = self._kept.pop(key, (0.0, b""))
        self._kept_bytes += len(content) - len(former)
        self._kept[key] = (self._clock.monotonic() + KEPT_FOR.total_seconds(), content)
        while self._kept_bytes > KEPT_BYTES:
            _, (_, oldest) = self._kept.popitem(last=False)
            self._kept_bytes -= len(oldest)
