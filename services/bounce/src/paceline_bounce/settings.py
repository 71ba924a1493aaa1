"""Bounce's settings."""

from pydantic import Field

from paceline_bounce.domain.cooldown import CooldownRules
from paceline_bounce.domain.score import ScoreRules
from paceline_bounce.domain.stage import StageRules
from paceline_common.settings import ServiceSettings


class BounceSettings(ServiceSettings):
    """The numbers of health, each group as a JSON object of what differs from the defaults.

    What a failure means is in `rules/*.toml`.
    """

    health_score: ScoreRules = ScoreRules()
    health_stages: StageRules = StageRules()
    health_cooldown: CooldownRules = CooldownRules()
    health_recompute_s: float = Field(default=3600.0, gt=0)
