"""What the demo asks of Paceline: as an operator by `paceline-admin`, as a customer by the API."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Self

from paceline_demo import scenario as cast
from paceline_demo.admin import Admin, AdminFailed
from paceline_demo.api import Api, ApiRefused
from paceline_demo.browser import Browser
from paceline_demo.facts import Audited, Claims, Enrolled, Quarantined, RowError
from paceline_demo.progress import Board
from paceline_demo.providers import NAMES, UNTICKED, Providers
from paceline_demo.publisher import Order, publish_from_outside
from paceline_demo.scenario import Scenario, Sender
from paceline_local.stack import Stack

# What the house needs to answer to an event, a few retries of a bad one included.
_SOON_S: Final = 45.0
_LOOK_EVERY_S: Final = 0.5
# Where a run that was cut off left its key, for the next one to clear up with.
_KEY: Final = ("demo", "api_key")
_QUARANTINED: Final = 2


@dataclass(frozen=True, slots=True)
class Workspace:
    """A workspace and the API as it sees it."""

    workspace_id: str
    key: str
    api: Api


class House:
    """One run's two workspaces: its own, and the one its publisher may not enroll into."""

    def __init__(
        self, stack: Stack, scenario: Scenario, providers: Providers, board: Board, admin: Admin,
        own: Workspace, other: Workspace,
    ) -> None:  # fmt: skip
        self._stack, self._scenario, self._board = stack, scenario, board
        self._providers = providers
        self._admin, self._own, self._other = admin, own, other
        self._since = datetime.now(UTC)
        self._api = own.api
        self._campaign = self._other_campaign = self._import = ""
        self._refusal = self._unticked = ""
        self._ids: dict[str, str] = {}
        self._tiers: list[list[str]] = []
        self._secrets = {own.key: "API key", other.key: "API key"}

    @classmethod
    async def open(
        cls, stack: Stack, scenario: Scenario, providers: Providers, board: Board
    ) -> Self:
        """Clear up after a run that was cut off, and make two fresh workspaces with a key each."""
        admin = Admin(stack.env("admin"))
        url = stack.services["gateway"].url()
        left = stack.layout.secrets.joinpath(*_KEY)
        if left.exists():
            # The key's workspace may be gone with the data of the stack.
            with suppress(ApiRefused):
                await _clear_up(Api(url, left.read_text()))
        own, other = await asyncio.gather(
            _workspace(admin, url, cast.WORKSPACE), _workspace(admin, url, cast.OTHER_WORKSPACE)
        )
        stack.passwords.put(*_KEY, own.key)
        return cls(stack, scenario, providers, board, admin, own, other)

    def secrets(self) -> Mapping[str, str]:
        """Return the secrets that this run was given, each with what it is."""
        return self._secrets

    def urls(self) -> dict[str, str]:
        """Return where people look on: the API's documents, each service's metrics."""
        services = self._stack.services
        return {"api docs": f"{services['gateway'].url()}/docs"} | {
            f"{name} metrics": f"{service.url()}/metrics" for name, service in services.items()
        }

    async def connect_mailboxes(self) -> None:
        """Connect the mailboxes, one with a wrong password and one by half a consent at first."""
        await asyncio.gather(self._connect_by_password(), self._connect_by_consent())
        senders = self._scenario.senders
        connected = [self._ids[sender.email] for sender in senders]
        pools = await asyncio.gather(
            *(
                self._api.post("/v1/pools", {"name": domain, "mailboxes": mailboxes})
                for domain, mailboxes in _by_domain(senders, connected).items()
            )
        )
        self._tiers = [[pool["id"] for pool in pools]]

    async def _connect_by_password(self) -> None:
        await self._try_wrong_password()
        await asyncio.gather(
            *(
                self._connect_servers(sender, sender.password)
                for sender in self._scenario.on_the_mail_host
            )
        )

    async def _connect_by_consent(self) -> None:
        apps = await self._api.get("/v1/oauth/apps")
        await asyncio.gather(*(self._set_oauth_app(app) for app in apps))
        await self._try_half_a_consent()
        await asyncio.gather(*(self._connect_at(one) for one in self._scenario.at_providers))

    async def _set_oauth_app(self, app: Mapping[str, Any]) -> None:
        """Register an OAuth app with the provider and set it, as the operator does."""
        kind = next(kind for kind, name in NAMES.items() if name == app["provider"])
        client_id, secret = await asyncio.to_thread(
            self._providers.register, kind, app["redirect_uri"]
        )
        self._secrets[secret] = "secret of an OAuth app"
        path = self._stack.passwords.folder("demo") / f"{kind}_client_secret"
        await self._admin(
            "oauth-app", "set", app["provider"], "--client-id", client_id,
            "--secret-file", str(path),
        )  # fmt: skip

    async def _try_wrong_password(self) -> None:
        first = self._scenario.on_the_mail_host[0]
        try:
            await self._connect_servers(first, self._scenario.wrong_password)
        except ApiRefused as refused:
            leg = refused.problem.get("send") or {}
            self._refusal = str(leg.get("message") or refused)
            self._board.say(f"{first.email}, wrong password: {self._refusal}")
            self._board.say(f"what to do: {leg.get('remedy')}")

    async def _try_half_a_consent(self) -> None:
        first = next(sender for sender in self._scenario.at_providers if sender.kind == "gmail")
        problem = (await self._consent(first, without=(UNTICKED,)))["problem"]
        if problem is not None:
            self._unticked = f"{problem['title']}: {problem['detail']}"
            self._board.say(f"{first.email}, a box unticked: {self._unticked}")
            self._board.say(f"what to do: {problem['remedy']}")

    async def _connect_servers(self, sender: Sender, password: str) -> None:
        ports = self._stack.ports
        server = {"host": "127.0.0.1", "username": sender.email, "password": password}
        mailbox = await self._api.post(
            "/v1/mailboxes",
            {
                "email": sender.email,
                "display_name": sender.display_name,
                "policy": cast.policy(),
                "smtp": server | {"port": ports["smtp_starttls"], "tls": "starttls"},
                "imap": server | {"port": ports["imaps"], "tls": "implicit"},
            },
        )
        self._connected(sender, mailbox["id"], "by password")

    async def _connect_at(self, sender: Sender) -> None:
        flow = await self._consent(sender)
        if flow["mailbox_id"] is None:
            raise ApiRefused(0, flow["problem"] or {"detail": f"{sender.email}: no mailbox"})
        self._connected(sender, flow["mailbox_id"], "by consent")

    def _connected(self, sender: Sender, mailbox_id: str, how: str) -> None:
        self._ids[sender.email] = mailbox_id
        self._board.say(f"{sender.email} connected {how}: a test message was sent and read back")

    async def _consent(self, sender: Sender, without: tuple[str, ...] = ()) -> dict[str, Any]:
        """Go through the redirect flow as the mailbox's owner; return how it ended."""
        assert sender.kind != "smtp"
        settings = {"display_name": sender.display_name, "policy": cast.policy()}
        flow = await self._api.post(
            f"/v1/oauth/{NAMES[sender.kind]}/flows",
            {"login_hint": sender.email, "mailbox": settings},
        )
        async with Browser() as browser:
            page = await browser.open(flow["start_url"])
            await browser.press(page, "decision", "allow", without=without)
        ended: dict[str, Any] = await self._api.get(f"/v1/oauth/flows/{flow['id']}")
        return ended

    async def pause(self, email: str) -> None:
        """Hold a mailbox back, as an operator does who has seen something odd."""
        reason = "paused by the demo: its follow-ups have to go on elsewhere"
        body = {"scope": "mailbox", "id": self._ids[email], "reason": reason}
        await self._api.post("/v1/suspensions", body)
        self._board.say(f"{email} is paused: its follow-ups go on from other mailboxes")

    async def make_campaign(self) -> None:
        """Make the two-step campaign, and a draft in the other workspace to trespass on."""
        body = {
            "name": "Paceline demo", "steps": cast.steps(), "tiers": self._tiers,
            "stickiness": "reassign",
            "reassign_after_s": int(cast.REASSIGN_AFTER.total_seconds()),
        }  # fmt: skip
        self._campaign = (await self._api.post("/v1/campaigns", body))["id"]
        other = await self._other.api.post("/v1/campaigns", {"name": "Not yours"})
        self._other_campaign = other["id"]

    async def suppress(self, email: str) -> None:
        """Suppress an address."""
        await self._api.post("/v1/suppressions", {"email": email})

    async def start(self) -> None:
        """Start the campaign."""
        await self._api.post(f"/v1/campaigns/{self._campaign}/start")

    async def import_csv(self) -> None:
        """Upload the CSV and show the errors of its bad rows."""
        made = await self._api.upload(
            f"/v1/campaigns/{self._campaign}/imports", "leads.csv", self._scenario.csv
        )
        self._import = made["id"]
        counts = made["counts"]
        self._board.say(f"CSV of {counts['rows']} rows, {counts['errors']} bad:")
        for error in await self._row_errors():
            self._board.say(f"  row {error.row}, {error.column}: {error.message}")

    async def publish(self) -> None:
        """Let the external publisher publish its twenty events, as a process of its own."""
        # `admin` may not provision Kafka here: the stack, whose Kafka it is, does.
        client, _ = await asyncio.gather(
            asyncio.to_thread(self._stack.kafka.add_publisher, cast.PUBLISHER),
            self._admin("publisher", "add", cast.PUBLISHER, "--workspace", self._own.workspace_id),
        )
        events = cast.events(
            self._scenario, self._own.workspace_id, self._campaign,
            (self._other.workspace_id, self._other_campaign),
        )  # fmt: skip
        order = Order(
            bootstrap=client["bootstrap.servers"],
            user=client["sasl.username"],
            password=client["sasl.password"],
            publisher=cast.PUBLISHER,
            bodies=[(workspace, body.decode()) for workspace, body in events],
        )
        await asyncio.to_thread(publish_from_outside, order)
        self._board.say(f"the publisher published {len(events)} events from outside")

    async def repair(self) -> None:
        """Wait for the quarantine, mend the event that can be mended, and replay it."""

        async def complete() -> bool:
            return len(await self._quarantine()) >= _QUARANTINED

        # What is missing then, the promises tell.
        with suppress(TimeoutError):
            await _await(complete)
        lead = cast.enrollment(self._scenario.repaired, self._own.workspace_id, self._campaign)
        for entry in await self._api.all("/v1/quarantine"):
            self._board.say(f"quarantined: {entry['reason']}")
            if self._scenario.misspelt in (entry["body"] or ""):
                await self._api.post(f"/v1/quarantine/{entry['id']}/replay", {"lead": lead})
                self._board.say("  repaired and replayed")

    async def totals(self) -> Mapping[str, int]:
        """Return the campaign's enrollments per state, as its report counts them."""
        report = await self._api.get(f"/v1/campaigns/{self._campaign}/report")
        return dict(report["states"])

    async def mailboxes(self) -> Mapping[str, tuple[datetime | None, str]]:
        """Return each mailbox's next slot, and what it waits for."""
        mailboxes = await self._api.all("/v1/mailboxes")
        schedules = await asyncio.gather(
            *(self._api.get(f"/v1/mailboxes/{one['id']}/schedule") for one in mailboxes)
        )
        now = datetime.now(UTC)
        found: dict[str, tuple[datetime | None, str]] = {}
        for mailbox, schedule in zip(mailboxes, schedules, strict=True):
            next_at = min(map(datetime.fromisoformat, schedule["next_slots"]), default=None)
            state = schedule["state"]
            paced = state["reason"] == "open" and next_at is not None and next_at > now
            found[mailbox["email"]] = (next_at, "its cadence" if paced else state["message"])
        return found

    async def at_rest(self, expected: int) -> bool:
        """Tell whether all leads are enrolled and none of them has anything ahead."""
        try:
            rows = await self._enrollments()
        except ApiRefused:
            # A gateway that has just come back may lack something for a moment.
            return False
        open_ = [row for row in rows if row.state == "active" and row.job_state != "in_doubt"]
        return len(rows) >= expected and not open_

    async def claims(self, parts: Mapping[str, bool], in_doubt_allowed: int) -> Claims:
        """Return what Paceline says of the run, when all of it has been said."""

        async def settled() -> bool:
            counts = (await self._api.get(f"/v1/imports/{self._import}"))["counts"]
            entries = await self._quarantine()
            return not counts["pending"] and any(entry.settled for entry in entries)

        # What is not said by then, the promises tell.
        with suppress(TimeoutError):
            await _await(settled)
        counts = (await self._api.get(f"/v1/imports/{self._import}"))["counts"]
        enrollments = await self._enrollments()
        installation, audit = await asyncio.gather(self._installation(), self._audit())
        return Claims(
            wrong_password=self._refusal,
            unticked=self._unticked,
            enrollments=enrollments,
            totals=await self.totals(),
            row_errors=await self._row_errors(),
            receipts={outcome: counts[outcome] for outcome in _OUTCOMES},
            quarantine=await self._quarantine(),
            installation=installation,
            trespassed=len(await self._other.api.all("/v1/leads"))
            + len(await self._other.api.all("/v1/enrollments")),
            audit=audit,
            parts=parts,
            in_doubt_allowed=in_doubt_allowed,
            begun=await self._begun(),
        )

    async def close(self) -> None:
        """Stop the campaign and disconnect the mailboxes: nothing of this run sends or reads on."""
        await _clear_up(self._api)
        self._stack.layout.secrets.joinpath(*_KEY).unlink(missing_ok=True)

    async def _enrollments(self) -> list[Enrolled]:
        rows = await self._api.all("/v1/enrollments", campaign_id=self._campaign)
        return [
            Enrolled(
                email=row["email"] or "",
                state=row["state"],
                reason=row["reason"],
                job_state=(row["job"] or {}).get("state"),
                step=row["step"],
            )
            for row in rows
        ]

    async def _begun(self) -> frozenset[str]:
        """Return the addresses whose submission the send log calls in doubt."""
        campaign = self._campaign
        open_ = await self._api.all("/v1/sends", campaign_id=campaign, outcome="in_doubt")
        whose = {entry["enrollment_id"] for entry in open_ if entry["started_at"]}
        rows = await self._api.all("/v1/enrollments", campaign_id=campaign) if whose else []
        return frozenset(row["email"] for row in rows if row["id"] in whose)

    async def _row_errors(self) -> list[RowError]:
        errors = await self._api.all(f"/v1/imports/{self._import}/errors")
        return [RowError(error["row"], error["column"], error["message"]) for error in errors]

    async def _quarantine(self) -> list[Quarantined]:
        entries = await self._api.all("/v1/quarantine")
        return [_entry(entry) for entry in entries]

    async def _installation(self) -> list[Quarantined]:
        """Return this run's quarantine entries that belong to no workspace."""
        entries = await self._admin.json("quarantine", "list")
        return [
            _entry(entry)
            for entry in entries
            if datetime.fromisoformat(entry["created_at"]) >= self._since
        ]

    async def _audit(self) -> Audited:
        """Verify the workspace's chain, once more while records may still be on their way."""
        deadline = time.monotonic() + _SOON_S
        while True:
            audited = await self._audit_now()
            if audited.fault or audited.records >= cast.AUDITED or time.monotonic() >= deadline:
                return audited

    async def _audit_now(self) -> Audited:
        whose = self._own.workspace_id
        try:
            chains = await self._admin.json("audit", "verify", "--workspace", whose)
        except AdminFailed as failed:
            return Audited(0, str(failed))
        # The stack may be shared: another run's chain is not this one's to answer for.
        records = sum(chain["records"] for chain in chains if chain["workspace_id"] == whose)
        return Audited(records, None)


