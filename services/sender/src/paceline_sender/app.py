"""The one place that knows everything: the sender's parts, put together."""

import random
import uuid
from datetime import timedelta

from paceline_common.http import internal_client
from paceline_common.service import Service
from paceline_common.storage import AttachmentFiles, ObjectStore
from paceline_sender import consumers, preview, probe, settle
from paceline_sender.accounts import Accounts
from paceline_sender.attachments import AttachmentLoader
from paceline_sender.compose import Composer
from paceline_sender.doubts import Doubts, Patience
from paceline_sender.drafts import Drafts
from paceline_sender.failpoints import FAILPOINTS
from paceline_sender.intents import Intents
from paceline_sender.metrics import METRICS
from paceline_sender.prepare import Preparer
from paceline_sender.reconcile import Reconciler
from paceline_sender.sentmail import SentMail
from paceline_sender.settings import SenderSettings
from paceline_sender.settle import Settler
from paceline_sender.submit import Submitter
from paceline_sender.transport import MailTransport


def build(settings: SenderSettings) -> Service:
    """Return the sender, ready to run. Call inside no event loop or inside the one it runs in."""
    service = Service("sender", settings, metrics=METRICS, failpoint_names=frozenset(FAILPOINTS))
    instance_id = str(uuid.uuid4())
    transport = MailTransport(settings, service.clock, service.db, service.keys)
    accounts = Accounts(service.db, service.keys)
    drafts = Drafts(service.db, accounts, transport, every_s=settings.tidy_drafts_s)
    late_by = {
        "gmail": timedelta(seconds=settings.gmail_destroy_after_s),
        "graph": timedelta(seconds=settings.graph_destroy_after_s),
    }
    intents = Intents(
        service.db,
        accounts,
        transport,
        service.keys,
        first_look=timedelta(seconds=settings.first_look_s),
        late_by=late_by,
        every_s=settings.tidy_drafts_s,
        jobs_per_batch=settings.jobs_per_batch,
    )
    submitter = Submitter(
        service.db,
        service.outbox,
        service.clock,
        service.metrics,
        random.SystemRandom(),
        stopping=service.stopping,
        instance_id=instance_id,
        jobs_per_batch=settings.jobs_per_batch,
    )
    composer = Composer(
        service.keys,
        AttachmentLoader(AttachmentFiles(ObjectStore.of(settings), service.keys), service.clock),
        public_url=settings.public_url,
        message_max_bytes=settings.message_max_bytes,
    )
    preparer = Preparer(
        service.db,
        service.keys,
        transport,
        submitter,
        service.clock,
        service.metrics,
        composer=composer,
        drafts=drafts,
        intents=intents,
        prepare_ahead=timedelta(seconds=settings.prepare_ahead_s),
        jobs_per_batch=settings.jobs_per_batch,
    )
    reconciler = Reconciler(
        service.db,
        submitter,
        service.clock,
        service.metrics,
        instance_id=instance_id,
        beat_s=settings.beat_s,
        dead_after_s=settings.dead_after_s,
        submission_limit_s=settings.submission_limit_s,
        reconcile_s=settings.reconcile_s,
    )
    settler = Settler(service.db, service.outbox, service.clock, service.metrics)
    reply = internal_client(
        settings.reply_url, settings.reply_token, timeout_s=settings.find_sent_timeout_s
    )
    doubts = Doubts(
        service.db,
        service.outbox,
        service.clock,
        service.metrics,
        random.SystemRandom(),
        settler=settler,
        sent_mail=SentMail(reply),
        drafts=drafts,
        keys=service.keys,
        patience=Patience(
            first_look=timedelta(seconds=settings.first_look_s),
            destroy_after=late_by,
            every_s=settings.reconcile_s,
            dead_after_s=settings.dead_after_s,
            kept=timedelta(days=settings.doubt_retention_days),
        ),
        instance_id=instance_id,
    )

    async def prepare() -> None:
        try:
            await preparer.run()
        finally:
            # Until here a claim may be open, and this instance must be known to live.
            reconciler.drained.set()
            await transport.close()
            await reply.aclose()

    service.subscribe(consumers.send_scheduled(preparer))
    service.background("prepare", prepare, drain=True)
    service.background("heartbeat", reconciler.beat, drain=True)
    service.background("reconcile", reconciler.run)
    service.background("doubts", doubts.run)
    service.background("settled-doubts", doubts.trim_when_due)
    service.background("drafts", drafts.run)
    service.background("draft-intents", intents.run)
    service.internal(
        probe.router(service.db, service.keys, accounts, transport, service.outbox, service.clock)
    )
    service.internal(settle.router(settler))
    service.internal(preview.router(service.db, service.keys, composer, service.clock))
    service.readiness("keys", service.keys.check)
    return service


def run() -> None:
    """Run the sender until it is told to stop."""
    build(SenderSettings()).run()
