"""One workspace, its mailboxes and a campaign of one step; and what became of it outside."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final

from paceline_common import ids
from paceline_demo.admin import Admin
from paceline_demo.api import Api
from paceline_demo.truth import Submission, read_log
from paceline_local.parts.mailhost import User
from tests.limits.house import MovedHouse
from tests.limits.judge import Begun, Box, breaches
from tests.waiting import until

# A dozen times what it takes on two idle cores: other houses stand beside this one.
PATIENCE_S: Final = 120.0
# So many more messages of the others show that a mailbox which is done stays so.
AFTERWARDS: Final = 2
# A claim of somebody who sleeps: its last instant to begin is over.
OVERDUE: Final = (
    "SELECT 1 FROM scheduler.send_job WHERE state IN ('sending', 'in_doubt')"
    " AND not_after < clock_timestamp() - interval '0.5 s'"
)
_PASSWORD: Final = "limits-Sedge-52"
_SLOTS: Final = (
    "SELECT s.slot_at, s.not_after FROM scheduler.slot AS s"
    " WHERE s.workspace_id = %s AND s.mailbox_id = %s AND s.returned_at IS NULL ORDER BY s.slot_at"
)


async def enlist(scenes: Iterable["Scene"]) -> None:
    """Make everybody's account on the mail host."""
    every = list(scenes)
    users = [user for one in every for user in one.accounts()]
    await asyncio.to_thread(every[0].house.stack.mailhost.add_users, users)


async def prepare(scenes: Iterable["Scene"]) -> None:
    """Prepare scenes, a few at a time."""
    few = asyncio.Semaphore(3)

    async def one_of_them(scene: Scene) -> None:
        async with few:
            await scene.prepare()

    await asyncio.gather(*map(one_of_them, scenes))


