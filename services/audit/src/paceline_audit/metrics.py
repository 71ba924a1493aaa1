"""Audit's metrics."""

from typing import Final

from paceline_common.telemetry import Metric

METRICS: Final = (
    Metric(
        "paceline_audit_checkpoints_total", "counter", "checkpoints",
        "Heads of chains that were signed.",
    ),
)  # fmt: skip
