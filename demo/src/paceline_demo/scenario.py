"""The demo's cast: mailboxes, leads and what each recipient will do. The same on each run.

One hundred rows of a CSV and twenty events of an external publisher make 109
leads that must be written to, and eleven that must not. Nothing here knows a
workspace or a port: `Scenario` is data, and the checker measures against it.
"""

import csv
import io
import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from typing import Any, Final, Literal

STEPS: Final = 2
CADENCE: Final = timedelta(seconds=1)
# Long enough for a reply, a late DSN or an unsubscribe of step 1 to be acted upon first, also
# while a killed service comes back; short enough that step 2 begins before step 1 ends.
STEP_2_DELAY: Final = timedelta(seconds=15)

# What of a run is audited at least: workspace, key, publisher, the mailboxes, the suppression,
# the start and the replay.
AUDITED: Final = 10

# A mailbox that is paused is given up by its follow-ups after so long.
REASSIGN_AFTER: Final = timedelta(seconds=1)

PEOPLE: Final = "example.test"
LATE: Final = "late.test"

WORKSPACE: Final = {"name": "Paceline demo", "timezone": "Europe/Berlin", "country": "DE"}
OTHER_WORKSPACE: Final = {"name": "Somebody else", "timezone": "UTC", "country": "GB"}
PUBLISHER: Final = "demo-crm"


class Kind(StrEnum):
    """What a recipient does with mail."""

    ORDINARY = "ordinary"
    UNKNOWN = "unknown user at RCPT"
    LATE = "accepted, bounced later"
    REPLY = "human reply"
    VACATION = "vacation reply"
    UNSUBSCRIBE = "one-click unsubscribe"
    SUPPRESSED = "already suppressed"


# How far a lead of each kind gets: the steps that leave, and the state it ends in.
STEPS_OF: Final[Mapping[Kind, int]] = {
    Kind.ORDINARY: 2,
    Kind.UNKNOWN: 1,
    Kind.LATE: 1,
    Kind.REPLY: 1,
    Kind.VACATION: 2,
    Kind.UNSUBSCRIBE: 1,
    Kind.SUPPRESSED: 0,
}
STATE_OF: Final[Mapping[Kind, str]] = {
    Kind.ORDINARY: "finished",
    Kind.UNKNOWN: "bounced",
    Kind.LATE: "bounced",
    Kind.REPLY: "replied",
    Kind.VACATION: "finished",
    Kind.UNSUBSCRIBE: "unsubscribed",
}

_CSV_KINDS: Final[Mapping[Kind, int]] = {
    Kind.ORDINARY: 49,
    Kind.UNKNOWN: 8,
    Kind.LATE: 6,
    Kind.REPLY: 12,
    Kind.VACATION: 6,
    Kind.UNSUBSCRIBE: 10,
    Kind.SUPPRESSED: 1,
}
_PUBLISHED_KINDS: Final[Mapping[Kind, int]] = {
    Kind.ORDINARY: 6,
    Kind.UNKNOWN: 2,
    Kind.LATE: 2,
    Kind.REPLY: 3,
    Kind.VACATION: 2,
    Kind.UNSUBSCRIBE: 2,
}

_FIRST: Final = (
    "Ada", "Bram", "Chloé", "Dmitri", "Elif", "Fatou", "Göran", "Hana", "Ines", "Jonas", "Kenji",
    "Léa", "Malik", "Nadia", "Oskar", "Priya",
)  # fmt: skip
_LAST: Final = (
    "Aalto", "Brandt", "Castillo", "Dubois", "Eriksen", "Ferrari", "Gupta", "Håkansson", "Ito",
)  # fmt: skip
_COMPANIES: Final = (
    "Altona Freight", "Brightwater GmbH", "Café Nord", "Delta & Sons", "Ebbe Robotics",
    "Fjord Analytics", "Grünwerk AG",
)  # fmt: skip
_PLANS: Final = ("starter", "team", "enterprise")
_ASCII: Final = str.maketrans("éöåü", "eoau")


@dataclass(frozen=True, slots=True)
class Lead:
    """One person. `row` is the CSV row (1-based, header excluded) or None when published."""

    email: str
    first_name: str
    last_name: str
    company: str
    plan: str
    kind: Kind
    row: int | None = None


@dataclass(frozen=True, slots=True)
class Sender:
    """A mailbox to connect: by its real password on the mail host, or by consent at a provider."""

    email: str
    display_name: str
    password: str = ""
    kind: Literal["smtp", "gmail", "graph"] = "smtp"

    @property
    def domain(self) -> str:
        return self.email.partition("@")[2]


