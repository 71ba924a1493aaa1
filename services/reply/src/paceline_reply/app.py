"""The one place that knows everything: reply's parts, put together."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial

import httpx
import stamina

from paceline_common.service import Service
from paceline_providers.hosts import HostPolicy, HostRefused
from paceline_providers.tls import context
from paceline_reply import api, consumers
from paceline_reply.access import Doors
from paceline_reply.failpoints import FAILPOINTS
from paceline_reply.find_sent import SentFinder
from paceline_reply.metrics import METRICS
from paceline_reply.patience import PatientDatabase
from paceline_reply.probe import Prober
from paceline_reply.reader import Parts
from paceline_reply.readers import Readers
from paceline_reply.receive import Receiver
from paceline_reply.revoke import Revoker
from paceline_reply.settings import ReplySettings
from paceline_reply.sources.api import Pace
from paceline_reply.sources.base import SourceError
from paceline_reply.sources.imap_client import Contexts, Resolve


def build(settings: ReplySettings) -> Service:
    """Return reply, ready to run."""
    service = Service("reply", settings, metrics=METRICS, failpoint_names=frozenset(FAILPOINTS))
    # The readers say themselves why they try again.
    stamina.instrumentation.set_on_retry_hooks([])
    # Half of the connections: events, requests and the outbox need theirs.
    patient = PatientDatabase(service.db, max(1, settings.postgres_pool_size // 2))
    receiver = Receiver(
        db=patient,
        outbox=service.outbox,
        keys=service.keys,
        clock=service.clock,
        metrics=service.metrics,
        thread_life=timedelta(days=settings.thread_life_days),
    )
    http = httpx.AsyncClient(verify=context(settings.tls_ca_file))
    doors = Doors(
        settings=settings,
        db=patient,
        keys=service.keys,
        clock=service.clock,
        http=http,
        resolve=resolver(HostPolicy(settings.host_allowlist)),
        tls=tls_contexts(settings),
    )
    readers = Readers(
        Parts(
            settings=settings,
            db=service.db,
            patient=patient,
            outbox=service.outbox,
            clock=service.clock,
            metrics=service.metrics,
            receiver=receiver,
            doors=doors,
            pace=Pace(settings.api_poll_s, asyncio.Semaphore(settings.api_concurrency)),
            threads=ThreadPoolExecutor(settings.imap_threads, thread_name_prefix="imap"),
        )
    )
    # Tests of new mailboxes, and looks for proof, must not wait for a slow server's readers.
    prober = Prober(
        doors=doors,
        pace=Pace(settings.api_poll_s, asyncio.Semaphore(4)),
        threads=ThreadPoolExecutor(4, thread_name_prefix="probe"),
    )
    finder = SentFinder(doors, ThreadPoolExecutor(4, thread_name_prefix="find-sent"))
    revoker = Revoker(doors=doors, db=service.db, http=http, settings=settings)
    service.subscribe(consumers.mailbox_changed(readers))
    service.background("readers", readers.run)
    service.internal(api.router(prober, finder, revoker))
    service.readiness("keys", service.keys.check)
    return service


def resolver(policy: HostPolicy) -> Resolve:
    """Return how IMAP hosts are resolved: by the operator's rule for hosts that users name."""

    async def resolve(host: str, port: int) -> Sequence[str]:
        try:
            return (await policy.resolve(host, port)).addresses
        except HostRefused as refusal:
            raise SourceError(refusal.code, str(refusal)) from None

    return resolve


def tls_contexts(settings: ReplySettings) -> Contexts:
    """Return what makes contexts for IMAP servers: the system's CAs, and the one configured."""
    return partial(context, settings.tls_ca_file)


def run() -> None:
    """Run reply until it is told to stop."""
    build(ReplySettings()).run()
