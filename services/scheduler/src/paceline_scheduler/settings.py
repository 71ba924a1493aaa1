"""The scheduler's settings."""

from pydantic import SecretStr

from paceline_common.settings import RedisSettings, ServiceSettings


class SchedulerSettings(RedisSettings, ServiceSettings):
    """What the scheduler needs: the common settings, and Redis.

    `sender_url` and `sender_token`: where the sender's `/internal` listens and
    what it accepts.
    `accept_test_domains`: may leads have addresses in `.test` (RFC 2606)?
    `decision_retention_days`: how far back `explain` can look.
    """

    sender_url: str
    sender_token: SecretStr
    accept_test_domains: bool = False
    decision_retention_days: int = 30
