"""The one place that knows everything: reply's parts, put together."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial

import stamina

from paceline_common.service import Service
from paceline_providers.hosts import HostPolicy, HostRefused
from paceline_providers.tls import context
from paceline_reply import api, consumers
from paceline_reply.failpoints import FAILPOINTS
from paceline_reply.metrics import METRICS
from paceline_reply.probe import Prober
from paceline_reply.reader import Parts, Readers
from paceline_reply.receive import Receiver
from paceline_reply.settings import ReplySettings
from paceline_reply.sources.imap import Contexts, ImapError, Resolve


def build(settings: ReplySettings) -> Service:
    """Return reply, ready to run."""
    service = Service("reply", settings, metrics=METRICS, failpoint_names=frozenset(FAILPOINTS))
    # The readers say themselves why they try again.
    stamina.instrumentation.set_on_retry_hooks([])
    resolve = resolver(HostPolicy(settings.host_allowlist))
    tls = tls_contexts(settings)
    receiver = Receiver(
        db=service.db,
        outbox=service.outbox,
        keys=service.keys,
        clock=service.clock,
        metrics=service.metrics,
        thread_life=timedelta(days=settings.thread_life_days),
    )
    readers = Readers(
        Parts(
            settings=settings,
            db=service.db,
            outbox=service.outbox,
            keys=service.keys,
            clock=service.clock,
            metrics=service.metrics,
            receiver=receiver,
            resolve=resolve,
            tls=tls,
            threads=ThreadPoolExecutor(settings.imap_threads, thread_name_prefix="imap"),
        )
    )
    # Tests of new mailboxes must not wait for a slow server's readers.
    prober = Prober(
        keys=service.keys,
        resolve=resolve,
        tls=tls,
        threads=ThreadPoolExecutor(4, thread_name_prefix="probe"),
    )
    service.subscribe(consumers.mailbox_changed(readers))
    service.background("readers", readers.run)
    service.internal(api.router(prober))
    service.readiness("keys", service.keys.check)
    return service


def resolver(policy: HostPolicy) -> Resolve:
    """Return how IMAP hosts are resolved: by the operator's rule for hosts that users name."""

    async def resolve(host: str, port: int) -> Sequence[str]:
        try:
            return (await policy.resolve(host, port)).addresses
        except HostRefused as refusal:
            raise ImapError(refusal.code, str(refusal)) from None

    return resolve


def tls_contexts(settings: ReplySettings) -> Contexts:
    """Return what makes contexts for IMAP servers: the system's CAs, and the one configured."""
    return partial(context, settings.tls_ca_file)


def run() -> None:
    """Run reply until it is told to stop."""
    build(ReplySettings()).run()
