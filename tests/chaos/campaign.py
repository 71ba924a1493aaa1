"""The customer of a chaos run: mailboxes, campaigns, leads in batches, changes of mind.

Everything goes through the public API and is repeated until it is answered; what was answered
is noted in the diary.
"""

import asyncio
import csv
import io
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

import httpx

from paceline_demo.admin import Admin
from paceline_demo.browser import Browser, NoSuchButton
from paceline_local.parts.mailhost import User
from tests.chaos.diary import Diary, Held, Lead, Mailbox, Suppressed
from tests.chaos.house import House
from tests.chaos.traffic import Traffic

PUBLISHER: Final = "chaos-crm"
PASSWORD: Final = "chaos-Reed-37"
# A mailbox that is taken away while leads wait for it and cools down after one bounce, and one
# whose password is not always right.
APART: Final = "apart@north.test"
FICKLE: Final = "fickle@south.test"
# What recipients do with mail, by parts of a batch.
KINDS: Final = {"ordinary": 72, "unknown": 6, "late": 4, "reply": 12, "unsubscribe": 6}
STEP_2_DELAY_S: Final = 6
_PATIENCE_S: Final = 180.0
_TESTS: Final = 5
_LINKS: Final = 6
# Longer than it takes until a mailbox that is new has a reader.
_READ_S: Final = 5.0
_MARKER: Final = "chaos step {step}"
_DAY_MINUTES: Final = 24 * 60
_WINDOWS: Final = 45
_PEOPLE: Final = 8000
_PEOPLE_OF_SHORT: Final = 600
# How many steps each campaign has.
_LENGTHS: Final = {
    "long": 2, "short": 1, "loyal": 2, "moving": 2, "first": 1, "second": 1, "brief": 2,
}  # fmt: skip
# How the gateway calls the providers of the two kinds with an API.
_PROVIDERS: Final = {"gmail": "google", "graph": "microsoft"}


class Refused(Exception):
    """The API said no for good; `problem` is what it said."""

    def __init__(self, asked: str, problem: dict[str, Any]) -> None:
        super().__init__(f"{asked}: {problem}")
        self.problem = problem


def marker(step: int) -> str:
    """Return the words by which a step's message is told."""
    return _MARKER.format(step=step)


def mailboxes(is_short: bool) -> list[Mailbox]:
    """Return the fleet over all transports: free ones, one with windows, one with each cap."""
    # Open for two minutes, closed for one, for two hours: a policy holds 50 windows at most.
    now = int(time.time() / 60) % _DAY_MINUTES
    windows = [
        (start % _DAY_MINUTES, (start + 2) % _DAY_MINUTES)
        for start in range(now - 1, now + 3 * _WINDOWS, 3)
    ]
    # Each twin's accounts have drafts and a Sent folder that can be read; nobody files a copy of
    # what goes through the mail host.
    gmail = [Mailbox(f"g{n}@gmail.test", "gmail", proof=True) for n in range(1, 3)]
    graph = [Mailbox(f"o{n}@outlook.test", "graph", proof=True) for n in range(1, 3)]
    smtp = [Mailbox("m1@north.test", "smtp"), Mailbox("m2@south.test", "smtp")]
    odd = [Mailbox(APART, "smtp"), Mailbox(FICKLE, "smtp")]
    free = [*gmail[:1], *graph[:1], *smtp[:1]] if is_short else [*gmail, *graph, *smtp]
    scale = 1 if is_short else 4
    return [
        *free,
        *odd,
        Mailbox("windowed@north.test", "smtp", windows=windows),
        Mailbox("hourly@gmail.test", "gmail", hourly_cap=15 * scale, proof=True),
        Mailbox("daily@outlook.test", "graph", daily_cap=12 * scale, proof=True),
        Mailbox("rolling@south.test", "smtp", ceiling=10 * scale),
    ]


def _capped(mailbox: Mailbox) -> bool:
    return any(one is not None for one in (mailbox.hourly_cap, mailbox.daily_cap, mailbox.ceiling))


