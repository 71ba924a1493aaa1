"""What every twin has: a clock, faults, the truth, and the HTTP below `/control/` to reach them.

| call | does |
|---|---|
| GET `ready` | tells that it serves |
| POST, DELETE, GET `faults` | sets one (`wire.Fault`), ends all, counts what was done |
| POST `clock` `{"advance_s"}` | moves the twin's clock |
| GET `truth?after=0&raw=1` | the submissions from number `after` on, and the `next` number |
| GET `calls` | every operation that was asked for, in order |
| GET `relay` | how many letters still wait to be delivered |
| POST `tls` `{"name": "wrong"}`, GET `ca` | the certificate's name from now on; the authority |
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.twins import wire
from tests.twins.relay import Relay
from tests.twins.tls import ServerTls
from tests.twins.wire import Fault, Faults, Request, Response


@dataclass
class Machine(ABC):
    """The part that all twins share; see `wire.Application`."""

    offset: timedelta = timedelta()
    faults: Faults = field(default_factory=Faults)
    calls: list[str] = field(default_factory=list)
    late_answers: list[int] = field(default_factory=list)
    relay: Relay | None = None
    secure: ServerTls | None = None

    @property
    @abstractmethod
    def truth(self) -> Sequence[Any]:
        """Every message that was taken, in order."""

    def now(self) -> datetime:
        """Return the twin's time."""
        return datetime.now(UTC) + self.offset

    def advance(self, seconds: float) -> None:
        """Move the twin's clock."""
        self.offset += timedelta(seconds=seconds)

    def fail(self, operation: str, kind: wire.FaultKind, **more: Any) -> Fault:
        """Let the next requests of `operation` go wrong; see `wire.Fault`."""
        return self.faults.add(Fault(operation, kind, **more))

    # ---- what each twin has of its own

    @abstractmethod
    async def control(self, request: Request, content: dict[str, Any]) -> Response:
        """Do a control call of this twin's own; may raise KeyError, TypeError and ValueError."""

    @abstractmethod
    def told(self, one: Any, *, raw: bool) -> dict[str, Any]:
        """Return a submission as JSON, with its message or without."""

    # ---- over HTTP

    async def controlled(self, request: Request) -> Response:
        """Do a control call; one that makes no sense is answered 400."""
        try:
            content = json.loads(request.body) if request.body else {}
            return await self._controlled(request, content)
        except (KeyError, TypeError, ValueError) as error:
            return Response.of(400, {"error": f"{type(error).__name__}: {error}"})

    async def _controlled(self, request: Request, content: dict[str, Any]) -> Response:
        match request.method, request.path[1:]:
            case "GET", ("ready",):
                return Response.of(200, {"ready": True})
            case "POST", ("faults",):
                return Response.of(200, asdict(self.fail(**content)))
            case "DELETE", ("faults",):
                self.faults.clear()
                return Response.of(200, {})
            case "GET", ("faults",):
                waiting = [asdict(one) for one in self.faults.waiting]
                return Response.of(200, {"waiting": waiting, "done": self.faults.done})
            case "POST", ("clock",):
                self.advance(content["advance_s"])
                return Response.of(200, {"now": self.now().isoformat()})
            case "GET", ("truth",):
                after = int(request.query.get("after", 0))
                raw = request.query.get("raw", "1") == "1"
                found = self.truth[after:]
                shown = [self.told(one, raw=raw) for one in found]
                return Response.of(200, {"submissions": shown, "next": after + len(found)})
            case "GET", ("calls",):
                return Response.of(200, {"calls": self.calls})
            case "GET", ("relay",):
                return Response.of(200, {"waiting": self.relay.waiting if self.relay else 0})
            case "POST", ("tls",) if self.secure is not None:
                self.secure.name_is(right=content["name"] == "right")
                return Response.of(200, {})
            case "GET", ("ca",) if self.secure is not None:
                pem = self.secure.authority.pem()
                return Response(200, pem, {"Content-Type": "application/x-pem-file"})
            case _:
                return await self.control(request, content)
