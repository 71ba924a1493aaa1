"""Reply's settings."""

from pathlib import Path

from pydantic import Field

from paceline_common.settings import ServiceSettings


class ReplySettings(ServiceSettings):
    """What reply needs beyond `ServiceSettings`.

    `host_allowlist`: comma list of CIDRs and host names that may be non-public.
    `tls_ca_file`: one more CA to trust. `thread_life_days`: how long after a
    message an answer without its ids still belongs to it, by address and subject.
    """

    host_allowlist: str = ""
    tls_ca_file: Path | None = None
    thread_life_days: int = Field(default=90, ge=1)
    # Under the 29 min of RFC 2177, and short enough to notice a dead connection.
    poll_s: float = Field(default=120.0, gt=0)
    supervise_s: float = Field(default=5.0, gt=0)
    reconnect_first_s: float = Field(default=1.0, gt=0)
    reconnect_cap_s: float = Field(default=300.0, gt=0)
    auth_retry_s: float = Field(default=900.0, gt=0)
    unreachable_after_s: float = Field(default=600.0, gt=0)
    imap_threads: int = Field(default=16, ge=1)
