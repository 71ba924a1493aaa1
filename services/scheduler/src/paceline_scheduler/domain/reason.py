"""Every reason that pacing gives, by its stable code: what it means and what to do."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from paceline_scheduler.domain.hold import Hold

_DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Reason:
    """`code` never changes its meaning; `meaning` and `remedy` are sentences for people."""

    code: str
    meaning: str
    remedy: str


_WAIT: Final = "Nothing: it goes on by itself."

SECTIONS: Final[tuple[tuple[str, tuple[Reason, ...]], ...]] = (
    (
        "The mailbox's calendar",
        (
            Reason(
                "outside_window",
                "It is outside the mailbox's sending hours.",
                "Wait for the next opening, or widen `windows` of the mailbox.",
            ),
            Reason(
                "holiday",
                "The local date is a public holiday of the mailbox's country or region.",
                "Wait for the next working day, or set `holidays` to false for the mailbox.",
            ),
            Reason(
                "blackout",
                "The local date is one of the mailbox's own blackout dates.",
                "Wait until it is over, or take the date out of `blackouts`.",
            ),
            Reason(
                "window_never_opens",
                "The sending hours, less holidays and blackouts, leave no open time at all.",
                "Give the mailbox `windows` with open hours, or fewer blackouts.",
            ),
            Reason(
                "day_ends",
                "The mailbox's local day is over; the counts of the day start anew.",
                _WAIT,
            ),
            Reason(
                "hour_ends", "The hour is over; the count of the hourly cap starts anew.", _WAIT
            ),
        ),
    ),
    (
        "The mailbox's caps",
        (
            Reason(
                "daily_cap",
                "The mailbox has sent as much today as its own daily cap allows.",
                "Wait for its local midnight, raise `daily_cap`, or add mailboxes to the pool.",
            ),
            Reason(
                "daily_cap_zero",
                "The mailbox's daily cap is 0: it never sends.",
                "Raise `daily_cap`, or take the mailbox out of the pool.",
            ),
            Reason(
                "ramp_cap",
                "The mailbox has sent as much today as its ramp allows on this day.",
                "Wait for its local midnight: tomorrow's cap is higher. Or choose another `ramp`.",
            ),
            Reason(
                "probation_cap",
                "The mailbox's health is not known yet, so it is held to its first day's cap.",
                "Wait until it has sent enough to be judged, or switch `health_floor` off.",
            ),
            Reason(
                "throttled_cap",
                "The mailbox is throttled to half its daily cap: its provider limited it, or "
                "mail sent outside Paceline used its ceiling up.",
                "See its issue; the throttle ends by itself when the cause does.",
            ),
            Reason(
                "hourly_cap",
                "The mailbox has sent as much this hour as its hourly cap allows.",
                "Wait for the next full hour, or raise `hourly_cap`.",
            ),
            Reason(
                "provider_ceiling",
                "The provider account has sent as much in the last 24 hours as the provider (or "
                "`ceiling_24h`) allows, everything sent through it counted.",
                "Wait until the oldest of it is a day old; no setting exceeds a provider's "
                "ceiling. More accounts send more.",
            ),
            Reason(
                "domain_budget",
                "The sending domain has used its budget for today.",
                "Wait for the next day, raise the domain's budget, or send from another domain.",
            ),
        ),
    ),
    (
        "The mailbox's pace",
        (
            Reason(
                "cadence",
                "The distance to the mailbox's last message is not reached yet.",
                "Nothing: it is the next one's turn in a moment. More mailboxes send more.",
            ),
            Reason(
                "outstanding",
                "The mailbox has as many messages on their way as it may.",
                "Nothing: it goes on as soon as one is sent.",
            ),
            Reason("open", "The mailbox may send now.", "Nothing."),
        ),
    ),
    (
        "Mailbox and campaign do not go together",
        (
            Reason(
                "type_restricted",
                "The mailbox may not send campaigns of this type.",
                "Add the type to its `campaign_types`, or give the campaign another pool.",
            ),
            Reason(
                "stage_below",
                "The mailbox's stage is lower than campaigns of this type ask for.",
                "Let it warm up, or attest that it is in use already (`attested`); a stage that "
                "fell rises again when its rates have recovered.",
            ),
            Reason(
                "health_below_floor",
                "The mailbox's health is below what the campaign asks for.",
                "See the mailbox's health for the cause; it serves again when it has recovered, "
                "or when the campaign's `min_health` is lower.",
            ),
            Reason(
                "esp_mismatch",
                "No mailbox hosted where the recipient is can serve, and the campaign insists.",
                "Add such a mailbox, or set the campaign's `esp_match` to `prefer` or `off`.",
            ),
        ),
    ),
    (
        "The recipient",
        (
            Reason(
                "recipient_spacing",
                "The last message to the recipient's domain was too short a time ago.",
                "Wait, or change the shaping rule for the domain.",
            ),
            Reason(
                "recipient_daily_max",
                "The recipient's domain has got as many messages today as the rules allow.",
                "Wait for the next day, or change the shaping rule for the domain.",
            ),
            Reason(
                "lead_in_other_campaign",
                "The lead is active in another campaign.",
                "Wait until that one ends, stop it for the lead, or allow parallel campaigns.",
            ),
            Reason(
                "min_days_between",
                "The lead was contacted by another campaign too few days ago.",
                "Wait, or lower `min_days_between` of the workspace.",
            ),
        ),
    ),
    (
        "Suspended",
        (
            Reason(
                "campaign_not_started",
                "The campaign has not been started, or its start lies ahead.",
                "Start it.",
            ),
            Reason("campaign_paused", "The campaign is paused.", "Resume it."),
            Reason("campaign_stopped", "The campaign was stopped for good.", "Start a new one."),
            Reason(
                "workspace_suspended",
                "The whole workspace is suspended.",
                "Ask the operator named in the suspension.",
            ),
            Reason(
                "campaign_suspended",
                "The campaign is suspended.",
                "See the suspension for who did it and why; resume it there.",
            ),
            Reason(
                "pool_suspended",
                "The pool is suspended.",
                "Resume it, or give the campaign another pool.",
            ),
            Reason(
                "mailbox_suspended",
                "The mailbox is suspended.",
                "See the suspension for who did it and why; resume it there.",
            ),
            Reason(
                "domain_suspended",
                "The sending domain is suspended, and with it all its mailboxes.",
                "See the domain's health for the cause, mend it, then resume the domain.",
            ),
            Reason(
                "enrollment_suspended",
                "This enrollment is suspended.",
                "See the suspension for the reason; resume it there.",
            ),
            Reason(
                "mailbox_inactive",
                "The mailbox is deactivated, or its connection was never proven.",
                "Activate it, or connect it again.",
            ),
            Reason(
                "cooldown",
                "The mailbox rests after bounces or a complaint.",
                "Wait until the clock has run out, and see to the list it was sent.",
            ),
            Reason(
                "node_failed",
                "The mailbox or node failed; it is tried again by itself for a while.",
                "Mend what the issue quotes; then resume it, or wait for the next try.",
            ),
            Reason(
                "grant_revoked",
                "The provider no longer accepts the mailbox's credentials or consent.",
                "Connect the mailbox again.",
            ),
            Reason(
                "app_refused",
                "The provider refuses the OAuth app that the mailbox was connected through.",
                "Set the app's client secret again; no mailbox has to be reconnected.",
            ),
            Reason(
                "app_limited",
                "The provider limits the OAuth app that the mailbox was connected through as a "
                "whole: all its mailboxes wait.",
                "Wait until the time it named; ask the provider for a higher quota, or connect "
                "mailboxes through another app.",
            ),
        ),
    ),
    (
        "Nobody to send it",
        (
            Reason("no_steps", "The campaign has no step to send.", "Add a step."),
            Reason(
                "no_mailbox",
                "None of the campaign's pools has a mailbox that may ever serve it.",
                "Add mailboxes to its pools; see their own reasons.",
            ),
            Reason(
                "waiting_for_sender",
                "The mailbox that sent the first message is gone, and the campaign waits for it.",
                "Bring it back, or set the campaign's `stickiness` to `reassign`.",
            ),
        ),
    ),
    (
        "On its way",
        (
            Reason("waiting_for_due", "The message is not due yet.", _WAIT),
            Reason(
                "waiting_for_retry",
                "The recipient's server refused it for now; it is tried again later.",
                _WAIT,
            ),
            Reason(
                "waiting_in_queue",
                "Others of the campaign are before it.",
                "Nothing; more mailboxes would be faster.",
            ),
            Reason("slot_reserved", "It has its mailbox and its instant.", _WAIT),
            Reason("sending", "It is being handed over.", _WAIT),
            Reason(
                "in_doubt",
                "It was handed over, and whether the server took it is not known; it is not sent "
                "again without proof.",
                "Wait for the proof, or settle it by name.",
            ),
            Reason("outcome_recorded", "What became of it is recorded.", _WAIT),
        ),
    ),
    (
        "Over",
        (
            Reason("sent", "The message was accepted.", "Nothing."),
            Reason("finished", "All steps were sent.", "Nothing."),
            Reason("replied", "The lead replied.", "Answer."),
            Reason("bounced", "The message bounced.", "See the bounce for the cause."),
            Reason("unsubscribed", "The lead unsubscribed.", "Nothing: leave them alone."),
            Reason(
                "suppressed",
                "The address is suppressed and is not contacted.",
                "See the suppression for the reason; lifting it is a person's decision.",
            ),
            Reason("stopped", "The enrollment was stopped.", "Enroll the lead again if it shall."),
            Reason(
                "failed",
                "The message could not be built or sent.",
                "See the job's reason, mend it, and enroll the lead again.",
            ),
        ),
    ),
)

REASONS: Final[Mapping[str, Reason]] = {one.code: one for _, section in SECTIONS for one in section}


def sentence(hold: Hold, zone: ZoneInfo, now: datetime | None = None) -> str:
    """Return a hold in words: "daily cap 120 of 120 until 00:00 Europe/Paris".

    Instants are told in `zone`; with `now`, one more than a day away has its date.
    """
    parts = [hold.reason.replace("_", " ")]
    if hold.limit is not None:
        parts.append(f"{hold.used or 0} of {hold.limit}")
    if hold.until is not None:
        is_far = now is not None and hold.until - now >= _DAY
        until = hold.until.astimezone(zone)
        parts.append(f"until {until:%a %-d %b %Y %H:%M}" if is_far else f"until {until:%H:%M}")
        parts.append(zone.key)
    return " ".join(parts)
