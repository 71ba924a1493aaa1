"""Whether a report may count. Anyone can write one, so it has to prove itself.

It counts only when it returns a message that we sent, arrives in the mailbox
that sent it, and speaks of the address it was sent to.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

Distrust = Literal["unknown_message", "other_mailbox", "other_recipient"]


@dataclass(frozen=True, slots=True)
class Sent:
    """A message of ours. `address_hash` is the keyed hash of its recipient, None if erased."""

    job_id: int
    enrollment_id: int | None
    campaign_id: int | None
    step: int | None
    mailbox_id: int
    address_hash: bytes | None


def distrust(
    sent: Sent | None, *, received_in: int, recipient_hashes: Collection[bytes]
) -> Distrust | None:
    """Return why a report does not count, None when it does.

    sent: the message it refers to, by a verified token or its Message-ID;
    received_in: the mailbox it arrived in; recipient_hashes: of the addresses it names.
    """
    if sent is None:
        return "unknown_message"
    if sent.mailbox_id != received_in:
        return "other_mailbox"
    if sent.address_hash is None or sent.address_hash not in recipient_hashes:
        return "other_recipient"
    return None
