"""Lists by cursor: stable under inserts, no page is counted or skipped."""

import base64
import binascii
from collections.abc import Sequence
from typing import Annotated, Generic, TypeVar

from fastapi import Query
from pydantic import BaseModel

from paceline_common.http import Problem
from paceline_gateway import problems

MAX_LIMIT = 200

T = TypeVar("T")

Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="How many at most.")]
Cursor = Annotated[
    str | None, Query(max_length=200, description="`next_cursor` of the page before.")
]


class Page(BaseModel, Generic[T]):
    """One page; `next_cursor` is null on the last."""

    items: list[T]
    next_cursor: str | None


def encode(*key: int) -> str:
    """Return the cursor that stands after the row with this key."""
    return base64.urlsafe_b64encode(".".join(map(str, key)).encode()).decode().rstrip("=")


def decode(cursor: str, parts: int) -> tuple[int, ...]:
    """Return the key behind a cursor; raise a problem when it is not one of ours."""
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii")
        key = tuple(int(part) for part in text.split("."))
    except (ValueError, binascii.Error):
        key = ()
    if len(key) != parts or not all(0 <= part < 1 << 63 for part in key):
        raise Problem(problems.CURSOR_INVALID)
    return key


def page(rows: Sequence[T], limit: int, keys: Sequence[tuple[int, ...]]) -> Page[T]:
    """Return a page of at most `limit`, made of `limit + 1` rows asked for; `keys` are theirs."""
    more = len(rows) > limit
    return Page(items=list(rows[:limit]), next_cursor=encode(*keys[limit - 1]) if more else None)
