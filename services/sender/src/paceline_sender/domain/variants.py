"""Which variant and which ways of its spintax a job gets: the same at every try and in preview."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal

Part = Literal["subject", "body"]


@dataclass(frozen=True, slots=True)
class Variant:
    """One content of a step; a `subject` of None is the step's own."""

    name: str
    weight: int
    subject: str | None
    text: str | None
    html: str | None

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> "Variant":
        """Read one entry of `v_step.variants`."""
        return cls(
            stored["name"], int(stored.get("weight", 1)), stored.get("subject"),
            stored.get("text"), stored.get("html"),
        )  # fmt: skip


class Draw:
    """Draws by a hash of workspace, job and step (public ids), so that it needs no memory.

    Which job gets what is as good as random; one job gets the same each time.
    """

    def __init__(self, workspace: str, job: str, step: int) -> None:
        self._seed = f"{workspace}/{job}/{step}"

    def variant(self, variants: Sequence[Variant], *, kept: str | None = None) -> Variant | None:
        """Return one of `variants` by their weights; None if there are none.

        `kept` is the name of the one that an earlier try drew: it stays, however
        weights or other variants were changed meanwhile. A weight of 0 is never drawn.
        """
        for variant in variants:
            if variant.name == kept:
                return variant
        total = sum(variant.weight for variant in variants)
        if total <= 0:
            return variants[0] if variants else None
        left = self._number("variant", total)
        for variant in variants:
            left -= variant.weight
            if left < 0:
                return variant
        raise AssertionError("a number below the sum of the weights falls on one of them")

    def ways(self, part: Part) -> Callable[[int, int], tuple[int]]:
        """Return what picks the way of a spintax group, given its number and its count of ways.

        Text and HTML draw alike (`body`): the n-th group of both takes the same way.
        """

        def pick(group: int, ways: int) -> tuple[int]:
            return (self._number(f"{part}/{group}", ways),)

        return pick

    def _number(self, what: str, below: int) -> int:
        digest = sha256(f"{self._seed}/{what}".encode()).digest()
        return int.from_bytes(digest, "big") % below
