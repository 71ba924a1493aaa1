"""The public API as a customer uses it: a key, JSON, cursors, problems (RFC 9457)."""

import asyncio
import time
from typing import Any, Final

import httpx

_TIMEOUT_S: Final = 60.0
# A service that is killed in mid-campaign is back within this.
_PATIENCE_S: Final = 40.0
_RETRY_EVERY_S: Final = 0.5
_PAGE: Final = 200


class ApiRefused(Exception):
    """The API answered with a problem; `problem` is its JSON."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        self.status = status
        self.problem = problem
        super().__init__(f"{status} {problem.get('code', '')}: {problem.get('detail', '')}")


class Api:
    """One workspace's API."""

    def __init__(self, url: str, key: str) -> None:
        self._http = httpx.AsyncClient(
            base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=_TIMEOUT_S
        )

    async def get(self, path: str, **params: str | int) -> Any:
        """Return the JSON at `path`; wait for a gateway that is away. Raise `ApiRefused`."""
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                answer = await self._http.get(path, params=params)
            except httpx.TransportError:
                if time.monotonic() >= deadline:
                    raise
            else:
                if answer.status_code < 500 or time.monotonic() >= deadline:
                    return _read(answer)
            await asyncio.sleep(_RETRY_EVERY_S)

    async def all(self, path: str, **params: str | int) -> list[dict[str, Any]]:
        """Return the items of every page of the list at `path`."""
        items: list[dict[str, Any]] = []
        cursor: dict[str, str | int] = {}
        while True:
            page = await self.get(path, limit=_PAGE, **params, **cursor)
            items += page["items"]
            if not page["next_cursor"]:
                return items
            cursor = {"cursor": page["next_cursor"]}

    async def post(self, path: str, body: object = None) -> Any:
        """POST JSON, return the JSON answered. Raise `ApiRefused`."""
        return _read(await self._http.post(path, json=body))

    async def upload(self, path: str, name: str, content: bytes) -> Any:
        """POST a CSV file as a form, return the JSON answered. Raise `ApiRefused`."""
        return _read(await self._http.post(path, files={"file": (name, content, "text/csv")}))

    async def delete(self, path: str) -> None:
        """DELETE. Raise `ApiRefused`."""
        _read(await self._http.delete(path))


def _read(answer: httpx.Response) -> Any:
    try:
        body = answer.json() if answer.content else None
    except ValueError:
        body = {"detail": answer.text[:300]}
    if answer.is_error:
        raise ApiRefused(answer.status_code, body if isinstance(body, dict) else {"detail": body})
    return body
