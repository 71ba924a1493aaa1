"""Every reason has a sentence, and a hold can be told in words."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from paceline_scheduler import docs
from paceline_scheduler.domain.hold import Hold
from paceline_scheduler.domain.reason import REASONS, SECTIONS, sentence

PARIS = ZoneInfo("Europe/Paris")
MIDNIGHT = datetime(2026, 11, 20, 23, tzinfo=UTC)

# The codes are public: one taken away or renamed breaks whoever reads them.
STABLE = """
outside_window holiday blackout window_never_opens daily_cap ramp_cap probation_cap throttled_cap
hourly_cap provider_ceiling domain_budget daily_cap_zero cadence outstanding type_restricted
stage_below health_below_floor esp_mismatch recipient_spacing recipient_daily_max
lead_in_other_campaign min_days_between campaign_not_started campaign_paused campaign_stopped
workspace_suspended campaign_suspended pool_suspended mailbox_suspended domain_suspended
enrollment_suspended mailbox_inactive cooldown node_failed grant_revoked no_steps no_mailbox
waiting_for_due waiting_for_retry waiting_in_queue waiting_for_sender slot_reserved sending
in_doubt outcome_recorded sent finished replied bounced unsubscribed suppressed stopped failed
day_ends hour_ends open
"""


def test_every_stable_code_is_there_once() -> None:
    codes = [one.code for _, section in SECTIONS for one in section]
    assert len(codes) == len(set(codes))
    assert set(STABLE.split()) <= REASONS.keys()


@pytest.mark.parametrize("code", sorted(REASONS))
def test_reason_is_told_in_sentences(code: str) -> None:
    reason = REASONS[code]
    assert reason.code == code
    for text in (reason.meaning, reason.remedy):
        assert text[0].isupper()
        assert text.endswith(".")
        assert "|" not in text, "it stands in a table"
    assert f"| `{code}` | {reason.meaning} | {reason.remedy} |" in docs.documents()["reasons.md"]


@pytest.mark.parametrize(
    ("hold", "now", "words"),
    [
        (
            Hold("daily_cap", MIDNIGHT, 120, 120),
            None,
            "daily cap 120 of 120 until 00:00 Europe/Paris",
        ),
        (
            Hold("outside_window", datetime(2026, 11, 23, 8, tzinfo=UTC)),
            datetime(2026, 11, 20, 17, tzinfo=UTC),
            "outside window until Mon 23 Nov 2026 09:00 Europe/Paris",
        ),
        (
            Hold("hourly_cap", MIDNIGHT, 9, 9),
            datetime(2026, 11, 20, 22, 20, tzinfo=UTC),
            "hourly cap 9 of 9 until 00:00 Europe/Paris",
        ),
        (Hold("stage_below", None, 2, 3), None, "stage below 2 of 3"),
        (Hold("window_never_opens", None), None, "window never opens"),
    ],
)
def test_hold_in_words(hold: Hold, now: datetime | None, words: str) -> None:
    assert sentence(hold, PARIS, now) == words
