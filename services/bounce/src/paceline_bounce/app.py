"""The one place that knows everything: bounce's parts, put together."""

from datetime import timedelta

from paceline_bounce import consumers
from paceline_bounce.classify import Classifier
from paceline_bounce.failpoints import FAILPOINTS
from paceline_bounce.health import Health, HealthRules
from paceline_bounce.metrics import METRICS
from paceline_bounce.settings import BounceSettings
from paceline_common.service import Service
from paceline_providers.classes import rules


def build(settings: BounceSettings) -> Service:
    """Return bounce, ready to run."""
    rules()  # a bad rule stops the start, not the first report
    service = Service("bounce", settings, metrics=METRICS, failpoint_names=frozenset(FAILPOINTS))
    health = Health(
        outbox=service.outbox,
        clock=service.clock,
        metrics=service.metrics,
        rules=HealthRules(settings.health_score, settings.health_stages, settings.health_cooldown),
    )
    classifier = Classifier(
        keys=service.keys,
        outbox=service.outbox,
        health=health,
        clock=service.clock,
        metrics=service.metrics,
    )
    service.subscribe(consumers.send_rejected(classifier))
    service.subscribe(consumers.inbound_received(classifier))
    service.subscribe(consumers.sent(health))
    service.subscribe(consumers.mailbox_changed(health))
    every = timedelta(seconds=settings.health_recompute_s)
    service.background("health", lambda: health.run(service.db, every))
    service.readiness("keys", service.keys.check)
    return service


def run() -> None:
    """Run bounce until it is told to stop."""
    build(BounceSettings()).run()
