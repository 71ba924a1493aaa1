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
    Metric(
        "paceline_in_doubt", "gauge", "jobs",
        "Open doubts of the installation by age: quarter (under 15 min), hour, day, older.",
        ("age",),
    ),
    Metric(
        "paceline_in_doubt_oldest_seconds", "gauge", "seconds",
        "Age of the oldest open doubt; 0 without one.",
    ),
    Metric(
        "paceline_doubts_settled_total", "counter", "doubts",
        "Doubts that ended by proof or by a person's word.", ("settled_as", "source"),
    ),
)  # fmt: skip