def _policy(mailbox: Mailbox) -> dict[str, Any]:
    windows = (
        None
        if mailbox.windows is None
        else [
            {"days": list(range(7)), "start": _clock(start), "end": _clock(end)}
            for start, end in mailbox.windows
        ]
    )
    return {
        "cadence_s": mailbox.cadence_s, "jitter_s": [2.1, 2.6], "grace_s": mailbox.grace_s,
        "hourly_cap": mailbox.hourly_cap, "daily_cap": mailbox.daily_cap,
        "ceiling_24h": mailbox.ceiling, "windows": windows, "ramp": None, "holidays": False,
        "health_floor": False, "cooldown": mailbox.email == APART, "stage_gate": None,
        "reroute": False,
        "recheck": {"every_s": 60, "for_s": 86_400} if mailbox.email == FICKLE else None,
    }  # fmt: skip


def _clock(minute: int) -> str:
    return f"{minute // 60:02d}:{minute % 60:02d}"


class Customer:
    """One workspace under chaos."""

    def __init__(self, house: House, rng: random.Random, *, is_short: bool) -> None:
        self._house = house
        self._rng = rng
        self._short = is_short
        self.diary = Diary(since=time.time(), mailboxes=mailboxes(is_short))
        self._campaigns: dict[str, str] = {}
        self._pools: dict[str, str] = {}
        # Made to be stopped, and not stopped yet.
        self._brief: list[str] = []
        self._made = 0
        self._traffic: Traffic
        # The mail host's table of accounts is written whole.
        self._accounts = asyncio.Lock()
        self._http = httpx.AsyncClient(
            base_url=house.of("gateway")[0].url(), timeout=60, headers={}
        )

    # ---- opening

    async def open(self, traffic: Traffic) -> None:
        """Make the workspace, connect every mailbox, start the campaigns."""
        self._traffic = traffic
        stack = self._house.stack
        await asyncio.to_thread(stack.mailhost.clear)
        # All recipients beforehand: an SMTP session that is kept open learns of no new account.
        people = _PEOPLE_OF_SHORT if self._short else _PEOPLE
        await asyncio.to_thread(
            stack.mailhost.add_users,
            [User(f"lead{n:06d}@example.test", PASSWORD) for n in range(1, people + 1)],
        )
        await asyncio.to_thread(self.accounts_for, self.diary.mailboxes)
        admin = Admin(stack.env("admin"))
        made = await admin.json(
            "workspace", "create", f"chaos {self.diary.since:.3f}", "--timezone", "UTC",
            "--country", "DE",
        )  # fmt: skip
        self._house.workspace = self.diary.workspace = made["workspace_id"]
        key = await admin.json("key", "create", made["workspace_id"], "--name", "chaos")
        self._http.headers["Authorization"] = f"Bearer {key['key']}"
        await self._set_oauth_apps()
        await asyncio.to_thread(stack.kafka.add_publisher, PUBLISHER)
        await admin("publisher", "add", PUBLISHER, "--workspace", made["workspace_id"])
        await asyncio.gather(*(self._connect(one) for one in self.diary.mailboxes))
        # Campaigns that want their leads for themselves have them one after the other, at once.
        contact = {"parallel_campaigns": False, "min_days_between": 0}
        await self.ask("PATCH", "/v1/workspace", {"contact": contact})
        apart = self._box(APART).mailbox_id
        all_free = [one.mailbox_id for one in self.diary.mailboxes if not _capped(one)]
        free = [one for one in all_free if one != apart]
        capped = [one.mailbox_id for one in self.diary.mailboxes if _capped(one)]
        await self._campaign("long", free)
        # A lead whose mailbox is used up for the day must find another: one step, one pool.
        await self._campaign("short", [*capped, *free[:2]])
        await self._campaign("loyal", [apart], stickiness="stop", reassign_after_s=0)
        await self._campaign("moving", [apart, free[0]], reassign_after_s=0)
        await self._campaign("first", free[:2], allow_parallel=False)
        await self._campaign("second", free[:2], allow_parallel=False)

    def _box(self, email: str) -> Mailbox:
        return next(one for one in self.diary.mailboxes if one.email == email)

    def accounts_for(self, boxes: list[Mailbox]) -> None:
        """Make each mailbox's account at its provider."""
        stack = self._house.stack
        stack.mailhost.add_users([User(one.email, PASSWORD) for one in boxes if one.kind == "smtp"])
        for one in boxes:
            if one.kind != "smtp":
                twin = stack.twins[one.kind]  # type: ignore[index]
                twin.control("DELETE", f"mailboxes/{one.email}")
                twin.control("POST", "mailboxes", {"email": one.email})
                conduct = {"rewrites_message_id": True}
                twin.control("POST", f"mailboxes/{one.email}/conduct", conduct)

    async def _set_oauth_apps(self) -> None:
        """Register an OAuth app with each provider, and use it."""
        for app in await self.ask("GET", "/v1/oauth/apps"):
            kind = next(kind for kind, name in _PROVIDERS.items() if name == app["provider"])
            client = {"client_id": f"chaos-{kind}", "client_secret": secrets.token_urlsafe(20)}
            known = {
                "clients": {client["client_id"]: client["client_secret"]},
                "redirect_uris": [app["redirect_uri"]],
            }
            twin = self._house.stack.twins[kind]  # type: ignore[index]
            await asyncio.to_thread(twin.control, "POST", "identity", known)
            await self.ask("PUT", f"/v1/oauth/apps/{app['provider']}", client)

    async def _connect(self, mailbox: Mailbox) -> None:
        if mailbox.kind != "smtp":
            await self.connect_account(mailbox)
            return
        ports = self._house.stack.ports
        server = {"host": "127.0.0.1", "username": mailbox.email, "password": PASSWORD}
        body = {
            "email": mailbox.email, "display_name": mailbox.email.partition("@")[0],
            "policy": _policy(mailbox),
            "smtp": server | {"port": ports["via_smtp"], "tls": "starttls"},
            "imap": server | {"port": ports["via_imap"], "tls": "implicit"},
        }  # fmt: skip
        try:
            mailbox.mailbox_id = (await self.ask("POST", "/v1/mailboxes", body))["id"]
        except Refused as refused:
            # An answer that was lost: it is connected.
            if refused.problem["code"] != "mailbox_exists":
                raise
            mailbox.mailbox_id = refused.problem["mailbox_id"]

    async def connect_account(self, mailbox: Mailbox, *, separate: bool = False) -> None:
        """Connect a mailbox as its owner does: by the provider's pages, once or for each leg.

        What an outage ended cannot be gone on with: another link, some times.
        """
        for left in reversed(range(_LINKS)):
            try:
                await self._consent(mailbox, separate=separate)
            except (Refused, NoSuchButton, httpx.HTTPError):
                if not left:
                    raise
                await asyncio.sleep(1)
            else:
                return

    async def _consent(self, mailbox: Mailbox, *, separate: bool) -> None:
        settings = {
            "display_name": mailbox.email.partition("@")[0], "policy": _policy(mailbox),
        }  # fmt: skip
        flow = await self.ask(
            "POST", f"/v1/oauth/{_PROVIDERS[mailbox.kind]}/flows",
            {
                "login_hint": mailbox.email, "mailbox": settings,
                "consents": "separate" if separate else "one",
            },
        )  # fmt: skip
        async with Browser() as browser:
            page = await browser.open(flow["start_url"])
            for _ in range(1 + separate):
                page = await browser.press(page, "decision", "allow")
        ended = await self.ask("GET", f"/v1/oauth/flows/{flow['id']}")
        # Of an earlier flow whose end was not told.
        known = ended["mailbox_id"] or (ended["problem"] or {}).get("mailbox_id")
        if known is None:
            raise Refused(f"consent of {mailbox.email}", ended["problem"] or {})
        mailbox.mailbox_id = known

    async def _campaign(self, name: str, boxes: list[str], **more: Any) -> None:
        pool = await self.ask("POST", "/v1/pools", {"name": name, "mailboxes": boxes})
        self._pools[name] = pool["id"]
        body = {
            "name": name, "allow_parallel": True, "tiers": [[pool["id"]]],
            "steps": _steps(_LENGTHS[name]), **more,
        }  # fmt: skip
        made = await self.ask("POST", "/v1/campaigns", body)
        await self.ask("POST", f"/v1/campaigns/{made['id']}/start")
        self._campaigns[name] = made["id"]

    # ---- what a customer does

    async def enroll(self, count: int, kind: str | None = None) -> None:
        """Import so many leads, a third into the campaign of capped mailboxes."""
        for name, share in (("long", count - count // 3), ("short", count // 3)):
            await self.enroll_into(name, share, kind)

    async def enroll_into(self, campaign: str, count: int, kind: str | None = None) -> None:
        """Import so many leads into one campaign."""
        await self._enroll(self._campaigns[campaign], self._draw(campaign, count, kind))

    async def enroll_twice(self) -> None:
        """Import leads into two campaigns of which each wants them for itself."""
        leads = self._draw("first", 2, "ordinary")
        await self._enroll(self._campaigns["first"], leads)
        again = [replace(one, campaign="second") for one in leads]
        await self._enroll(self._campaigns["second"], again)

    async def _enroll(self, campaign: str, leads: list[Lead]) -> None:
        self._made += 1
        key = f"batch-{self._made}"
        await self.repeat(lambda: self._import(campaign, leads, key))
        self.diary.leads += leads

    # ---- a campaign that does not last

    async def draft_campaign(self, count: int) -> tuple[str, int]:
        """Make a campaign without steps and import leads; return its id, and how many."""
        body = {"name": "brief", "allow_parallel": True, "tiers": [[self._pools["long"]]]}
        campaign: str = (await self.ask("POST", "/v1/campaigns", body))["id"]
        self._brief.append(campaign)
        leads = self._draw("brief", count, "halted")
        await self._enroll(campaign, leads)
        return campaign, len(leads)

    async def begin(self, campaign: str) -> None:
        """Give a campaign its steps, and start it."""
        await self.ask("PATCH", f"/v1/campaigns/{campaign}", {"steps": _steps(_LENGTHS["brief"])})
        await self.ask("POST", f"/v1/campaigns/{campaign}/start")

    async def stop(self, campaign: str) -> None:
        """End a campaign for good."""
        await self.ask("POST", f"/v1/campaigns/{campaign}/stop")
        self._brief = [one for one in self._brief if one != campaign]

    async def conclude(self) -> None:
        """End what was begun and left: leads wait in it for nothing, or for a mailbox that failed
        a test that an outage spoilt."""
        for campaign in self._brief:
            with suppress(Refused):
                # It may have begun, or ended: the answer was lost.
                await self.begin(campaign)
            await self.stop(campaign)
        for _ in range(_TESTS):
            if await self.test(FICKLE):
                break

    # ---- mailboxes and settings

    async def publish(self, count: int) -> None:
        """Enroll so many leads from outside."""
        leads = self._draw("long", count, None)
        emails = [one.email for one in leads]
        await asyncio.to_thread(self._traffic.enroll, PUBLISHER, self._campaigns["long"], emails)
        self.diary.leads += leads

    async def connect_spare(self) -> None:
        """Connect one more mailbox, which sends for nobody, and disconnect it when it was read."""
        spare = self.spare("smtp")
        await self.set_password(spare.email, PASSWORD)
        await self._connect(spare)
        await asyncio.sleep(_READ_S)
        await self.disconnect(spare)

    def spare(self, kind: str) -> Mailbox:
        """Return one more mailbox, not connected; nobody has its account."""
        self._made += 1
        domain = {"gmail": "gmail.test", "graph": "outlook.test", "smtp": "north.test"}[kind]
        return Mailbox(f"spare{self._made:06d}@{domain}", kind)

    async def set_password(self, email: str, password: str) -> None:
        """Give an account of the mail host, new or known, a password."""
        async with self._accounts:
            await asyncio.to_thread(self._house.stack.mailhost.add_users, [User(email, password)])

    async def test(self, email: str) -> bool:
        """Test a connected mailbox; tell whether both legs passed."""
        told = await self.ask("POST", f"/v1/mailboxes/{self._box(email).mailbox_id}/test")
        return bool(told["ok"])

    async def disconnect(self, mailbox: Mailbox) -> None:
        """Disconnect a mailbox."""
        await self.ask("DELETE", f"/v1/mailboxes/{mailbox.mailbox_id}")

    async def shape(self, spacing_s: float) -> None:
        """Have messages to most recipients keep a distance."""
        await self.ask("PUT", "/v1/shaping-rules/example.test", {"spacing_s": spacing_s})

    async def attach(self) -> None:
        """Upload a file and delete it."""
        made = await self.repeat(
            lambda: _answered(
                self._http.post(
                    "/v1/attachments", params={"filename": "word.txt"}, content=b"A word.",
                    headers={"Content-Type": "text/plain"},
                )
            )
        )  # fmt: skip
        await self.ask("DELETE", f"/v1/attachments/{made['id']}")

    def _draw(self, campaign: str, count: int, only: str | None) -> list[Lead]:
        leads = []
        kinds, weights = list(KINDS), list(KINDS.values())
        drawn = [only] * count if only else self._rng.choices(kinds, weights, k=count)
        for kind in drawn:
            self._made += 1
            local = "nobody" if kind == "unknown" else "lead"
            domain = "late.test" if kind == "late" else "example.test"
            email = f"{local}{self._made:06d}@{domain}"
            leads.append(Lead(email, kind, campaign, _LENGTHS[campaign]))
        return leads

    async def _import(self, campaign: str, leads: Iterable[Lead], key: str) -> None:
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(("email", "first_name"))
        writer.writerows((one.email, one.email.partition("@")[0]) for one in leads)
        _read(
            await self._http.post(
                f"/v1/campaigns/{campaign}/imports",
                files={"file": ("leads.csv", text.getvalue().encode(), "text/csv")},
                headers={"Idempotency-Key": key},
            )
        )

    async def suppress(self, email: str | None = None) -> None:
        """Suppress an address, at random one of those enrolled."""
        chosen = email or self._rng.choice(self.diary.leads[-60:]).email
        asked = time.time()
        await self.ask("POST", "/v1/suppressions", {"email": chosen})
        self.diary.suppressed.append(Suppressed(chosen, asked, time.time()))

    async def unsubscribe(self, email: str, url: str) -> None:
        """Press a recipient's one-click link."""
        asked = time.time()

        async def press() -> None:
            (await self._http.post(url, data={"List-Unsubscribe": "One-Click"})).raise_for_status()

        await self.repeat(press)
        self.diary.suppressed.append(Suppressed(email, asked, time.time()))

    async def hold(self, for_s: float, email: str | None = None) -> None:
        """Suspend a mailbox, at random if none is named, and lift that again."""
        mailbox = self._box(email) if email else self._rng.choice(self.diary.mailboxes)
        body = {"scope": "mailbox", "id": mailbox.mailbox_id, "reason": "chaos"}
        opened = await self.ask("POST", "/v1/suspensions", body)
        held = Held(mailbox.email, time.time())
        self.diary.held.append(held)
        await asyncio.sleep(for_s)
        held.lifted = time.time()
        await self.ask("DELETE", f"/v1/suspensions/{opened['id']}")

    async def hold_for_a_while(self, for_s: float) -> None:
        """Suspend the workspace until an instant; nobody lifts it."""
        until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + for_s + 1))
        body = {"scope": "workspace", "reason": "chaos", "until": until}
        with suppress(Refused):
            await self.ask("POST", "/v1/suspensions", body)

    async def pause(self, for_s: float) -> None:
        """Pause a campaign and go on with it."""
        campaign = self._rng.choice(list(self._campaigns.values()))
        with suppress(Refused):
            await self.ask("POST", f"/v1/campaigns/{campaign}/pause")
        await asyncio.sleep(for_s)
        with suppress(Refused):
            await self.ask("POST", f"/v1/campaigns/{campaign}/resume")

    async def change(self) -> None:
        """Change the workspace, a mailbox and a campaign by a trifle."""
        word = f"{self._rng.randrange(10**6)}"
        mailbox = self._rng.choice(self.diary.mailboxes)
        campaign = self._rng.choice(list(self._campaigns.items()))
        await self.ask("PATCH", "/v1/workspace", {"name": f"chaos {self.diary.since:.3f} {word}"})
        await self.ask("PATCH", f"/v1/mailboxes/{mailbox.mailbox_id}", {"display_name": word})
        await self.ask("PATCH", f"/v1/campaigns/{campaign[1]}", {"name": f"{campaign[0]} {word}"})

    # ---- asking

    async def ask(self, method: str, path: str, body: object = None) -> Any:
        """Ask the API until it answers other than by an error of its own; raise `Refused`."""
        return await self.repeat(lambda: _answered(self._http.request(method, path, json=body)))

    async def repeat(self, act: Callable[[], Awaitable[Any]]) -> Any:
        """Do something until it is answered; raise what it raises after minutes."""
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return await act()
            except (httpx.TransportError, httpx.HTTPStatusError):
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(0.3)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()


def _steps(count: int) -> list[dict[str, Any]]:
    return [
        {
            "delay_s": 0 if step == 1 else STEP_2_DELAY_S,
            "subject": "A word, {{ first_name }}" if step == 1 else "",
            "text": f"Hello {{{{ first_name }}}}\n\n({marker(step)})\n",
        }
        for step in range(1, count + 1)
    ]


async def _answered(asking: Awaitable[httpx.Response]) -> Any:
    return _read(await asking)


def _read(answer: httpx.Response) -> Any:
    if answer.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
        answer.raise_for_status()
    if answer.is_error:
        raise Refused(f"{answer.request.method} {answer.request.url}", answer.json())
    return answer.json() if answer.content else None
