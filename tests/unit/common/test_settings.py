"""Settings come from the environment, secrets from files."""

from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from paceline_common.settings import (
    OAuthEndpoints,
    OutboundSettings,
    RedisSettings,
    ServiceSettings,
)

ENVIRONMENT = {
    "HTTP_PORT": "8001",
    "POSTGRES_HOST": "db.internal",
    "POSTGRES_USER": "sender",
    "KAFKA_BOOTSTRAP": "a:1,b:2",
    "KAFKA_USER": "sender",
    "KEYS_URL": "http://keys",
    "KEYS_ROLE_ID": "role",
}
SECRETS = ("postgres_password", "kafka_password", "keys_secret_id", "internal_token")


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(f"PACELINE_{name}", value)
    for name in SECRETS:
        (tmp_path / f"paceline_{name}").write_text(f"secret {name}\n")
    monkeypatch.setenv("PACELINE_SECRETS_DIR", str(tmp_path))
    return tmp_path


@pytest.mark.usefixtures("directory")
def test_secrets_are_read_from_files_and_never_shown() -> None:
    settings = ServiceSettings()
    for name in SECRETS:
        secret = getattr(settings, name)
        assert isinstance(secret, SecretStr)
        assert secret.get_secret_value() == f"secret {name}"
    assert "secret " not in repr(settings)
    assert "secret " not in repr(settings.postgres_url)
    url = settings.postgres_url.render_as_string(hide_password=False)
    assert url == "postgresql+psycopg://sender:secret postgres_password@db.internal:5432/paceline"


@pytest.mark.usefixtures("directory")
def test_a_variable_wins_over_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACELINE_KAFKA_PASSWORD", "from the environment")
    assert ServiceSettings().kafka_password.get_secret_value() == "from the environment"


def test_a_missing_secret_stops_the_start_by_its_name(directory: Path) -> None:
    (directory / "paceline_internal_token").unlink()
    with pytest.raises(ValidationError, match="internal_token") as missing:
        ServiceSettings()
    assert "secret " not in str(missing.value)


def test_services_mix_in_what_they_need(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Settings(ServiceSettings, RedisSettings, OutboundSettings):
        pass

    (directory / "paceline_redis_password").write_text("secret redis")
    monkeypatch.setenv("PACELINE_REDIS_HOST", "redis")
    monkeypatch.setenv("PACELINE_REDIS_USER", "scheduler")
    settings = Settings()
    assert settings.redis_password.get_secret_value() == "secret redis"
    assert settings.host_allowlist == ""
    assert isinstance(settings, RedisSettings)


def test_oauth_endpoints_are_the_operators_to_move(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Settings(ServiceSettings, OAuthEndpoints):
        pass

    assert Settings().token_url("google") == "https://oauth2.googleapis.com/token"
    monkeypatch.setenv("PACELINE_MICROSOFT_LOGIN_URL", "https://login.microsoftonline.us")
    settings = Settings()
    at = "https://login.microsoftonline.us"
    assert settings.token_url("microsoft") == f"{at}/common/oauth2/v2.0/token"
    assert settings.token_url("microsoft", "contoso.example") == (
        f"{at}/contoso.example/oauth2/v2.0/token"
    )
    # A tenant's name is a path segment and nothing more.
    assert settings.token_url("microsoft", "../x?") == f"{at}/..%2Fx%3F/oauth2/v2.0/token"
    assert settings.revoke_url("google") == "https://oauth2.googleapis.com/revoke"
    assert settings.revoke_url("microsoft") is None
    assert settings.api_url("gmail") == "https://gmail.googleapis.com"
    assert settings.api_url("graph") == "https://graph.microsoft.com"
    assert settings.api_url("smtp") is None
