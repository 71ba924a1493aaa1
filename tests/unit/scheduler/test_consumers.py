"""What the scheduler hands to the subscribe wrapper."""

from typing import Any, cast

from paceline_common import topics
from paceline_common.db import Queries
from paceline_scheduler.consumers import subscriptions
from paceline_scheduler.enroll import Enroller


def test_each_family_says_which_workspaces_its_publishers_may_use() -> None:
    async def hasher() -> None: ...

    unused = cast("Any", _Anything())
    enroller = Enroller(Queries("paceline_scheduler"), hasher, lambda: None, unused, unused)
    families = {
        one.topic: one for one in subscriptions(enroller, unused, unused) if one.topic.pattern
    }
    assert families.keys() == {topics.LEAD_ENROLLED_BY_PUBLISHER}
    # Without it every quarantined record of a publisher would be the installation's.
    assert families[topics.LEAD_ENROLLED_BY_PUBLISHER].belongs == enroller.belongs


class _Anything:
    """Handlers of topics that this test does not look at."""

    def __getattr__(self, _name: str) -> object:
        return None
