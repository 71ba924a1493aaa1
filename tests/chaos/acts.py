"""What brings about the transitions that load and faults alone seldom reach, by failpoint."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Final

import httpx
import psycopg

from paceline_common import failpoints
from paceline_demo.browser import NoSuchButton
from tests.chaos.campaign import APART, FICKLE, PASSWORD, Customer, Refused
from tests.chaos.diary import Mailbox
from tests.chaos.faults import Faults
from tests.chaos.house import House
from tests.chaos.ledger import Ledger
from tests.chaos.traffic import Traffic

Act = Callable[[], Awaitable[object]]

_WRONG: Final = "forgotten-Heron-5"
# First messages of a few leads, at the cadence of one mailbox.
_FIRST_S: Final = 9.0
# Longer than a scheduler takes to see who is gone, or throttled (`reroute`, `throttle`).
_SEEN_S: Final = 20.0
# Leads of one mailbox at its cadence: a minute at the end.
_ROOM: Final = 10
_SPACINGS_S: Final = (0.02, 0.03)


class Acts:
    """Acts by failpoint (a topic's by the topic); `abandon` kills a sender at a failpoint."""

    def __init__(
        self,
        house: House,
        customer: Customer,
        faults: Faults,
        traffic: Traffic,
        rng: random.Random,
        abandon: Callable[[str], Awaitable[None]],
    ) -> None:
        self._house = house
        self._customer = customer
        self._faults = faults
        self._traffic = traffic
        self._rng = rng
        self._ledger = Ledger(house)
        self._going: set[Act] = set()

        def fault(name: str) -> Act:
            return lambda: faults.inject(name)

        def after(name: str) -> Act:
            return lambda: abandon(name)

        self._acts: Final[Mapping[str, Act]] = {
            "lead-enrolled": self._import,
            "lead-enrolled.": lambda: customer.publish(3),
            "gateway.before_import_commit": self._import,
            "gateway.after_import_commit": self._import,
            "workspace-changed": customer.change,
            "campaign-changed": customer.change,
            "gateway.after_change_commit": customer.change,
            "mailbox-changed": customer.change,
            "mailbox-probed": lambda: customer.test(FICKLE),
            "reply.after_cursor_placed": customer.connect_spare,
            "reply.mailboxes_taken": customer.connect_spare,
            "reply.after_reading_told": customer.connect_spare,
            "send-rejected": self._bounce,
            "bounced": self._bounce,
            "mailbox-health-changed": self._bounce,
            "bounce.before_hold_commit": self._cool,
            "replied": self._reply,
            "inbound-received": self._reply,
            "reply.before_inbound_commit": self._reply,
            "reply.after_inbound_commit": self._reply,
            "reply.after_cursor_moved": self._reply,
            "bounce.before_health_commit": self._measure,
            "bounce.after_health_commit": self._measure,
            "send-deferred": fault("provider_throttles"),
            "send-in-doubt": after("sender.after_mail_from"),
            "sender.after_abandoned": after("sender.after_mail_from"),
            "issue-raised": after("sender.after_mail_from"),
            "sender.doubts_taken": after("sender.after_mail_from"),
            "sender.after_look": after("sender.after_mail_from"),
            "sender.before_destroy": after("sender.after_claim"),
            "sender.after_destroy": after("sender.after_claim"),
            "sender.before_settle_commit": after("sender.after_claim"),
            "sender.after_settle": after("sender.after_claim"),
            "sender.draft_destroyed": fault("pause_campaign"),
            "sender.token_refreshed": self._expire_tokens,
            "sender.token_stored": self._expire_tokens,
            "reply.token_refreshed": self._expire_tokens,
            "reply.token_stored": self._expire_tokens,
            "gateway.before_suppress_commit": fault("suppress"),
            "gateway.after_suppress_commit": fault("suppress"),
            "gateway.before_suspend_commit": fault("suspend_mailbox"),
            "gateway.after_suspend_commit": fault("suspend_mailbox"),
            "gateway.after_resume_commit": fault("suspend_mailbox"),
            "gateway.oauth_link_used": self._come_and_go,
            "gateway.oauth_arrived": self._come_and_go,
            "gateway.oauth_exchanged": self._come_and_go,
            "gateway.oauth_held": self._come_and_go,
            "gateway.oauth_testing": self._come_and_go,
            "gateway.disconnect_held": self._come_and_go,
            "gateway.disconnect_revoked": self._come_and_go,
            "sender.grant_revoked": self._come_and_go,
            "reply.grant_revoked": self._come_and_go,
            "gateway.attachment_begun": customer.attach,
            "gateway.attachment_put": customer.attach,
            "gateway.attachment_deleted": customer.attach,
            "scheduler.after_suspensions_ended": fault("suspend_workspace"),
            "scheduler.after_epoch_commit": fault("flush_redis"),
            "scheduler.before_store_opened": fault("flush_redis"),
            "scheduler.after_leases_expired": self._leave_leases,
            "scheduler.after_unstuck": self._keep_away,
            "scheduler.after_sender_gone": self._keep_away,
            "scheduler.after_rechecks_taken": self._forget_password,
            "scheduler.before_recheck_commit": self._forget_password,
            "scheduler.after_throttled": self._forget_password,
            "reply.after_refusal_told": self._forget_password,
            "scheduler.after_spread": lambda: customer.shape(rng.choice(_SPACINGS_S)),
            "scheduler.after_holds_released": customer.enroll_twice,
            "scheduler.after_enrollments_stopped": self._short_campaign,
            "scheduler.after_first_jobs": self._short_campaign,
        }

        named = {_named(one.name) for one in failpoints.declared()}
        assert self._acts.keys() <= named, self._acts.keys() - named

    def of(self, service: str, point: str) -> Act | None:
        """Return what leads to a point of a service, None where the load does."""
        if point.startswith("subscribe.") and "quarantine" in point:
            return lambda: asyncio.to_thread(self._traffic.poison, service)
        return self._acts.get(_named(point))

    async def do(self, act: Act) -> None:
        """Do an act to its end, unless it goes on already.

        What meets an outage on the way is tried another time.
        """
        if act in self._going:
            return
        self._going.add(act)
        try:
            with suppress(
                Refused, NoSuchButton, httpx.HTTPError, psycopg.OperationalError, OSError
            ):
                await act()
        finally:
            self._going.discard(act)

    # ---- recipients and load

    async def _import(self) -> None:
        await self._customer.enroll(3)

    async def _bounce(self) -> None:
        await self._customer.enroll(3, kind="unknown")

    async def _reply(self) -> None:
        await self._customer.enroll(3, kind="reply")

    async def _measure(self) -> None:
        """Let mailboxes' health be due for another look, as a day that ends would."""
        await asyncio.to_thread(self._ledger.age_health)

    async def _cool(self) -> None:
        """Have a mailbox that cools down after one bounce write to nobody."""
        if await self._has_room():
            await self._customer.enroll_into("loyal", 2, "unknown")

    async def _has_room(self) -> bool:
        """Tell whether the one mailbox that is left alone so often can take more leads."""
        waiting = [
            await asyncio.to_thread(self._ledger.active, name) for name in ("loyal", "moving")
        ]
        return sum(waiting) < _ROOM

    # ---- mailboxes

    async def _keep_away(self) -> None:
        """Take a mailbox away whose leads wait for their second message from it."""
        if await self._has_room():
            await self._customer.enroll_into("loyal", 2, "loyal")
            await self._customer.enroll_into("moving", 3, "ordinary")
        await asyncio.sleep(_FIRST_S)
        await self._customer.hold(_SEEN_S, APART)

    async def _forget_password(self) -> None:
        """Let a mailbox's password be another one for a while: both legs fail their tests."""
        await self._customer.set_password(FICKLE, _WRONG)
        try:
            await self._customer.test(FICKLE)
            # Who is signed in notices nothing.
            await asyncio.to_thread(self._house.proxies.cut, "reply-imap")
            await asyncio.sleep(0.5)
            await asyncio.to_thread(self._house.proxies.heal)
            await asyncio.sleep(_SEEN_S)
        finally:
            await self._customer.set_password(FICKLE, PASSWORD)
        await self._customer.test(FICKLE)

    async def _come_and_go(self) -> None:
        """Connect an account by consent, in one trip or two, and disconnect it again."""
        box = self._customer.spare(self._rng.choice(("gmail", "graph")))
        separate = self._rng.random() < 0.5
        await asyncio.to_thread(self._customer.accounts_for, [box])
        await self._customer.connect_account(box, separate=separate)
        await self._customer.disconnect(box)

    async def _short_campaign(self) -> None:
        """Enroll into a campaign without steps, give it some, start it, stop it."""
        campaign, leads = await self._customer.draft_campaign(3)
        await self._arrived(campaign, leads)
        await self._customer.begin(campaign)
        await asyncio.sleep(2)
        await self._customer.stop(campaign)

    async def _arrived(self, campaign: str, count: int) -> None:
        for _ in range(40):
            if await asyncio.to_thread(self._ledger.enrolled, campaign) >= count:
                return
            await asyncio.sleep(0.5)

    async def _expire_tokens(self) -> None:
        """Have every access token at the providers run out."""
        for box in self._customer.diary.mailboxes:
            if box.kind != "smtp":
                await self._at_twin(box, {"do": "expire"})

    async def _at_twin(self, box: Mailbox, what: dict[str, Any]) -> None:
        twin = self._house.stack.twins[box.kind]  # type: ignore[index]
        await asyncio.to_thread(twin.control, "POST", f"mailboxes/{box.email}/tokens", what)

    # ---- processes

    async def _leave_leases(self) -> None:
        """Stop every sender for longer than a lease."""
        await self._faults.stop_all("sender", 4.0)


def _named(point: str) -> str:
    return point.partition(":")[2] or point
