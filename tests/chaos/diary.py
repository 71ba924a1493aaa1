"""What was asked of Paceline and when it answered: the only word of ours that the checker takes.

Times are POSIX seconds of the machine's own clock, which chaos leaves alone.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

STEPS: Final = 2


@dataclass(slots=True)
class Mailbox:
    """A sending mailbox and the limits it was given; `windows` are minutes of the UTC day.

    `hourly_cap` counts by the clock's hour, `daily_cap` by the mailbox's day (UTC here),
    `ceiling` any 24 hours. `kind` names the transport, `proof` whether its provider can show
    that a message left.
    """

    email: str
    kind: str
    mailbox_id: str = ""
    cadence_s: float = 1.0
    grace_s: float = 2.0
    hourly_cap: int | None = None
    daily_cap: int | None = None
    ceiling: int | None = None
    windows: list[tuple[int, int]] | None = None
    proof: bool = False


@dataclass(slots=True)
class Lead:
    """A lead that an answered import holds; `steps` is how many messages it is to get at most.

    `kind` says what its recipient does, or what becomes of its campaign (`campaign.KINDS`).
    """

    email: str
    kind: str
    campaign: str
    steps: int


@dataclass(slots=True)
class Suppressed:
    """An address that was suppressed by `answered`, the instant of the API's 201."""

    email: str
    asked: float
    answered: float


@dataclass(slots=True)
class Held:
    """A mailbox that was suspended: from the API's answer until its lifting was asked for."""

    mailbox: str
    answered: float
    lifted: float | None = None


@dataclass(slots=True)
class Diary:
    """All of a run that the checker must know and cannot read from providers or the ledger."""

    since: float = 0.0
    workspace: str = ""
    mailboxes: list[Mailbox] = field(default_factory=list)
    leads: list[Lead] = field(default_factory=list)
    suppressed: list[Suppressed] = field(default_factory=list)
    held: list[Held] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def read(cls, path: Path) -> "Diary":
        """Read what `write` wrote."""
        told = json.loads(path.read_text())
        return cls(
            since=told["since"],
            workspace=told["workspace"],
            mailboxes=[Mailbox(**one) for one in told["mailboxes"]],
            leads=[Lead(**one) for one in told["leads"]],
            suppressed=[Suppressed(**one) for one in told["suppressed"]],
            held=[Held(**one) for one in told["held"]],
        )
