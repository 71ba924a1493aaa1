"""Multipart forms, read no further than a limit."""

from collections.abc import AsyncGenerator
from typing import Final

from fastapi import Request
from starlette.datastructures import FormData
from starlette.formparsers import MultiPartException, MultiPartParser

from paceline_common.http import Problem
from paceline_gateway import problems

# Bytes that boundaries and other parts may take beside the file.
AROUND: Final = 64 * 1024


async def read_form(request: Request, limit: int, too_large: Problem) -> FormData:
    """Return the request's form; raise `too_large` past `limit` bytes. The caller closes it."""

    async def limited() -> AsyncGenerator[bytes, None]:
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit + AROUND:
                raise too_large
            yield chunk

    try:
        return await MultiPartParser(request.headers, limited()).parse()
    except MultiPartException as error:
        raise Problem(
            problems.REQUEST_INVALID,
            error.message,
            errors=[{"at": "body", "why": error.message, "kind": "multipart"}],
        ) from error
