"""The scheduler's generated document: every reason that pacing gives."""

from collections.abc import Mapping

from paceline_scheduler.domain.reason import SECTIONS


def documents() -> Mapping[str, str]:
    """Return path below `docs/` → text."""
    return {"reasons.md": _reasons()}


def _reasons() -> str:
    lines = [
        "# Reasons",
        "",
        "Generated from `services/scheduler/src/paceline_scheduler/domain/reason.py` by",
        "`make docs`. Why something is not sent, or was: the codes are stable; `explain`,",
        "schedules, capacities, forecasts and the decision ledger use them.",
    ]
    for title, reasons in SECTIONS:
        lines += ["", f"## {title}", "", "| code | meaning | what to do |", "|---|---|---|"]
        lines += [f"| `{one.code}` | {one.meaning} | {one.remedy} |" for one in reasons]
    return "\n".join(lines) + "\n"
