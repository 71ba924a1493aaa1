"""What the sender counts and measures."""

from typing import Final

from paceline_common.telemetry import Metric

METRICS: Final[tuple[Metric, ...]] = (
    Metric(
        "paceline_sends_total", "counter", "tries",
        "Tries that ended, by outcome and class.", ("outcome", "outcome_class"),
    ),
    Metric(
        "paceline_claims_refused_total", "counter", "claims",
        "Claims that the scheduler refused, by reason.", ("reason",),
    ),
    Metric(
        "paceline_slot_lateness_seconds", "histogram", "seconds",
        "From the slot's time to MAIL FROM.", (),
        (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2),
    ),
    Metric(
        "paceline_held_jobs", "gauge", "jobs",
        "Leased slots that wait for their time.",
    ),
    Metric(
        "paceline_abandoned_total", "counter", "tries",
        "Tries without an answer whose process ended; now in doubt.",
    ),
)  # fmt: skip
