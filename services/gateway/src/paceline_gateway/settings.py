"""The gateway's settings."""

from pathlib import Path

from pydantic import Field, SecretStr

from paceline_common.settings import OAuthEndpoints, ServiceSettings
from paceline_common.storage import StorageSettings


class GatewaySettings(ServiceSettings, OAuthEndpoints, StorageSettings):
    """What the gateway needs beyond `ServiceSettings`.

    `*_url` and `*_token`: where the other services' `/internal` listens and
    what it accepts. `public_url`: where the world reaches the gateway.
    """

    sender_url: str
    sender_token: SecretStr
    reply_url: str
    reply_token: SecretStr
    scheduler_url: str
    scheduler_token: SecretStr
    public_url: str
    # Trusted besides the system's CAs, where OAuth providers are asked.
    tls_ca_file: Path | None = None
    # How long a person may take from the start link to the last consent.
    oauth_flow_s: int = Field(default=1800, ge=60, le=86_400)
    # Addresses in `.test` (RFC 2606) reach nobody: only for trying an installation out.
    accept_test_domains: bool = False

    import_max_bytes: int = Field(default=100 * 1024 * 1024, ge=1024)
    import_batch_rows: int = Field(default=500, ge=1, le=5000)
    # One file, all files of a workspace, and one message as MIME (the sender has that one too).
    attachment_max_bytes: int = Field(default=10 * 1024 * 1024, ge=1024)
    attachments_max_bytes: int = Field(default=1024 * 1024 * 1024, ge=1024)
    message_max_bytes: int = Field(default=25 * 1024 * 1024, ge=64 * 1024)
    # A server may take its time over AUTH and the final dot.
    probe_send_timeout_s: float = Field(default=60.0, gt=0)
    # How long the test message may take to show up in the inbox.
    probe_read_wait_s: float = Field(default=30.0, gt=0)
    # A capacity is shown beside every cap: what does not come soon is left out.
    pacing_timeout_s: float = Field(default=5.0, gt=0)
    scheduled_start_every_s: float = Field(default=1.0, gt=0)
    # Longer than anybody repeats a request. A repeat after that still enrolls nobody again: events
    # have the ids that they had.
    idempotency_retention_days: int = Field(default=30, ge=1)
