"""The one place that knows everything: the scheduler's parts, put together."""

import random

from paceline_common import redis
from paceline_common.address import AddressHasher
from paceline_common.db import Queries
from paceline_common.service import Service
from paceline_scheduler import api, consumers
from paceline_scheduler.enroll import Enroller
from paceline_scheduler.mailboxes import Mailboxes
from paceline_scheduler.metrics import METRICS
from paceline_scheduler.outcomes import Outcomes
from paceline_scheduler.pacing.redis import RedisPacing
from paceline_scheduler.rebuild import PacingState
from paceline_scheduler.reserve import Pacer
from paceline_scheduler.settings import SchedulerSettings
from paceline_scheduler.suspend import CampaignSettler, Changes


def build(settings: SchedulerSettings) -> Service:
    """Return the scheduler, ready to run."""
    service = Service("scheduler", settings, metrics=METRICS)
    queries = Queries("paceline_scheduler")
    client = redis.connect(settings)
    store = RedisPacing(client)
    rng = random.SystemRandom()
    mailboxes = Mailboxes(queries)
    state = PacingState(service.db, queries, store, mailboxes, rng)
    pacer = Pacer(service.db, queries, store, state, service.outbox, service.metrics, rng)
    settler = CampaignSettler(service.db, queries, service.outbox)
    hashers: list[AddressHasher] = []

    async def hasher() -> AddressHasher:
        if not hashers:
            hashers.append(AddressHasher(await service.keys.secret("address-hash")))
        return hashers[0]

    for subscription in consumers.subscriptions(
        Enroller(queries, hasher, pacer.wake.set, accept_test_domains=settings.accept_test_domains),
        Outcomes(queries, service.outbox, pacer.wake.set),
        Changes(queries, mailboxes, settler, pacer.wake.set),
    ):
        service.subscribe(subscription)
    service.background("pacer", pacer.run)
    service.background("campaign-settler", settler.run)
    service.readiness("redis", lambda: redis.check(client))
    service.readiness("address-hash", hasher)
    service.internal(api.router(service.db, queries))
    return service


def run() -> None:
    """Run the scheduler until it is told to stop."""
    build(SchedulerSettings()).run()
