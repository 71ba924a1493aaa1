"""`paceline-admin` as an operator runs it: a process with the admin's own settings."""

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from typing import Any

_PATIENCE_S = 60.0


class AdminFailed(Exception):
    """`paceline-admin` ended with an error; the text is its last lines."""


class Admin:
    """Runs `paceline-admin` with `settings` (see `Stack.env`)."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        self._settings = settings

    async def __call__(self, *arguments: str) -> str:
        """Return what a command printed; raise `AdminFailed` otherwise."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "paceline_common.admin", *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, **self._settings},
        )  # fmt: skip
        try:
            out, err = await asyncio.wait_for(process.communicate(), _PATIENCE_S)
        except TimeoutError:
            process.kill()
            raise AdminFailed(f"{' '.join(arguments[:2])} did not end") from None
        if process.returncode:
            last = (out + err).decode(errors="replace").strip().splitlines()[-3:]
            raise AdminFailed(f"{' '.join(arguments[:2])}: {'; '.join(last)}")
        return out.decode()

    async def json(self, *arguments: str) -> Any:
        """Return what a command printed as JSON."""
        return json.loads(await self(*arguments, "--json"))
