"""Uploaded files, as the body or as the part `file` of a multipart form (RFC 7578)."""

import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import IO, Any, Final

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from paceline_common.http import Problem
from paceline_gateway import problems

_SPOOL_BYTES: Final = 1024 * 1024
# Bytes that boundaries and other parts may take beside the file.
_AROUND: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Uploaded:
    """A file, read from its beginning, with what its part says of it, and the form's texts."""

    file: IO[bytes]
    filename: str | None
    content_type: str | None
    texts: Mapping[str, str] = field(default_factory=dict)


def request_body(content_type: str, **texts: str) -> dict[str, Any]:
    """Return the OpenAPI of such a request: the body's type, and the form's texts described."""
    binary = {"type": "string", "format": "binary"}
    parts = {name: {"type": "string", "description": said} for name, said in texts.items()}
    form = {"type": "object", "required": ["file"], "properties": {"file": binary, **parts}}
    return {
        "requestBody": {
            "required": True,
            "content": {
                content_type: {"schema": binary},
                "multipart/form-data": {"schema": form},
            },
        }
    }


@asynccontextmanager
async def uploaded(request: Request, limit: int, too_large: Problem) -> AsyncIterator[Uploaded]:
    """Yield the request's file, which is gone afterwards.

    Raises `too_large` as soon as it is known to have more than `limit` bytes,
    and `request_invalid` for a form that cannot be read or has no file.
    """
    given = request.headers.get("content-type", "")
    is_form = given.startswith("multipart/form-data")
    most = limit + is_form * _AROUND
    if int(request.headers.get("content-length") or 0) > most:
        raise too_large
    chunks = _limited(request, most, too_large)
    if not is_form:
        # In memory while it is small.
        with tempfile.SpooledTemporaryFile(_SPOOL_BYTES) as spool:
            async for chunk in chunks:
                spool.write(chunk)
            spool.seek(0)
            yield Uploaded(spool, None, given)
        return
    try:
        form = await MultiPartParser(request.headers, chunks).parse()
    except MultiPartException as error:
        raise _invalid(error.message, "body", "multipart") from error
    try:
        part = form.get("file")
        if not isinstance(part, UploadFile):
            raise _invalid("the form has no part called file", "body/file", "missing")
        if part.size is not None and part.size > limit:
            raise too_large
        texts = {name: text for name, text in form.items() if isinstance(text, str)}
        yield Uploaded(part.file, part.filename, part.content_type, texts)
    finally:
        await form.close()


async def _limited(request: Request, most: int, too_large: Problem) -> AsyncGenerator[bytes, None]:
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > most:
            raise too_large
        yield chunk


def _invalid(detail: str, at: str, kind: str) -> Problem:
    return Problem(
        problems.REQUEST_INVALID, detail, errors=[{"at": at, "why": detail, "kind": kind}]
    )
