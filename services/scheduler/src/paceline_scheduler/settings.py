"""The scheduler's settings."""

from paceline_common.settings import RedisSettings, ServiceSettings


class SchedulerSettings(RedisSettings, ServiceSettings):
    """What the scheduler needs: the common settings, and Redis.

    `accept_test_domains`: may leads have addresses in `.test` (RFC 2606)?
    """

    accept_test_domains: bool = False
