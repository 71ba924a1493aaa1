"""Settings of a service: environment variables with the prefix `PACELINE_`, secrets from files.

A secret's file lies in the directory that `PACELINE_SECRETS_DIR` names and is
called like its variable in lower case: `paceline_postgres_password`. A variable
wins over a file. Durations carry their unit in the name.
"""

import os
from functools import cached_property
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from pydantic import BaseModel, Field, SecretStr
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
)
from sqlalchemy import URL


class Settings(BaseSettings):
    """Where settings come from; what they are, a subclass says."""

    model_config = SettingsConfigDict(env_prefix="PACELINE_", extra="ignore", frozen=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order of the sources: arguments, environment, files of the secrets directory."""
        directory = os.environ.get("PACELINE_SECRETS_DIR")
        if not directory:
            return init_settings, env_settings
        files = SecretsSettingsSource(settings_cls, secrets_dir=Path(directory))
        return init_settings, env_settings, files


class ServiceSettings(Settings):
    """What every service needs; a service adds its own fields in a subclass."""

    http_host: str = "127.0.0.1"
    http_port: int = Field(ge=0, le=65535)
    internal_token: SecretStr

    postgres_host: str
    postgres_port: int = 5432
    postgres_db: str = "paceline"
    postgres_user: str
    postgres_password: SecretStr
    postgres_pool_size: int = Field(default=10, ge=2)
    statement_timeout_ms: int = Field(default=15_000, ge=100)
    # Shorter than a consumer's session: a second member that waits for the
    # first one's uncommitted inbox rows gives way before it loses its place.
    lock_timeout_ms: int = Field(default=3_000, ge=50)

    kafka_bootstrap: str
    kafka_user: str
    kafka_password: SecretStr
    # For so long the partitions of a consumer that was killed are nobody's; the broker's
    # group.min.session.timeout.ms is the least.
    kafka_session_timeout_s: float = Field(default=10.0, ge=1)
    event_attempts: int = Field(default=3, ge=1)
    quarantine_limit: int = Field(default=50, ge=1)
    quarantine_window_s: float = Field(default=60.0, gt=0)
    trim_personal_data_s: float = Field(default=60.0, gt=0)

    keys_url: str
    keys_role_id: str
    keys_secret_id: SecretStr

    log_level: str = "info"
    otlp_endpoint: str | None = None
    trace_ratio: float = Field(default=0.01, ge=0, le=1)
    failpoints: str = ""
    failpoints_dir: Path | None = None
    drain_grace_s: float = Field(default=20.0, ge=0)

    @cached_property
    def postgres_url(self) -> URL:
        """The service's own login, for SQLAlchemy on psycopg 3."""
        return URL.create(
            "postgresql+psycopg",
            username=self.postgres_user,
            password=self.postgres_password.get_secret_value(),
            host=self.postgres_host,
            port=self.postgres_port,
            database=self.postgres_db,
        )


class RedisSettings(BaseModel):
    """Mixed into the settings of the service that keeps pacing state (scheduler)."""

    redis_host: str
    redis_port: int = 6379
    redis_user: str
    redis_password: SecretStr


class OutboundSettings(BaseModel):
    """Mixed into the settings of services that dial hosts which users name.

    `host_allowlist`: comma list of CIDRs or host names that may be non-public.
    `tls_ca_file`: a CA to trust besides the system's.
    """

    host_allowlist: str = ""
    tls_ca_file: Path | None = None


class OAuthEndpoints(BaseModel):
    """Mixed into the settings of services that ask Google or Microsoft for tokens or mail.

    Tokens and app secrets are sent there: the operator chooses these, never a user. A
    national cloud has its own (`login.microsoftonline.us`, `graph.microsoft.us`). None ends
    with a slash.
    """

    google_auth_url: str = "https://accounts.google.com/o/oauth2/v2/auth"
    google_token_url: str = "https://oauth2.googleapis.com/token"  # noqa: S105 - an address
    google_revoke_url: str = "https://oauth2.googleapis.com/revoke"
    google_userinfo_url: str = "https://openidconnect.googleapis.com/v1/userinfo"
    gmail_api_url: str = "https://gmail.googleapis.com"
    microsoft_login_url: str = "https://login.microsoftonline.com"
    graph_api_url: str = "https://graph.microsoft.com"

    def token_url(self, provider: Literal["google", "microsoft"], tenant: str | None = None) -> str:
        """Return the token endpoint; `tenant` (an id, a domain, or `common`) is Microsoft's."""
        if provider == "google":
            return self.google_token_url
        return f"{self.microsoft_login_url}/{quote(tenant or 'common', safe='')}/oauth2/v2.0/token"

    def revoke_url(self, provider: Literal["google", "microsoft"]) -> str | None:
        """Return where a token is revoked; Microsoft lets no application revoke a grant."""
        return self.google_revoke_url if provider == "google" else None

    def api_url(self, kind: str) -> str | None:
        """Return the base URL of a mailbox kind's HTTP API; None for a kind without one."""
        return {"gmail": self.gmail_api_url, "graph": self.graph_api_url}.get(kind)
