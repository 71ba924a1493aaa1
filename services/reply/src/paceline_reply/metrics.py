"""Reply's metrics."""

from typing import Final

from paceline_common.telemetry import Metric

METRICS: Final = (
    Metric(
        "paceline_reply_inbound_total", "counter", "messages",
        "Messages recorded, by kind and by what matched them to a send.", ("kind", "matched_by"),
    ),
    Metric(
        "paceline_reply_mailboxes", "gauge", "mailboxes",
        "Mailboxes this process reads, by state: reading, lost, refused.", ("state",),
    ),
    Metric(
        "paceline_reply_connection_failures_total", "counter", "failures",
        "Looks into a mailbox that failed: no connection, no sign-in, or a refusal.", ("code",),
    ),
)  # fmt: skip
