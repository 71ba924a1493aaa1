"""The sender's settings."""

from pydantic import Field, SecretStr

from paceline_common.settings import OAuthEndpoints, OutboundSettings, ServiceSettings
from paceline_common.storage import StorageSettings


class SenderSettings(ServiceSettings, OutboundSettings, OAuthEndpoints, StorageSettings):
    """What the sender needs beyond `ServiceSettings`.

    `public_url`: where unsubscribe links lead. `reply_url` and `reply_token`: where reply's
    `/internal` listens and what it accepts: it looks through sent mail for proof.
    """

    public_url: str
    reply_url: str
    reply_token: SecretStr
    # Whatever a provider takes: so many messages are held in memory shortly before their slots.
    message_max_bytes: int = Field(default=25 * 1024 * 1024, ge=64 * 1024)

    # A connection is opened at most this long before its slot: servers drop idle ones.
    prepare_ahead_s: float = Field(default=5.0, gt=0)
    jobs_per_batch: int = Field(default=500, ge=1)
    # Of one mailbox: what common hosts take at once, and on one connection.
    smtp_connections: int = Field(default=4, ge=1)
    smtp_messages: int = Field(default=100, ge=1)
    # Longer than the pause of a node that sends several a second, shorter than servers' patience.
    smtp_idle_s: float = Field(default=10.0, ge=0)
    # Of all mailboxes behind HTTP APIs together.
    http_connections: int = Field(default=200, ge=1)
    tidy_drafts_s: float = Field(default=60.0, gt=0)
    # RFC 5321 §4.5.3.2: 10 min after the final dot, less before it; past their sum
    # no submission can be under way.
    submission_limit_s: float = Field(default=1500.0, ge=600)
    beat_s: float = Field(default=2.0, gt=0)
    dead_after_s: float = Field(default=15.0, gt=0)
    reconcile_s: float = Field(default=5.0, gt=0)
    # A doubt is looked at after this, after 5 and 15 times this, then every 60 times this, and
    # once it is 1440 times as old every 1440 times this (domain/doubt.py).
    first_look_s: float = Field(default=60.0, gt=0)
    # Longer than a campaign lasts, whose people may ask what became of a message. Who settled a
    # doubt as what stays in the audit log.
    doubt_retention_days: int = Field(default=180, ge=1)
    # How long after a lease's end a send request may still be under way at the provider, ours
    # (120 s, and once more after a refused token) included. Microsoft may still be filing it.
    gmail_destroy_after_s: float = Field(default=300.0, gt=0)
    graph_destroy_after_s: float = Field(default=1800.0, gt=0)
    # Looks of reply at a mailbox may take 90 s.
    find_sent_timeout_s: float = Field(default=120.0, gt=0)
    # Longer than the wait after a final dot: what is claimed is finished.
    drain_grace_s: float = Field(default=660.0, ge=0)
