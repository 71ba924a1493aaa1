"""The scheduler's settings."""

from paceline_common.settings import RedisSettings, ServiceSettings


class SchedulerSettings(RedisSettings, ServiceSettings):
    """What the scheduler needs: the common settings, and Redis.

    `accept_test_domains`: may leads have addresses in `.test` (RFC 2606)?
    `decision_retention_days`: how far back `explain` can look.
    """

    accept_test_domains: bool = False
    decision_retention_days: int = 30
