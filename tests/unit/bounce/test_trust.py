"""Only a report that proves itself counts."""

from paceline_bounce.domain.trust import Sent, distrust

HASH = b"h" * 32
SENT = Sent(7, 8, 9, 1, mailbox_id=3, address_hash=HASH)


def test_a_report_on_our_message_in_its_mailbox_about_its_recipient_counts() -> None:
    assert distrust(SENT, received_in=3, recipient_hashes={HASH, b"x" * 32}) is None


def test_a_report_on_a_message_we_never_sent_does_not_count() -> None:
    assert distrust(None, received_in=3, recipient_hashes={HASH}) == "unknown_message"


def test_a_report_in_another_mailbox_does_not_count() -> None:
    assert distrust(SENT, received_in=4, recipient_hashes={HASH}) == "other_mailbox"


def test_a_report_about_somebody_else_does_not_count() -> None:
    assert distrust(SENT, received_in=3, recipient_hashes={b"x" * 32}) == "other_recipient"
    assert distrust(SENT, received_in=3, recipient_hashes=()) == "other_recipient"


def test_a_report_on_an_erased_lead_does_not_count() -> None:
    erased = Sent(7, None, None, None, mailbox_id=3, address_hash=None)

    assert distrust(erased, received_in=3, recipient_hashes={HASH}) == "other_recipient"
