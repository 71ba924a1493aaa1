"""A fleet of workspaces drawn from a seed, and what happens to it: plans, as `plans` words them."""

import math
import random
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, TypeVar

from paceline_scheduler.simulator.plans import (
    GROUPS,
    START,
    CampaignPlan,
    Happening,
    MailboxPlan,
    WorkspacePlan,
)

_T = TypeVar("_T")

_START_MS: Final = round(START.timestamp() * 1000)
_MAILBOXES_PER_WORKSPACE: Final = 125
_LEAST_WORKSPACES: Final = 4
# Of the first so many mailboxes, those of consumer Gmail share their account.
_SHARED: Final = 60
_MAILBOXES_PER_DOMAIN: Final = 5
_HOUR: Final = 3_600_000
_DAY: Final = 24 * _HOUR

_PLACES: Final = (
    ("FR", None, "Europe/Paris"),
    ("US", "CA", "America/Los_Angeles"),
    ("US", None, "America/New_York"),
    ("JP", None, "Asia/Tokyo"),
    ("BR", None, "America/Sao_Paulo"),
    ("AT", None, "Europe/Vienna"),
    ("PL", None, "Europe/Warsaw"),
    ("IE", None, "Europe/Dublin"),
    ("NZ", None, "Pacific/Auckland"),
    ("DE", "BE", "Europe/Berlin"),
)
_OTHER_ZONES: Final = (
    "Asia/Kathmandu", "Australia/Lord_Howe", "America/Havana", "Asia/Kolkata", "America/St_Johns",
    "Europe/London", "Asia/Beirut", "UTC",
)  # fmt: skip

_PROVIDERS: Final = (
    ("google_workspace", 0.42),
    ("microsoft365", 0.30),
    ("gmail_consumer", 0.12),
    ("smtp", 0.14),
    ("esp", 0.02),
)
_WINDOWS: Final[Sequence[tuple[float, list[dict[str, Any]]]]] = (
    (
        0.14,
        [
            {"days": [0, 1, 2, 3, 4], "start": "08:00", "end": "12:00"},
            {"days": [0, 1, 2, 3, 4], "start": "13:00", "end": "18:00"},
        ],
    ),
    (0.03, [{"days": [6, 0, 1, 2, 3], "start": "22:00", "end": "02:30"}]),
    (0.03, [{"days": [0, 1, 2, 3, 4, 5, 6], "start": "01:15", "end": "04:00"}]),
    (0.03, [{"days": [0, 1, 2, 3, 4, 5, 6], "start": "00:00", "end": "00:00"}]),
)
_TYPES: Final = ("cold", "cold", "cold", "nurture", "cold", "transactional")
_MODES: Final = ("next_in_line", "round_robin", "random", "weighted", "priority")


def generate(days: int, mailboxes: int, leads: int, steps: int, seed: int) -> list[WorkspacePlan]:
    """Return the fleet that a seed stands for. Raises `ValueError` for sizes below 1."""
    if min(days, mailboxes, leads, steps) < 1:
        raise ValueError("days, mailboxes, leads and steps are at least 1")
    count = max(min(mailboxes, _LEAST_WORKSPACES), round(mailboxes / _MAILBOXES_PER_WORKSPACE))
    return [
        _Workspace(n + 1, days, steps, random.Random(f"{seed}/{n}")).plan(  # noqa: S311
            _share(mailboxes, count, n), _share(leads, count, n)
        )
        for n in range(count)
    ]


def _share(whole: int, parts: int, n: int) -> int:
    """Return the n-th of `parts` nearly equal shares."""
    return whole * (n + 1) // parts - whole * n // parts