class Scene:
    """The mailboxes by name. `steady` is one that nothing binds but its cadence."""

    def __init__(
        self, house: MovedHouse, name: str, boxes: Mapping[str, Box], leads: int = 80
    ) -> None:
        self.house = house
        self._name = name
        self.boxes: Final = dict(boxes)
        self._leads: Final = [f"{name}-{n}@example.test" for n in range(leads)]
        self._ids: dict[str, int] = {}
        self._campaign = ""
        self._api: Api
        self.workspace = 0
        self._since = 0

    def email(self, box: str) -> str:
        """Return a mailbox's address."""
        return f"{self._name}-{box}@north.test"

    def number(self, box: str) -> int:
        """Return a mailbox's number in the tables."""
        return self._ids[box]

    def accounts(self) -> list[User]:
        """Return everybody whom the mail host must know."""
        return [User(one, _PASSWORD) for one in (*map(self.email, self.boxes), *self._leads)]

    # ---- by the API

    async def prepare(self) -> None:
        """Connect the mailboxes and enroll the leads; nothing is sent yet."""
        stack = self.house.stack
        admin = Admin(stack.env("admin"))
        made = await admin.json("workspace", "create", self._name, "--timezone", "UTC",
                                "--country", "DE")  # fmt: skip
        self.workspace = ids.decode("ws", made["workspace_id"])
        key = await admin.json("key", "create", made["workspace_id"], "--name", "limits")
        self._api = Api(self.house.of("gateway")[0].url(), key["key"])
        boxes = await asyncio.gather(*(self._connect(name) for name in self.boxes))
        self._ids = {
            name: ids.decode("mbx", box) for name, box in zip(self.boxes, boxes, strict=True)
        }
        pool = await self._api.post("/v1/pools", {"name": "all", "mailboxes": boxes})
        steps = [{"delay_s": 0, "subject": "Hello", "text": "Good day.\n"}]
        campaign = await self._api.post(
            "/v1/campaigns", {"name": "one", "steps": steps, "tiers": [[pool["id"]]]}
        )
        self._campaign = campaign["id"]
        csv = "\n".join(["email", *self._leads]).encode()
        await self._api.upload(f"/v1/campaigns/{self._campaign}/imports", "leads.csv", csv)
        await until(self._enrolled, "all enrolled", within_s=PATIENCE_S, every_s=0.25)

    async def _connect(self, name: str) -> str:
        box, ports = self.boxes[name], self.house.stack.ports
        server = {"host": "127.0.0.1", "username": self.email(name), "password": _PASSWORD}
        made = await self._api.post(
            "/v1/mailboxes",
            {
                "email": self.email(name), "timezone": box.zone, "policy": box.policy(),
                "smtp": server | {"port": ports["smtp_starttls"], "tls": "starttls"},
                "imap": server | {"port": ports["imaps"], "tls": "implicit"},
            },
        )  # fmt: skip
        return str(made["id"])

    async def _enrolled(self) -> bool:
        report = await self._api.get(f"/v1/campaigns/{self._campaign}/report")
        return bool(sum(report["states"].values()) == len(self._leads))

    async def start(self) -> None:
        """Start the campaign."""
        # What was there before were tests of the connection.
        self._since = self.house.stack.mailhost.log_path.stat().st_size
        await self._api.post(f"/v1/campaigns/{self._campaign}/start")

    async def stop(self) -> None:
        """Pause the campaign: what is left is nobody's business."""
        await self._api.post(f"/v1/campaigns/{self._campaign}/pause")

    @asynccontextmanager
    async def running(self) -> "AsyncIterator[Scene]":
        """Start the campaign, and pause it at the end."""
        await self.start()
        yield self
        await self.stop()

    # ---- at the mail host

    def submissions(self, box: str | None = None) -> list[Submission]:
        """Return what the mail host took of a mailbox, or of all; on the house's clock."""
        clock, owners = self.house.clock, {self.email(one) for one in self.boxes}
        with self.house.stack.mailhost.log_path.open(errors="replace") as log:
            log.seek(self._since)
            found = read_log(log, datetime.fromtimestamp(0, UTC)).submissions
        ours = [
            one
            for one in found
            if one.mailbox in ({self.email(box)} if box else owners)
            and one.recipients != (one.mailbox,)
        ]
        for one in ours:
            one.at = clock.of(one.at)
        return ours

    def count(self, box: str, since: datetime | None = None) -> int:
        """Return how many messages of a mailbox the mail host took, in all or since an instant."""
        return sum(since is None or one.at >= since for one in self.submissions(box))

    async def until_sent(self, box: str, count: int, since: datetime | None = None) -> None:
        """Wait until the mail host took so many messages of a mailbox."""
        await until(
            lambda: self.count(box, since) >= count,
            f"{count} messages of {self.email(box)}",
            within_s=PATIENCE_S,
            every_s=0.1,
        )

    async def until_used_up(self) -> None:
        """Wait until every cap is used up, and nothing comes of it while others go on."""
        for name, box in self.boxes.items():
            if box.cap is not None:
                await self.until_sent(name, box.cap)
        await self.goes_on()

    async def goes_on(self) -> None:
        """Wait until the mailbox that nothing binds has sent some more."""
        await self.until_sent("steady", self.count("steady") + AFTERWARDS)

    def breaches(self) -> list[str]:
        """Say where a limit was passed, at the mail host or by the slots; and who got a copy."""
        found: list[str] = []
        for name, box in self.boxes.items():
            host = [Begun(one.at, one.at) for one in self.submissions(name)]
            rows = self.house.sql(_SLOTS, self.workspace, self._ids[name])
            slots = [Begun(slot_at, not_after) for slot_at, not_after in rows]
            found += [f"{name} at the host: {one}" for one in breaches(box, host)]
            found += [f"{name} by its slots: {one}" for one in breaches(box, slots)]
        copies = Counter(to for one in self.submissions() for to in one.recipients)
        found += [f"{to}: {count} messages" for to, count in copies.items() if count > 1]
        return found
