"""The event list: what a run did, in order, in plain numbers and names.

Sends are rows of whole numbers, one column each; facts are what held around
them (settings, suspensions, health, suppressions …), with plain values and no
rule applied. A fact's `n` is the number of sends before it. Instants are
milliseconds since the epoch, ids are whole numbers of the run.

Facts, by kind:

- `mailbox` {mailbox, workspace, account, domain, zone, active, cadence_ms (between submissions),
  spacing_ms (between the slots of a node with a rate), daily_cap, hourly_cap,
  ceiling_24h, ramp [[day, cap], …]|null, ramp_from date, probation_cap (what unknown health is held
  to), windows [{days [0..6], start "HH:MM", end}]|null, blackouts [date], holidays [date],
  types [name], stage_gate {type: stage}, attested, health_floor}: all its settings from here on.
  Until its stage is measured, an attested mailbox counts as one of stage 3, any other of 0.
- `health` {mailbox, score|null}; `stage` {mailbox, stage|null}; `throttle` {mailbox, until|null}:
  half of its daily cap until then
- `campaign` {campaign, workspace, type, min_health}
- `suspended` {suspension, workspace, scope, ref, reason, until|null}; `resumed` {suspension}
- `suppressed` {workspace, address}; `ended` {enrollment, state}: no submission after it
"""

import hashlib
import json
import sys
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

TYPES: Final = ("cold", "nurture", "transactional")

# `at`: the submission; `slot`: its instant as leased; `reserved`: when it was leased;
# `campaign_type`: its place in TYPES; `accepted`: 0 where the host refused it, for a while or for
# good.
COLUMNS: Final[Mapping[str, str]] = {
    "at": "q",
    "slot": "q",
    "reserved": "q",
    "workspace": "i",
    "mailbox": "i",
    "account": "i",
    "domain": "i",
    "campaign": "i",
    "campaign_type": "i",
    "pool": "i",
    "enrollment": "i",
    "address": "i",
    "step": "i",
    "job": "i",
    "accepted": "b",
}

Fact = dict[str, Any]


class EventList:
    """Columns of sends and a list of facts, both in the order of time."""

    def __init__(self) -> None:
        self.columns: dict[str, array[int]] = {name: array(code) for name, code in COLUMNS.items()}
        self.facts: list[Fact] = []
        self._appends = [self.columns[name].append for name in COLUMNS]

    def __len__(self) -> int:
        return len(self.columns["at"])

    def send(self, *row: int) -> None:
        """Append one send, its values in the order of `COLUMNS`."""
        for append, value in zip(self._appends, row, strict=True):
            append(value)

    def fact(self, at: int, kind: str, **values: Any) -> None:
        """Append what holds from here on, at the instant `at`."""
        self.facts.append({"at": at, "n": len(self), "kind": kind, **values})

    def digest(self) -> str:
        """Return the SHA-256 of everything in it, the same on any machine."""
        digest = hashlib.sha256()
        for fact in self.facts:
            digest.update(_text(fact))
        for column in self.columns.values():
            digest.update(_portable(column))
        return digest.hexdigest()

    def write(self, folder: Path) -> None:
        """Write it as files of one folder, which is made if need be."""
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "facts.jsonl").open("wb") as file:
            file.writelines(_text(fact) for fact in self.facts)
        for name, column in self.columns.items():
            (folder / name).write_bytes(_portable(column))

    @classmethod
    def read(cls, folder: Path) -> "EventList":
        """Return the list that was written to the folder. Raises `OSError` where there is none."""
        events = cls()
        with (folder / "facts.jsonl").open("rb") as file:
            events.facts = [json.loads(line) for line in file]
        for name, column in events.columns.items():
            column.frombytes((folder / name).read_bytes())
            if sys.byteorder == "big":
                column.byteswap()
        return events


def _text(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def _portable(column: "array[int]") -> bytes:
    if sys.byteorder == "big":
        column = array(column.typecode, column)
        column.byteswap()
    return column.tobytes()
