"""What became of submissions moves enrollments on, or ends them."""

from collections import defaultdict
from collections.abc import Callable, Container, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common import ids
from paceline_common.db import Outbox, Queries
from paceline_common.db.session import after_commit
from paceline_common.events import Bounced, Replied, SendDeferred, SendInDoubt, Sent
from paceline_common.kafka.subscribe import Delivery
from paceline_scheduler.contact import Holds, load_colleagues
from paceline_scheduler.domain import sequence
from paceline_scheduler.limits import Limits


class Outcomes:
    """Handlers of the events about jobs; each is idempotent on the rows it changes.

    `free_mail` are the recipient domains that belong to no company.
    """

    def __init__(
        self,
        queries: Queries,
        outbox: Outbox,
        wake: Callable[[], None],
        holds: Holds,
        free_mail: Container[str],
    ) -> None:
        self._queries = queries
        self._outbox = outbox
        self._wake = wake
        self._holds = holds
        self._free_mail = free_mail
        self._limits = Limits(queries, outbox)

    async def sent(self, tx: AsyncConnection, deliveries: Sequence[Delivery[Sent]]) -> None:
        """Create the next step's job, or finish the enrollment after its last step."""
        told = {
            (one.workspace_id, ids.decode("job", one.body.job_id)): one
            for one in deliveries
            if one.body.enrollment_id is not None
        }
        if not told:
            return
        rows = (
            await tx.execute(
                self._queries["lock_current"],
                {
                    "workspaces": [workspace for workspace, _ in told],
                    "jobs": [job for _, job in told],
                    "enrollments": [
                        ids.decode("enr", one.body.enrollment_id or "") for one in told.values()
                    ],
                },
            )
        ).all()
        if not rows:
            return
        delays = await self._delays(tx, {(row.workspace_id, row.campaign_id) for row in rows})
        following = [
            sequence.after(
                row.step,
                told[row.workspace_id, row.job_id].body.sent_at,
                delays[row.workspace_id, row.campaign_id],
            )
            for row in rows
        ]
        await tx.execute(
            self._queries["advance_enrollments"],
            {
                "workspaces": [row.workspace_id for row in rows],
                "enrollments": [row.enrollment_id for row in rows],
                "jobs": [row.job_id for row in rows],
                "positions": [one and one.position for one in following],
                "dues": [one and one.due_at for one in following],
                "traceparents": [told[row.workspace_id, row.job_id].traceparent for row in rows],
            },
        )
        await tx.execute(
            self._queries["note_contacts"],
            {
                "workspaces": [row.workspace_id for row in rows],
                "enrollments": [row.enrollment_id for row in rows],
                "sent_ats": [told[row.workspace_id, row.job_id].body.sent_at for row in rows],
            },
        )
        await self._finish(
            tx,
            [
                (row.workspace_id, row.enrollment_id, "finished", "sequence_finished")
                for row, one in zip(rows, following, strict=True)
                if one is None and row.state == "active"
            ],
        )
        after_commit(tx, "pacer", self._wake)

    async def bounced(self, tx: AsyncConnection, deliveries: Sequence[Delivery[Bounced]]) -> None:
        """End enrollments whose message did not arrive; an open next job is cancelled.

        A provider that took a message and says later that it was over a limit limits its mailbox.
        """
        named = [one for one in deliveries if one.body.enrollment_id is not None]
        await self._finish(
            tx,
            [(*_enrollment(one), "bounced", f"{one.body.bounce_class}_bounce") for one in named],
        )
        await self._limited(tx, [one for one in deliveries if one.body.bounce_class == "limit"])

    async def replied(self, tx: AsyncConnection, deliveries: Sequence[Delivery[Replied]]) -> None:
        """End enrollments that a human answered, and where wanted all others of the company."""
        answered = [_enrollment(one) for one in deliveries if one.body.enrollment_id is not None]
        if not answered:
            return
        others = await load_colleagues(tx, self._queries, self._free_mail, answered)
        # In one go: enrollments are locked in one order.
        await self._finish(
            tx,
            [
                *((*key, "replied", "human_reply") for key in answered),
                *((*key, "stopped", "company_replied") for key in others),
            ],
        )

    async def deferred(
        self, tx: AsyncConnection, deliveries: Sequence[Delivery[SendDeferred]]
    ) -> None:
        """Note the change, and what it says of the mailbox: the job itself was queued again by
        `finish_send`, which told the pacer."""
        named = [one for one in deliveries if one.body.enrollment_id is not None]
        await self._touch(tx, [_enrollment(one) for one in named])
        await self._limited(
            tx,
            [
                one
                for one in deliveries
                if one.body.outcome_class == "limit" and not one.body.app_wide
            ],
        )
        after_commit(tx, "pacer", self._wake)

    async def in_doubt(
        self, tx: AsyncConnection, deliveries: Sequence[Delivery[SendInDoubt]]
    ) -> None:
        """Note the change: the sender asks for a person itself; the job's row says where it is."""
        named = [one for one in deliveries if one.body.enrollment_id is not None]
        await self._touch(tx, [_enrollment(one) for one in named])

    async def suspend_unhandled(self, tx: AsyncConnection, delivery: Delivery[Any]) -> None:
        """Hold an enrollment whose stop event cannot be handled. Raises `InvalidIdError` if the
        record's key names none."""
        await tx.execute(
            self._queries["suspend"],
            {
                "workspace": delivery.workspace_id,
                "scope": "enrollment",
                "ref": ids.decode("enr", delivery.key),
                "reason": f"unhandled_{delivery.topic}",
                "until": None,
                "opened_by": "scheduler",
                "detail": "a stop event about this enrollment is in quarantine",
            },
        )

    async def _delays(
        self, tx: AsyncConnection, campaigns: set[tuple[int, int]]
    ) -> dict[tuple[int, int], dict[int, timedelta]]:
        rows = await tx.execute(
            self._queries["load_steps"],
            {
                "workspaces": [workspace for workspace, _ in campaigns],
                "campaigns": [campaign for _, campaign in campaigns],
            },
        )
        delays: dict[tuple[int, int], dict[int, timedelta]] = defaultdict(dict)
        for row in rows:
            delays[row.workspace_id, row.campaign_id][row.position] = timedelta(
                seconds=float(row.delay_s)
            )
        return delays

    async def _finish(self, tx: AsyncConnection, ends: Sequence[tuple[int, int, str, str]]) -> None:
        """End enrollments: (workspace, enrollment, state, reason)."""
        if not ends:
            return
        await tx.execute(
            self._queries["finish_enrollments"],
            {
                "workspaces": [workspace for workspace, _, _, _ in ends],
                "enrollments": [enrollment for _, enrollment, _, _ in ends],
                "states": [state for _, _, state, _ in ends],
                "reasons": [reason for _, _, _, reason in ends],
            },
        )
        after_commit(tx, "outbox", self._outbox.wake.set)
        await self._holds.ended(tx, [(one[0], one[1]) for one in ends])

    async def _limited(
        self, tx: AsyncConnection, deliveries: Sequence[Delivery[SendDeferred] | Delivery[Bounced]]
    ) -> None:
        throttled = await self._limits.note(
            tx,
            [
                (one.workspace_id, ids.decode("mbx", one.body.mailbox_id), one.time)
                for one in deliveries
            ],
        )
        if throttled:
            after_commit(tx, "outbox", self._outbox.wake.set)
            after_commit(tx, "pacer", self._wake)

    async def _touch(self, tx: AsyncConnection, enrollments: Sequence[tuple[int, int]]) -> None:
        if enrollments:
            await tx.execute(
                self._queries["touch_enrollments"],
                {
                    "workspaces": [workspace for workspace, _ in enrollments],
                    "enrollments": [enrollment for _, enrollment in enrollments],
                },
            )


def _enrollment(one: Delivery[Any]) -> tuple[int, int]:
    return one.workspace_id, ids.decode("enr", one.body.enrollment_id)