@dataclass(frozen=True, slots=True)
class Scenario:
    """Everything the demo says and expects.

    `bad_rows` maps the row number of each bad CSV row to the column at fault;
    `duplicate_rows` are rows whose address stood in an earlier row.
    `paused` is the mailbox that is held back in mid-campaign.
    `repaired` is the lead of the malformed event that is mended and replayed;
    `forbidden` the one for a workspace that the publisher may not enroll into.
    """

    senders: tuple[Sender, ...]
    paused: str
    wrong_password: str
    imported: tuple[Lead, ...]
    bad_rows: Mapping[int, str]
    duplicate_rows: tuple[int, ...]
    csv: bytes
    published: tuple[Lead, ...]
    repaired: Lead
    forbidden: Lead

    @property
    def expected(self) -> tuple[Lead, ...]:
        """Return the leads that must be written to."""
        everyone = (*self.imported, *self.published, self.repaired)
        return tuple(lead for lead in everyone if lead.kind is not Kind.SUPPRESSED)

    @property
    def suppressed(self) -> Lead:
        """Return the lead whose address is suppressed before the import."""
        return next(lead for lead in self.imported if lead.kind is Kind.SUPPRESSED)

    @property
    def misspelt(self) -> str:
        """Return what stands for an address in the event that is to be repaired."""
        return self.repaired.email.replace("@", " at ")

    @property
    def untouchable(self) -> frozenset[str]:
        """Return the addresses that must get nothing."""
        return frozenset({self.suppressed.email, self.forbidden.email})

    @property
    def on_the_mail_host(self) -> tuple[Sender, ...]:
        """Return the senders that are accounts of the mail host."""
        return tuple(sender for sender in self.senders if sender.kind == "smtp")

    @property
    def at_providers(self) -> tuple[Sender, ...]:
        """Return the senders that are reached by a provider's API."""
        return tuple(sender for sender in self.senders if sender.kind != "smtp")

    @property
    def addresses(self) -> frozenset[str]:
        """Return every address used, of either side."""
        leads = (*self.imported, *self.published, self.repaired, self.forbidden)
        return frozenset(lead.email for lead in leads) | {s.email for s in self.senders}


def build() -> Scenario:
    """Return the scenario; each call gives the same."""
    rng = random.Random(20261120)  # noqa: S311  (a shuffle, not a secret)
    people = _people()
    imported = _cast(people, _CSV_KINDS, rng)
    published = _cast(people, _PUBLISHED_KINDS, rng)
    repaired = next(_cast_one(people, Kind.ORDINARY))
    forbidden = next(_cast_one(people, Kind.ORDINARY))
    rows, placed, bad, duplicates = _rows(imported)
    return Scenario(
        senders=(
            Sender("ada@north.test", "Ada North", "north-Quay-51-demo"),
            Sender("ben@north.test", "Ben North", "north-Sail-62-demo"),
            Sender("cleo@south.test", "Cleo South", "south-Dune-73-demo"),
            Sender("dan@south.test", "Dan South", "south-Palm-84-demo"),
            Sender("gia@gmail.test", "Gia Gmail", kind="gmail"),
            Sender("max@outlook.test", "Max Outlook", kind="graph"),
        ),
        paused="dan@south.test",
        wrong_password="wrong-Tide-95-demo",  # noqa: S106  (a stranger to every account)
        imported=placed,
        bad_rows=bad,
        duplicate_rows=duplicates,
        csv=rows,
        published=published,
        repaired=repaired,
        forbidden=forbidden,
    )


def policy() -> dict[str, Any]:
    """Return the accelerated mailbox policy: always open, no ramp, no caps, not held by health.

    Of a campaign that bounces by 13 % on fresh mailboxes, each of the last three
    rules would rightly hold the rest for a day or more.
    """
    return {
        "cadence_s": CADENCE.total_seconds(),
        "jitter_s": [0.1, 0.3],
        "grace_s": 0.05,
        "daily_cap": None,
        "ramp": None,
        "windows": None,
        "holidays": False,
        "health_floor": False,
        "cooldown": False,
        "stage_gate": None,
    }


def marker(step: int) -> str:
    """Return the words by which a step's body is told from the other's."""
    return f"paceline demo, step {step} of {STEPS}"


def greeting(lead: Lead) -> str:
    """Return the line of each body that is the lead's own."""
    return f"Hello {lead.first_name}, is {lead.company} still on the {lead.plan} plan?"


def steps() -> list[dict[str, Any]]:
    """Return the campaign's two steps; the second answers in the thread of the first."""
    line = "Hello {{ first_name }}, is {{ company }} still on the {{ plan }} plan?"
    return [
        {
            "delay_s": int(delay),
            "subject": "A question for {{ company }}" if step == 1 else "",
            "text": f"{line}\n\n({marker(step)})\n",
            "html": f"<p>{line}</p><p>({marker(step)})</p>",
        }
        for step, delay in ((1, 0), (2, STEP_2_DELAY.total_seconds()))
    ]


