"""Capacity that is given back is there to be used: on the same day."""

import pytest
from tests.waiting import until

from .conftest import House, World
from .test_pacing import leads, mailboxes, running

CAPS = ({"daily_cap": 1}, {"hourly_cap": 1}, {"ceiling_24h": 1})


@pytest.mark.parametrize("cap", CAPS)
async def test_capacity_given_back_is_used_again(
    world: World, house: House, cap: dict[str, int]
) -> None:
    await mailboxes(world, house, 1, cadence_s=0.3, jitter_s=[0.05, 0.1], **cap)
    world.campaign()
    await house.enroll(*leads(world, 3))
    async with running(house):
        # Nobody claims: each lease ends, and the cap is free again.
        await until(lambda: world.one("SELECT count(*) FROM slot") >= 3, within_s=60)
    assert world.one("SELECT count(*) FROM slot WHERE returned_at IS NULL") <= 1
