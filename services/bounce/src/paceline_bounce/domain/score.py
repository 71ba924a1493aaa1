"""How healthy a mailbox is, from what it sent lately: 100 less a penalty per fault.

Rates are the means of a Beta prior after what was seen: one bounce among few
sends says little, and no bounce among few does not say "never".
"""

from dataclasses import dataclass, fields
from typing import Final

RECORDS: Final = 3  # SPF, DKIM, DMARC


@dataclass(frozen=True, slots=True, kw_only=True)
class Penalty:
    """What a fault costs: `most` points from the share `at` on, proportionally less below."""

    most: float
    at: float

    def __post_init__(self) -> None:
        if self.most < 0 or not 0 < self.at <= 1:
            raise ValueError("a penalty has points of 0 or more and a share above 0, at most 1")

    def points(self, share: float) -> float:
        """Return the points that `share` (0..1) costs."""
        return min(self.most, self.most * share / self.at)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """Beta(`events`, `others`): what a rate is believed to be before anything was sent."""

    events: float
    others: float

    def __post_init__(self) -> None:
        if self.events <= 0 or self.others <= 0:
            raise ValueError("both sides of a prior are above 0")

    def rate(self, events: int, sends: int) -> float:
        """Return the believed share of `events` among `sends`.

        An event may come when its send has left the window: there are never
        fewer sends than events.
        """
        return (events + self.events) / (max(sends, events) + self.events + self.others)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRules:
    """The numbers of the score. Days are UTC, today included; penalties are in points of 100."""

    window_days: int = 14
    known_sends: int = 20
    known_placements: int = 10
    prior: Prior = Prior(events=0.5, others=99.5)
    complaint_prior: Prior = Prior(events=0.05, others=99.95)
    bounces: Penalty = Penalty(most=50, at=0.05)
    complaints: Penalty = Penalty(most=60, at=0.003)
    blocks: Penalty = Penalty(most=30, at=0.05)
    spam: Penalty = Penalty(most=40, at=0.5)
    missing_record: float = 10
    listed: float = 30

    def __post_init__(self) -> None:
        if self.window_days < 1 or min(self.known_sends, self.known_placements) < 1:
            raise ValueError("a window, and what makes a score known, are 1 or more")
        if min(self.missing_record, self.listed) < 0:
            raise ValueError("points are 0 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Volumes:
    """What one mailbox sent within a window, and what came of it.

    `sends`: accepted, and refused within the submission. `hard`: hard bounces.
    `blocked`: refused for reputation, policy or a limit.
    """

    sends: int = 0
    hard: int = 0
    blocked: int = 0
    complaints: int = 0

    def __post_init__(self) -> None:
        if any(getattr(self, field.name) < 0 for field in fields(self)):
            raise ValueError("volumes are 0 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Placements:
    """Where warmup mail of the window was found: `spam` of `seen`."""

    seen: int
    spam: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Posture:
    """What DNS says of the mailbox's domain. None: not looked up, counts nothing.

    `missing_records`: how many of SPF, DKIM and DMARC are not there (0..3);
    `listed`: whether a DNSBL lists the domain or its hosts.
    """

    missing_records: int | None = None
    listed: bool | None = None


def score(
    volumes: Volumes,
    rules: ScoreRules,
    placements: Placements | None = None,
    posture: Posture | None = None,
) -> int | None:
    """Return the overall score, 0..100, or None while too little is known.

    What is not known yet (None) neither costs nor helps. Placements count from
    `known_placements` on: a share of a few is none.
    """
    placed = placements is not None and placements.seen >= rules.known_placements
    if volumes.sends < rules.known_sends and not placed:
        return None
    left = 100.0
    left -= rules.bounces.points(rules.prior.rate(volumes.hard, volumes.sends))
    left -= rules.complaints.points(rules.complaint_prior.rate(volumes.complaints, volumes.sends))
    left -= rules.blocks.points(rules.prior.rate(volumes.blocked, volumes.sends))
    if placements is not None and placed:
        left -= rules.spam.points(placements.spam / placements.seen)
    if posture is not None:
        left -= rules.missing_record * (posture.missing_records or 0)
        left -= rules.listed if posture.listed else 0
    return round(min(100.0, max(0.0, left)))
