"""What the scheduler counts and measures."""

from typing import Final

from paceline_common.telemetry import Metric

METRICS: Final[tuple[Metric, ...]] = (
    Metric("paceline_slots_leased_total", "counter", "slots", "Slots leased to jobs."),
    Metric(
        "paceline_slots_refused_total", "counter", "slots",
        "Slots that Redis proposed and Postgres refused, by reason.", ("reason",),
    ),
    Metric(
        "paceline_leases_expired_total", "counter", "leases",
        "Leases that no sender claimed in time; their jobs are queued again.",
    ),
    Metric(
        "paceline_pacing_rebuilds_total", "counter", "rebuilds",
        "Times a workspace's pacing state was written anew.",
    ),
)  # fmt: skip
