"""The words of routing: how pools rotate, and how campaigns choose."""

from typing import Final, Literal, get_args

Rotation = Literal["next_in_line", "round_robin", "random", "weighted", "priority"]
EspMatch = Literal["off", "prefer", "strict"]
Stickiness = Literal["wait", "reassign", "stop"]

ROTATIONS: Final[tuple[Rotation, ...]] = get_args(Rotation)
ESP_MATCHES: Final[tuple[EspMatch, ...]] = get_args(EspMatch)
STICKINESSES: Final[tuple[Stickiness, ...]] = get_args(Stickiness)
