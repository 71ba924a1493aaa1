"""What reading has in common, whatever is read: a place, what came behind it, a wait.

A place is JSON that only its source understands; it is stored with the effect of what was
read up to it. Every message may be given again: whoever takes them counts each once.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

# Enough for the headers and text of any answer and for a whole report on our own
# messages; the rest of a large message is attachments.
FETCH_BYTES: Final = 1_048_576

Place = Mapping[str, Any]

Known = Callable[[Collection[str]], Awaitable[Collection[str]]]
"""Returns those of some provider's ids whose messages need not be fetched again."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A message: its first `FETCH_BYTES` bytes, when it was received (aware), its full size.

    `provider_id` and `thread_id` are an API's names of message and conversation.
    """

    received_at: datetime
    raw: bytes
    size: int
    provider_id: str | None = None
    thread_id: str | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """The place behind everything given so far, `message` included; some steps are without one."""

    place: Place
    message: Fetched | None = None


class SourceError(Exception):
    """The mailbox cannot be read now.

    `code` is one of `connect_refused`, `connect_timeout`, `connection_lost`, `tls_failed`,
    `protocol_error`, `throttled`, `APP_REFUSED`, a host rule's, or one of `REFUSALS`;
    `message` holds the server's or the system's exact words, `retry_after` the server's wish.
    """

    def __init__(self, code: str, message: str, retry_after: timedelta | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.message = message
        self.retry_after = retry_after


# The provider refuses the OAuth app: its operator mends that, for all its mailboxes.
APP_REFUSED: Final = "app_refused"
# Only a new credential or a person mends these.
REFUSALS: Final = frozenset({"auth_failed", "grant_revoked", "credential_unreadable"})


class PlaceLost(Exception):
    """The provider no longer knows what came behind this place: begin anew."""


class Source(Protocol):
    """One mailbox, read. Not for two tasks at once.

    Every method but `close` may raise `SourceError`, after which only `close` makes sense.
    """

    async def open(self) -> None:
        """Connect and sign in."""
        ...

    async def begin(self, since: datetime) -> Place:
        """Return a place behind which is everything received since `since` (aware), or more."""
        ...

    def read(self, place: Place, known: Known) -> AsyncIterator[Step]:
        """Give what came behind `place`, up to `open` or the last `wait`; raises `PlaceLost`.

        Messages that were deleted meanwhile, and `known` ones, are passed over.
        """
        ...

    async def wait(self) -> None:
        """Return when it is worth reading again."""
        ...

    async def close(self) -> None:
        """Drop the connection; never raises."""
        ...