class _Workspace:
    """Draws one workspace. Only `random()` is used: its values are the same in every Python."""

    def __init__(self, workspace_id: int, days: int, steps: int, rng: random.Random) -> None:
        self._id = workspace_id
        self._days = days
        self._steps = steps
        self._rng = rng
        self._place = _PLACES[workspace_id % len(_PLACES)]
        self._happenings: list[Happening] = []

    def plan(self, mailboxes: int, leads: int) -> WorkspacePlan:
        plans = [self._mailbox(n) for n in range(mailboxes)]
        pools = self._pools(plans)
        campaigns = self._campaigns(list(pools), leads)
        for one in plans:
            self._trouble(one)
        self._wider_trouble(plans, pools, campaigns, leads)
        return WorkspacePlan(
            self._id,
            plans,
            pools,
            campaigns,
            sorted(self._happenings, key=lambda one: one.at),
            leads,
        )

    # Draws.

    def _chance(self, share: float) -> bool:
        return self._rng.random() < share

    def _between(self, low: float, high: float) -> float:
        return low + (high - low) * self._rng.random()

    def _whole(self, low: int, high: int) -> int:
        return low + int((high - low + 1) * self._rng.random())

    def _one(self, choices: Sequence[_T]) -> _T:
        return choices[int(len(choices) * self._rng.random())]

    def _moment(self, first_day: float = 0, last_day: float | None = None) -> int:
        """Return an instant in ms within the days given, seldom a full second."""
        last = self._days if last_day is None else min(last_day, self._days)
        return round(_START_MS + _DAY * self._between(min(first_day, last), last))

    def _happen(self, at: float, kind: str, **values: Any) -> None:
        self._happenings.append(Happening(round(at), kind, values))

    # Mailboxes.

    def _mailbox(self, n: int) -> MailboxPlan:
        provider = self._provider()
        domain = self._id * 1000 + n // _MAILBOXES_PER_DOMAIN
        mailbox_id = self._id * 10_000 + n
        country, region, zone = self._place
        if self._chance(0.1):
            zone = self._one(_OTHER_ZONES)
        elif self._chance(0.15):
            country, region, zone = self._one(_PLACES)
        email, account = f"m{n}@d{domain}.example", mailbox_id
        policy: dict[str, Any] = {}
        if provider == "gmail_consumer" and n < _SHARED:
            # Workspaces of one group reach the same account, each under another spelling.
            account = self._id % GROUPS * 1000 + n
            name = f"shared{account}"
            email = f"{name[: 1 + self._id % 5]}.{name[1 + self._id % 5 :]}+w{self._id}@gmail.com"
            policy["ceiling_24h"] = 60
        since = self._between(-40, 0) if self._chance(0.85) else self._between(0, 0.7 * self._days)
        plan = MailboxPlan(
            mailbox_id,
            self._id,
            email,
            domain,
            account,
            provider,
            zone,
            country,
            region,
            START + timedelta(seconds=round(86400 * since)),
            policy,
            health=None if self._chance(0.2) else self._whole(74, 97),
            stage=4,
        )
        if plan.health is None:
            plan.stage = None
        if plan.is_node:
            self._node_policy(policy)
        else:
            self._mailbox_policy(policy)
        if self._chance(0.1) and not plan.is_node:
            policy["attested"] = False
            plan.stage = self._whole(0, 4)
        return plan

    def _provider(self) -> str:
        drawn = self._rng.random()
        for name, share in _PROVIDERS:
            if drawn < share:
                return name
            drawn -= share
        return "smtp"

    def _node_policy(self, policy: dict[str, Any]) -> None:
        policy["ceiling_24h"] = self._whole(150, 400)
        if self._chance(0.7):
            policy["rate_per_s"] = self._one((0.05, 0.2, 1.0))
        if self._chance(0.5):
            policy["hourly_cap"] = self._whole(20, 60)

    def _mailbox_policy(self, policy: dict[str, Any]) -> None:
        if self._chance(0.75):
            policy["daily_cap"] = self._whole(15, 45)
        drawn = self._rng.random()
        if drawn < 0.15:
            policy["ramp"] = "conservative"
        elif drawn < 0.25:
            low = self._whole(5, 15)
            policy["ramp"] = {"curve": [[0, low], [7, 2 * low], [20, 5 * low]]}
        elif drawn < 0.3 and "daily_cap" in policy:
            policy["ramp"] = None
        if self._chance(0.15):
            policy["hourly_cap"] = self._whole(4, 12)
        if self._chance(0.1):
            policy.setdefault("ceiling_24h", self._whole(25, 60))
        if self._chance(0.2):
            policy["cadence_s"] = self._one((60, 120, 240, 600))
        if self._chance(0.1):
            policy["jitter_s"] = [2, 10]
        drawn = self._rng.random()
        for share, windows in _WINDOWS:
            if drawn < share:
                policy["windows"] = windows
                break
            drawn -= share
        if self._chance(0.1):
            first = START.date() + timedelta(days=self._whole(1, 25))
            policy["blackouts"] = [
                (first + timedelta(days=n)).isoformat() for n in range(self._whole(1, 3))
            ]
        if self._chance(0.08):
            policy["holidays"] = False
        if self._chance(0.08):
            policy["campaign_types"] = ["nurture", "transactional"]

    def _pools(self, plans: Sequence[MailboxPlan]) -> dict[int, str]:
        """Spread the mailboxes over pools; the last pool is the reserve, with all nodes."""
        count = max(2, min(5, len(plans) // 20))
        first = self._id * 100
        pools = {first + n: _MODES[(self._id + n) % len(_MODES)] for n in range(count)}
        for n, one in enumerate(plans):
            pool = first + (count - 1 if one.is_node else n % count)
            one.members[pool] = (n, self._whole(1, 5), int(n % 7 == 0))
            if self._chance(0.1):
                one.members[first + (n + 1) % count] = (n, 1, 0)
        return pools

    def _campaigns(self, pools: Sequence[int], leads: int) -> list[CampaignPlan]:
        count = max(1, min(8, leads // 40))
        whole = 0.0
        weights = [self._between(0.3, 1.7) for _ in range(count)]
        campaigns = []
        given = 0
        for n, weight in enumerate(weights):
            whole += weight
            due = round(leads * whole / sum(weights))
            campaigns.append(self._campaign(n, pools, due - given))
            given = due
        return campaigns

    def _campaign(self, n: int, pools: Sequence[int], leads: int) -> CampaignPlan:
        campaign_id = self._id * 100 + n
        start = self._moment(0, 0.25 * self._days)
        if self._chance(0.5):
            chunks = self._whole(4, 10)
            arrivals = tuple(
                (round(start + one * 0.45 * self._days / chunks * _DAY), _share(leads, chunks, one))
                for one in range(chunks)
            )
        else:
            arrivals = ((start, leads),)
        usual = tuple(pools[:-1])
        chosen = tuple(one for one in usual if self._chance(0.75)) or usual
        tiers: list[tuple[tuple[int, ...], int | None]] = [(chosen, None)]
        if self._chance(0.6):
            tiers = [(chosen, self._whole(1, 3) * 86400), ((pools[-1],), None)]
        return CampaignPlan(
            campaign_id,
            self._id,
            _TYPES[n % len(_TYPES)],
            self._one((60, 70, 70, 80)),
            (0, *(self._whole(1, 3) * 86400 for _ in range(self._steps - 1))),
            tuple(tiers),
            self._one(("reassign", "reassign", "wait", "stop")),
            self._one((43200, 172800)),
            self._one(("off", "off", "prefer", "strict")),
            arrivals,
        )

    # Troubles.

    def _suspend(
        self, at: float, hours: float, scope: str, ref: int, reason: str, *, ends: bool
    ) -> None:
        """Suspend for `hours`: until a moment named beforehand (`ends`), or until it is resumed."""
        until = round(at + hours * _HOUR)
        self._happen(
            at, "suspend", scope=scope, ref=ref, reason=reason, until=until if ends else None
        )
        if not ends:
            self._happen(until, "resume", scope=scope, ref=ref, reason=reason)

    def _trouble(self, one: MailboxPlan) -> None:
        ref = one.mailbox_id
        if self._chance(0.06):
            self._suspend(
                self._moment(), self._between(1, 60), "mailbox", ref, "operator",
                ends=self._chance(0.5),
            )  # fmt: skip
        if self._chance(0.5 if one.is_node else 0.06):
            # Looked at every quarter of an hour for a day; after that somebody has to.
            hours = math.ceil(4 * self._between(0.1, 30)) / 4
            self._suspend(
                self._moment(), hours if hours <= 24 else hours + 30, "mailbox", ref,
                "node_failed", ends=False,
            )  # fmt: skip
        if self._chance(0.06):
            self._suspend(self._moment(), 24, "mailbox", ref, "cooldown", ends=True)
        if self._chance(0.08):
            low = self._moment(0, 0.8 * self._days)
            self._happen(low, "health", mailbox=ref, score=self._whole(40, 68))
            better = low + self._between(1, 5) * _DAY
            self._happen(better, "health", mailbox=ref, score=self._whole(70, 90))
            if one.policy.get("attested", True):
                self._happen(low, "stage", mailbox=ref, stage=2)
                self._happen(better, "stage", mailbox=ref, stage=3)
        elif one.health is None and self._chance(0.7):
            self._happen(self._moment(), "health", mailbox=ref, score=self._whole(66, 92))
        if not one.policy.get("attested", True):
            for _ in range(2):
                self._happen(self._moment(), "stage", mailbox=ref, stage=self._whole(1, 5))
        if self._chance(0.04) and "daily_cap" in one.policy:
            at = self._moment()
            self._happen(
                at, "throttle", mailbox=ref, until=round(at + self._between(0.3, 3) * _DAY)
            )
        if self._chance(0.12):
            self._happen(self._moment(), "settings", mailbox=ref, change=self._change(one))
        if self._chance(0.02):
            at = self._moment()
            self._happen(at, "settings", mailbox=ref, change={"is_active": False})
            self._happen(
                at + self._between(0.1, 3) * _DAY, "settings", mailbox=ref,
                change={"is_active": True},
            )  # fmt: skip

    def _change(self, one: MailboxPlan) -> dict[str, Any]:
        """Draw what a user changes in mid-run; caps mostly fall below what is used."""
        kinds: list[dict[str, Any]] = [
            {"daily_cap": self._whole(0, 12)},
            {"daily_cap": self._whole(20, 60)},
            {"hourly_cap": self._whole(2, 6)},
            {"ceiling_24h": self._whole(5, 20)},
            {"cadence_s": self._one((45, 300))},
            {"windows": [{"days": [0, 1, 2, 3, 4, 5], "start": "10:00", "end": "15:30"}]},
            {"timezone": self._one(_OTHER_ZONES)},
            {"campaign_types": ["nurture"]},
            {"campaign_types": ["cold", "nurture", "transactional"]},
            {"blackouts": [(START.date() + timedelta(days=self._whole(5, 29))).isoformat()]},
        ]
        return {"daily_cap": self._whole(50, 300)} if one.is_node else self._one(kinds)

    def _wider_trouble(
        self,
        plans: Sequence[MailboxPlan],
        pools: Mapping[int, str],
        campaigns: Sequence[CampaignPlan],
        leads: int,
    ) -> None:
        for domain in dict.fromkeys(one.domain for one in plans):
            if self._chance(0.08):
                self._suspend(
                    self._moment(), self._between(3, 40), "domain", domain, "domain_paused",
                    ends=self._chance(0.5),
                )  # fmt: skip
        for pool in pools:
            if self._chance(0.2):
                self._suspend(
                    self._moment(), self._between(1, 12), "pool", pool, "operator", ends=True
                )
        for campaign in campaigns:
            if self._chance(0.4):
                self._suspend(
                    self._moment(0, 0.6 * self._days), self._between(2, 40), "campaign",
                    campaign.campaign_id, "paused", ends=False,
                )  # fmt: skip
        if self._chance(0.4):
            self._suspend(
                self._moment(), self._between(1, 6), "workspace", self._id, "operator", ends=True
            )
        for _ in range(leads // 400):
            self._happen(self._moment(), "suppress", address=self._whole(1, leads))
        for _ in range(leads // 800):
            self._happen(self._moment(), "hold_lead", lead=self._whole(1, leads))
