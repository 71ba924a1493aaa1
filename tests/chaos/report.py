"""The verdict of a run as JSON, and the sentences behind its numbers."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from tests.chaos.checker import Breach, Doubt
from tests.chaos.evidence import Evidence

RULES: Final = ("lost", "doubled", "over_limit", "after_suppression", "unexplained")


@dataclass(frozen=True, slots=True)
class Done:
    """What the controller did: the other half of the report."""

    kills: int
    transitions: Mapping[str, int]
    faults: Mapping[str, int]
    crashed: Sequence[str]
    rested: bool
    took_s: float
    least: int

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def read(cls, path: Path) -> "Done":
        """Read what `write` wrote."""
        return cls(**json.loads(path.read_text()))


def compose(
    done: Done, evidence: Evidence, breaches: Sequence[Breach], doubts: Sequence[Doubt]
) -> tuple[dict[str, Any], list[str]]:
    """Return the report as the issue has it, and every finding as a sentence.

    It is ok when no rule is breached, nothing provable is left in doubt, every declared
    transition was killed at as often as `least`, and no process ended by itself.
    """
    counts = Counter(one.rule for one in breaches)
    starved = [name for name, killed in done.transitions.items() if killed < done.least]
    findings = [f"{one.rule}: {one.what}" for one in breaches]
    findings += [
        f"in_doubt_open: {one.what}{', though it could be proven' if one.provable else ''}"
        for one in doubts
    ]
    findings += [f"transition {name}: killed at fewer than {done.least} times" for name in starved]
    findings += [f"ended by itself: {one}" for one in done.crashed]
    if not done.rested:
        findings.append("not at rest in time")
    ok = not (
        breaches or starved or done.crashed or not done.rested or any(d.provable for d in doubts)
    )
    report = {
        "ok": ok,
        "kills": done.kills,
        "transitions": {name: {"killed_at": n} for name, n in done.transitions.items()},
        "faults": dict(done.faults),
        "submissions": sum(one.accepted for one in evidence.submissions),
        "jobs": len(evidence.jobs),
        **{rule: counts[rule] for rule in RULES},
        "in_doubt_open": len(doubts),
        "took_s": done.took_s,
    }
    return report, findings
