"""Mailboxes that their provider limited have half their cap for a while."""

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common import ids, telemetry, topics
from paceline_common.db import Outbox, Outgoing, Queries
from paceline_common.events import IssueRaised
from paceline_scheduler.domain.limits import (
    Limited,
    LimitRules,
    is_repeated,
    limited,
    throttled_until,
)

_RULES: Final = LimitRules()

_log = telemetry.logger("scheduler.limits")


class Limits:
    """Throttles mailboxes; the same limit told twice changes nothing."""

    def __init__(self, queries: Queries, outbox: Outbox) -> None:
        self._queries = queries
        self._outbox = outbox

    async def note(
        self, tx: AsyncConnection, hits: Iterable[tuple[int, int, datetime]]
    ) -> set[tuple[int, int]]:
        """Note the limits of mailboxes: (workspace, mailbox, when, aware).

        Returns the mailboxes that were throttled, or for longer. Nothing is leased by what was
        compiled of their old caps, and the pacer is told. A repetition raises an issue.
        """
        by_mailbox: dict[tuple[int, int], list[datetime]] = defaultdict(list)
        for workspace, mailbox, at in hits:
            by_mailbox[workspace, mailbox].append(at)
        if not by_mailbox:
            return set()
        rows = await tx.execute(
            self._queries["load_limits"],
            {
                "workspaces": [workspace for workspace, _ in by_mailbox],
                "mailboxes": [mailbox for _, mailbox in by_mailbox],
            },
        )
        found: dict[tuple[int, int], tuple[Limited, datetime]] = {}
        for row in rows:
            key, tz = (row.workspace_id, row.mailbox_id), ZoneInfo(row.tz)
            last = None
            if row.limited_day is not None:
                last = Limited(row.limited_day, row.limited_times)
            days = {at.astimezone(tz).date() for at in by_mailbox[key]}
            now = limited(last, days, _RULES)
            if now is not None and now != last:
                found[key] = now, throttled_until(now, tz, _RULES)
        if found:
            await self._throttle(tx, found, {key: max(ats) for key, ats in by_mailbox.items()})
        return set(found)

    async def _throttle(
        self,
        tx: AsyncConnection,
        found: dict[tuple[int, int], tuple[Limited, datetime]],
        at: dict[tuple[int, int], datetime],
    ) -> None:
        named: dict[str, list[Any]] = {
            "workspaces": [workspace for workspace, _ in found],
            "mailboxes": [mailbox for _, mailbox in found],
        }
        await tx.execute(
            self._queries["set_limits"],
            {
                **named,
                "days": [one.day for one, _ in found.values()],
                "times": [one.times for one, _ in found.values()],
                "untils": [until for _, until in found.values()],
            },
        )
        await tx.execute(
            self._queries["add_changes"],
            {
                "workspaces": named["workspaces"],
                "scopes": ["mailbox"] * len(found),
                "refs": named["mailboxes"],
            },
        )
        told = []
        for (workspace, number), (one, until) in found.items():
            mailbox = ids.encode("mbx", number)
            _log.warning("mailbox throttled", mailbox=mailbox, count=one.times)
            if is_repeated(one, _RULES):
                named_at = at[workspace, number]
                told.append(_issue(ids.encode("ws", workspace), mailbox, one, until, named_at))
        await self._outbox.add(tx, told)


def _issue(workspace: str, mailbox: str, found: Limited, until: datetime, at: datetime) -> Outgoing:
    return Outgoing(
        topic=topics.ISSUE_RAISED,
        key=mailbox,
        subject=mailbox,
        body=IssueRaised(
            workspace_id=workspace,
            subject=mailbox,
            code="limited_repeatedly",
            severity="warning",
            detail=f"The provider limited the mailbox on {found.times} days in a short time: it is"
            f" throttled to half its daily cap until {until.isoformat(timespec='minutes')}. Send"
            " less from it, or ask the provider for more.",
            raised_at=at,
        ),
    )
