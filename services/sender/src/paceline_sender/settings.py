"""The sender's settings."""

from pydantic import Field

from paceline_common.settings import OAuthEndpoints, OutboundSettings, ServiceSettings


class SenderSettings(ServiceSettings, OutboundSettings, OAuthEndpoints):
    """What the sender needs beyond `ServiceSettings`.

    `public_url`: where unsubscribe links lead.
    """

    public_url: str

    # A connection is opened at most this long before its slot: servers drop idle ones.
    prepare_ahead_s: float = Field(default=5.0, gt=0)
    jobs_per_batch: int = Field(default=500, ge=1)
    # RFC 5321 §4.5.3.2: 10 min after the final dot, less before it; past their sum
    # no submission can be under way.
    submission_limit_s: float = Field(default=1500.0, ge=600)
    beat_s: float = Field(default=2.0, gt=0)
    dead_after_s: float = Field(default=15.0, gt=0)
    reconcile_s: float = Field(default=5.0, gt=0)
    # Longer than the wait after a final dot: what is claimed is finished.
    drain_grace_s: float = Field(default=660.0, ge=0)
