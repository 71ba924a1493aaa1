"""Bounce's metrics."""

from typing import Final

from paceline_common.telemetry import Metric

METRICS: Final = (
    Metric(
        "paceline_bounces_total", "counter", "bounces",
        "Bounces that count, by class and source (smtp: refused within the submission).",
        ("class", "source"),
    ),
    Metric(
        "paceline_bounce_reports_total", "counter", "recipients",
        "Recipients' parts of delivery reports, by what became of them and why.",
        ("state", "reason"),
    ),
    Metric(
        "paceline_bounce_cooldowns_total", "counter", "cooldowns",
        "Cooldowns started, by cause: bounces (of the last sends), share (of a day), complaint.",
        ("cause",),
    ),
)  # fmt: skip
