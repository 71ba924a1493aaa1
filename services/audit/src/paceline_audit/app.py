"""The one place that knows everything: audit's parts, put together."""

from paceline_audit.append import audit_recorded
from paceline_audit.checkpoint import Checkpointer
from paceline_audit.failpoints import FAILPOINTS
from paceline_audit.metrics import METRICS
from paceline_audit.settings import AuditSettings
from paceline_common.service import Service


def build(settings: AuditSettings) -> Service:
    """Return audit, ready to run."""
    service = Service("audit", settings, metrics=METRICS, failpoint_names=frozenset(FAILPOINTS))
    checkpointer = Checkpointer(
        db=service.db,
        keys=service.keys,
        clock=service.clock,
        metrics=service.metrics,
        every_records=settings.checkpoint_records,
        every_s=settings.checkpoint_s,
    )
    service.subscribe(audit_recorded(checkpointer))
    service.background("checkpoints", checkpointer.run)
    service.readiness("keys", service.keys.check)
    return service


def run() -> None:
    """Run audit until it is told to stop."""
    build(AuditSettings()).run()