_OUTCOMES: Final = ("enrolled", "duplicate", "suppressed", "refused")


async def _workspace(admin: Admin, url: str, settings: Mapping[str, str]) -> Workspace:
    made = await admin.json(
        # The names of workspaces are unique, and each run has its own.
        "workspace", "create", f"{settings['name']}, {datetime.now(UTC):%Y-%m-%d %H:%M:%S}",
        "--timezone", settings["timezone"], "--country", settings["country"],
    )  # fmt: skip
    key = await admin.json("key", "create", made["workspace_id"], "--name", "demo")
    return Workspace(made["workspace_id"], key["key"], Api(url, key["key"]))


async def _clear_up(api: Api) -> None:
    for campaign in await api.all("/v1/campaigns", status="running"):
        await api.post(f"/v1/campaigns/{campaign['id']}/stop")
    for mailbox in await api.all("/v1/mailboxes"):
        await api.delete(f"/v1/mailboxes/{mailbox['id']}")


def _entry(entry: Mapping[str, Any]) -> Quarantined:
    return Quarantined(entry["id"], entry["reason"], settled=entry["settled_at"] is not None)


def _by_domain(senders: tuple[Sender, ...], mailboxes: list[str]) -> dict[str, list[str]]:
    pools: dict[str, list[str]] = {}
    for sender, mailbox in zip(senders, mailboxes, strict=True):
        pools.setdefault(sender.domain, []).append(mailbox)
    return pools


async def _await(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until `condition`; raise `TimeoutError` when it does not come soon."""
    deadline = time.monotonic() + _SOON_S
    while not await condition():
        if time.monotonic() >= deadline:
            raise TimeoutError
        await asyncio.sleep(_LOOK_EVERY_S)
