"""What users and the world set: mailboxes, campaigns, failures, as plain settings.

`MailboxPlan.plain` words the settings of a mailbox in plain numbers for the
checker, with the defaults of the rules written out here a second time on purpose.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import cache
from typing import Any, Final
from zoneinfo import ZoneInfo

import holidays

from paceline_scheduler.simulator.events import Fact

# A Monday: thirty days hold the end of summer time in Europe (25 October) and in
# America (1 November), and holidays of all countries below.
START: Final = datetime(2026, 10, 19, tzinfo=UTC)
GROUPS: Final = 2

_STARTS: Final[Mapping[str, int]] = {
    "google_workspace": 40,
    "microsoft365": 30,
    "gmail_consumer": 20,
}
_CEILINGS: Final[Mapping[str, int]] = {
    "google_workspace": 1800,
    "microsoft365": 10000,
    "gmail_consumer": 450,
}
_OFFICE: Final = [{"days": [0, 1, 2, 3, 4], "start": "09:00", "end": "17:00"}]


@dataclass(slots=True)
class MailboxPlan:
    """A mailbox as its user set it up; `account` numbers the provider account behind it."""

    mailbox_id: int
    workspace_id: int
    email: str
    domain: int
    account: int
    provider: str
    timezone: str
    country: str
    region: str | None
    connected_at: datetime
    policy: dict[str, Any]
    health: int | None
    stage: int | None
    is_active: bool = True
    members: dict[int, tuple[int, int, int]] = field(default_factory=dict)

    @property
    def is_node(self) -> bool:
        return self.provider == "esp"

    def plain(self) -> Fact:
        """Return the settings as a `mailbox` fact of the event list."""
        chosen, node = self.policy, self.is_node
        start = min(50, _STARTS.get(self.provider, 50))
        ramp = chosen.get("ramp", None if node else "default")
        curve = None
        if ramp == "default":
            curve = [[0, start], [30, 500]]
        elif ramp == "conservative":
            curve = [[0, (start + 1) // 2], [45, 300]]
        elif ramp is not None:
            curve = ramp["curve"]
        local = self.connected_at.astimezone(ZoneInfo(self.timezone)).date()
        ceilings = [
            one
            for one in (_CEILINGS.get(self.provider), chosen.get("ceiling_24h"))
            if one is not None
        ]
        rate = chosen.get("rate_per_s")
        cadence_s = chosen.get("cadence_s", None if node else 90)
        return {
            "mailbox": self.mailbox_id,
            "workspace": self.workspace_id,
            "account": self.account,
            "domain": self.domain,
            "zone": self.timezone,
            "active": self.is_active,
            "cadence_ms": 0 if rate else round(1000 * (cadence_s or 0)),
            "spacing_ms": math.ceil(1000 / rate) if rate else 0,
            "daily_cap": chosen.get("daily_cap"),
            "hourly_cap": chosen.get("hourly_cap"),
            "ceiling_24h": min(ceilings, default=None),
            "ramp": curve,
            "ramp_from": (chosen.get("ramp_from") or local.isoformat()),
            "probation_cap": max(1, curve[0][1] if curve else start),
            "windows": chosen.get("windows", None if node else _OFFICE),
            "blackouts": chosen.get("blackouts", []),
            "holidays": _holidays(self.country, self.region)
            if chosen.get("holidays", not node)
            else [],
            "types": chosen.get("campaign_types", ["cold", "nurture", "transactional"]),
            "stage_gate": chosen.get("stage_gate", None if node else {"cold": 3, "nurture": 2}),
            "attested": chosen.get("attested", True),
            "health_floor": chosen.get("health_floor", not node),
        }


@dataclass(slots=True)
class CampaignPlan:
    """A campaign: `tiers` are pools with the seconds after which a due job may leave for the next;
    `arrivals` are instants (ms) with how many leads enroll then."""

    campaign_id: int
    workspace_id: int
    type: str
    min_health: int
    delays_s: tuple[int, ...]
    tiers: tuple[tuple[tuple[int, ...], int | None], ...]
    stickiness: str
    reassign_after_s: int
    match: str
    arrivals: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Happening:
    """Something the world or an operator does at `at` (ms): see `engine` for each kind's values."""

    at: int
    kind: str
    values: Mapping[str, Any]


@dataclass(slots=True)
class WorkspacePlan:
    """One workspace; `pools` maps each pool to its rotation, `leads` counts its enrollments."""

    workspace_id: int
    mailboxes: list[MailboxPlan]
    pools: dict[int, str]
    campaigns: list[CampaignPlan]
    happenings: list[Happening]
    leads: int

    @property
    def group(self) -> int:
        """Workspaces of different groups have no provider account in common."""
        return self.workspace_id % GROUPS


@cache
def _holidays(country: str, region: str | None) -> tuple[str, ...]:
    years = range(START.year - 1, START.year + 3)
    dates: list[date] = sorted(holidays.country_holidays(country, subdiv=region, years=years))
    return tuple(one.isoformat() for one in dates)
