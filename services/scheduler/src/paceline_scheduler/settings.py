"""The scheduler's settings."""

from paceline_common.settings import RedisSettings, ServiceSettings


class SchedulerSettings(RedisSettings, ServiceSettings):
    """What the scheduler needs: the common settings, and Redis."""
