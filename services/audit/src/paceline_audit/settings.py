"""Audit's settings."""

from pydantic import Field

from paceline_common.settings import ServiceSettings


class AuditSettings(ServiceSettings):
    """What audit needs beyond `ServiceSettings`: how often the chains' heads are signed."""

    checkpoint_records: int = Field(default=1000, ge=1)
    checkpoint_s: float = Field(default=60.0, gt=0)
