"""Which topics the scheduler reads, and who handles each."""

from collections.abc import Iterator
from typing import Any, Final

from paceline_common import topics
from paceline_common.kafka.subscribe import Subscription
from paceline_scheduler.enroll import Enroller
from paceline_scheduler.outcomes import Outcomes
from paceline_scheduler.suspend import Changes

# An import is a flood, and each batch has a dozen round trips and an fsync. 1,000 rows hold their
# locks for 0.1 s on an idle machine, well below the lock timeout of whoever waits for one.
LEADS_AT_ONCE: Final = 1_000


def subscriptions(
    enroller: Enroller, outcomes: Outcomes, changes: Changes
) -> Iterator[Subscription[Any]]:
    """Return every subscription. Those without an inbox are idempotent on the rows they change."""
    yield Subscription(
        topic=topics.LEAD_ENROLLED, handler=enroller.enroll, max_records=LEADS_AT_ONCE
    )
    yield Subscription(
        topic=topics.LEAD_ENROLLED_BY_PUBLISHER,
        handler=enroller.enroll,
        belongs=enroller.belongs,
        max_records=LEADS_AT_ONCE,
    )
    yield Subscription(topic=topics.SENT, handler=outcomes.sent, dedupe=False)
    yield Subscription(
        topic=topics.BOUNCED,
        handler=outcomes.bounced,
        dedupe=False,
        on_quarantine=outcomes.suspend_unhandled,
    )
    yield Subscription(
        topic=topics.REPLIED,
        handler=outcomes.replied,
        dedupe=False,
        on_quarantine=outcomes.suspend_unhandled,
    )
    yield Subscription(topic=topics.SEND_DEFERRED, handler=outcomes.deferred, dedupe=False)
    yield Subscription(topic=topics.SEND_IN_DOUBT, handler=outcomes.in_doubt, dedupe=False)
    yield Subscription(
        topic=topics.WORKSPACE_CHANGED, handler=changes.workspace_changed, dedupe=False
    )
    yield Subscription(topic=topics.MAILBOX_CHANGED, handler=changes.mailbox_changed, dedupe=False)
    yield Subscription(topic=topics.MAILBOX_PROBED, handler=changes.mailbox_probed)
    yield Subscription(
        topic=topics.MAILBOX_HEALTH_CHANGED, handler=changes.health_changed, dedupe=False
    )
    yield Subscription(
        topic=topics.CAMPAIGN_CHANGED,
        handler=changes.campaign_changed,
        dedupe=False,
        on_quarantine=changes.suspend_unhandled,
    )