def enrollment(lead: Lead, workspace_id: str, campaign_id: str) -> dict[str, Any]:
    """Return the body of the `lead-enrolled.v1` event that enrolls `lead`."""
    return {
        "workspace_id": workspace_id,
        "campaign_id": campaign_id,
        "email": lead.email,
        "first_name": lead.first_name,
        "last_name": lead.last_name,
        "company": lead.company,
        "fields": {"plan": lead.plan},
    }


def events(
    scenario: Scenario, workspace_id: str, campaign_id: str, other: tuple[str, str]
) -> list[tuple[str, bytes]]:
    """Return the publisher's twenty events as (envelope's workspace id, body).

    The fifth lacks a valid address (it is the one repaired), the eleventh is
    cut off in the middle, the sixteenth is for `other`, a workspace and
    campaign that the publisher has no business with.
    """
    bodies = [
        (workspace_id, json.dumps(enrollment(lead, workspace_id, campaign_id)).encode())
        for lead in scenario.published
    ]
    broken = enrollment(scenario.repaired, workspace_id, campaign_id)
    broken["email"] = scenario.misspelt
    bodies.insert(4, (workspace_id, json.dumps(broken).encode()))
    whole = json.dumps(enrollment(scenario.published[0], workspace_id, campaign_id)).encode()
    bodies.insert(10, (workspace_id, whole[: len(whole) // 2]))
    bodies.insert(15, (other[0], json.dumps(enrollment(scenario.forbidden, *other)).encode()))
    return bodies


def _people() -> Iterator[Lead]:
    # The last name changes slowest, so that a company's people do not share one.
    for number, (last, first) in enumerate((last, first) for last in _LAST for first in _FIRST):
        yield Lead(
            email=f"{first}.{last}@{PEOPLE}".lower().translate(_ASCII),
            first_name=first,
            last_name=last,
            company=_COMPANIES[number % len(_COMPANIES)],
            plan=_PLANS[number % len(_PLANS)],
            kind=Kind.ORDINARY,
        )


def _cast(
    people: Iterator[Lead], kinds: Mapping[Kind, int], rng: random.Random
) -> tuple[Lead, ...]:
    order = [kind for kind, count in kinds.items() for _ in range(count)]
    rng.shuffle(order)
    return tuple(lead for kind in order for lead in _cast_one(people, kind))


def _cast_one(people: Iterator[Lead], kind: Kind) -> Iterator[Lead]:
    lead = replace(next(people), kind=kind)
    if kind is Kind.LATE:
        lead = replace(lead, email=lead.email.replace(PEOPLE, LATE))
    yield lead


def _rows(
    leads: tuple[Lead, ...],
) -> tuple[bytes, tuple[Lead, ...], dict[int, str], tuple[int, ...]]:
    """Return the CSV, the leads with their rows, the bad rows and the duplicate rows."""
    header = ("E-mail", "First Name", "Last Name", "Company", "Plan")
    cells = [(le.email, le.first_name, le.last_name, le.company, le.plan) for le in leads]
    bad = {
        7: ("", "Nora", "Nobody", "No Address Ltd", "team"),
        23: ("not-an-address", "Otto", "Ohne", "No Sign Ltd", "team"),
        41: ("two@signs@example.test", "Tilda", "Two", "Two Signs Ltd", "team"),
        64: ("dots..dots@example.test", "Dora", "Dots", "Two Dots Ltd", "team"),
        88: ("long.name@example.test", "L" * 201, "Long", "Long Name Ltd", "team"),
    }
    # As people write them: another case, blanks around, and word for word.
    again: dict[int, tuple[int, Callable[[str], str]]] = {
        33: (2, str.upper),
        57: (20, lambda email: f"  {email} "),
        95: (50, str),
    }
    rows: list[tuple[str, ...]] = []
    placed: list[Lead] = []
    waiting = iter(zip(leads, cells, strict=True))
    total = len(cells) + len(bad) + len(again)
    for number in range(1, total + 1):
        if number in bad:
            rows.append(bad[number])
        elif number in again:
            earlier, spell = again[number]
            email, *rest = rows[earlier - 1]
            rows.append((spell(email), *rest))
        else:
            lead, row = next(waiting)
            placed.append(replace(lead, row=number))
            rows.append(row)
    text = io.StringIO()
    writer = csv.writer(text, delimiter=";")
    writer.writerow(header)
    writer.writerows(rows)
    columns = dict.fromkeys(bad, "email") | {88: "first_name"}
    # A byte order mark and semicolons: what a spreadsheet on a German desk saves.
    return text.getvalue().encode("utf-8-sig"), tuple(placed), columns, tuple(again)
