"""The HTTP side that all services share: health, metrics, problem responses, service tokens.

Errors are RFC 9457 problem documents (`application/problem+json`) with a stable
`code`; `docs/errors.md` lists them. `/internal` routes take a service token
(RFC 6750 bearer).
"""

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import httpx
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from opentelemetry.trace import SpanKind
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BeforeValidator, SecretStr, WithJsonSchema
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from paceline_common import ids, telemetry
from paceline_common.kafka.quarantine import Fault, classify
from paceline_common.telemetry import Metrics

Check = Callable[[], Awaitable[object]]

_CHECK_S: Final = 2.0
_log = telemetry.logger("http")


@dataclass(frozen=True, slots=True)
class ProblemType:
    """One kind of error an API answers with.

    `code` is stable and snake_case, `title` says what it means and `remedy`
    what to do, each a sentence without a variable part.
    """

    code: str
    status: int
    title: str
    remedy: str


class Problem(Exception):
    """An answer that is not a success: raised in a route, sent as RFC 9457.

    `detail` is a sentence about this occurrence, by default the type's title;
    `extra` becomes further members of the document.
    """

    def __init__(
        self,
        kind: ProblemType,
        detail: str | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(kind.code)
        self.kind = kind
        self.detail = detail
        self.headers = headers
        self.extra = extra

    def response(self) -> JSONResponse:
        """Return the problem document."""
        return JSONResponse(
            {
                "type": f"urn:paceline:problem:{self.kind.code}",
                "title": self.kind.title,
                "status": self.kind.status,
                "code": self.kind.code,
                "detail": self.detail or self.kind.title,
                "remedy": self.kind.remedy,
                **self.extra,
            },
            status_code=self.kind.status,
            media_type="application/problem+json",
            headers=dict(self.headers) if self.headers else None,
        )


REQUEST_INVALID: Final = ProblemType(
    "request_invalid",
    422,
    "The request is not valid",
    "`errors` says for each field what is wrong.",
)
SERVICE_TOKEN_REQUIRED: Final = ProblemType(
    "service_token_required",
    401,
    "This route is for Paceline's own services",
    "Send the service's token as `Authorization: Bearer …`.",
)
DEPENDENCY_AWAY: Final = ProblemType(
    "dependency_away",
    503,
    "A part of Paceline is away",
    "Try again shortly; nothing was changed.",
)
INTERNAL_ERROR: Final = ProblemType(
    "internal_error",
    500,
    "Something went wrong on our side",
    "It has been logged; try again, and tell whoever runs this installation if it stays.",
)


class Readiness:
    """The named checks behind `/readyz`; all must pass, and the process must not be stopping."""

    def __init__(self, metrics: Metrics) -> None:
        self._checks: dict[str, Check] = {}
        self._gauge = metrics.gauge("paceline_ready")
        self.stopping = False

    def add(self, name: str, check: Check) -> None:
        """Add a check: it fails by raising, or by returning False."""
        self._checks[name] = check

    async def results(self) -> dict[str, bool]:
        """Run all checks at once, each for at most two seconds."""
        passed = await asyncio.gather(
            *(self._run(name, check) for name, check in self._checks.items())
        )
        results = {**dict(zip(self._checks, passed, strict=True)), "accepting": not self.stopping}
        for name, ok in results.items():
            self._gauge.labels(name).set(ok)
        return results

    async def _run(self, name: str, check: Check) -> bool:
        try:
            async with asyncio.timeout(_CHECK_S):
                return await check() is not False
        except Exception as error:  # noqa: BLE001 - whatever a check raises, it has not passed
            _log.warning("readiness check failed", name=name, **telemetry.describe_error(error))
            return False


def create_app(service: str, metrics: Metrics, readiness: Readiness) -> FastAPI:
    """Return the application every service starts from."""
    app = FastAPI(title=f"Paceline {service}", openapi_url="/openapi.json")
    app.add_middleware(_Observed, metrics=metrics)
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)

    @app.get("/livez", include_in_schema=False)
    async def livez() -> dict[str, bool]:
        return {"alive": True}

    @app.get("/readyz", include_in_schema=False)
    async def readyz() -> JSONResponse:
        checks = await readiness.results()
        ready = all(checks.values())
        return JSONResponse({"ready": ready, "checks": checks}, 200 if ready else 503)

    @app.get("/metrics", include_in_schema=False)
    async def metrics_page() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return app


def public_id(kind: ids.Kind) -> tuple[BeforeValidator, WithJsonSchema]:
    """Return what annotates an `int` that requests carry as a public id: `Annotated[int, *…]`."""

    def decoded(text: object) -> int:
        if not isinstance(text, str):
            raise ValueError(f"not a {kind}_ id")
        return ids.decode(kind, text)

    return (
        BeforeValidator(decoded),
        WithJsonSchema({"type": "string", "pattern": f"^{kind}_[0-9a-f]{{16}}$"}),
    )


def require_token(expected: SecretStr) -> Callable[[Request], Awaitable[None]]:
    """Return a dependency that admits only requests with this bearer token."""

    async def admit(request: Request) -> None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        right = expected.get_secret_value().encode()
        if scheme.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), right):
            raise Problem(SERVICE_TOKEN_REQUIRED, headers={"WWW-Authenticate": "Bearer"})

    return admit


def internal_client(
    base_url: str, token: SecretStr, *, timeout_s: float = 30.0
) -> httpx.AsyncClient:
    """Return a client for another service's `/internal`, with token and trace context."""

    async def carry_trace(request: httpx.Request) -> None:
        if (traceparent := telemetry.current_traceparent()) is not None:
            request.headers["traceparent"] = traceparent

    return httpx.AsyncClient(
        base_url=base_url,
        headers={"Authorization": f"Bearer {token.get_secret_value()}"},
        timeout=timeout_s,
        event_hooks={"request": [carry_trace]},
    )


async def _problem(_request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return error.response()


async def _invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    # Where and why, never the value: it may be a password.
    errors = [
        {"at": "/".join(map(str, one["loc"])), "why": one["msg"], "kind": one["type"]}
        for one in error.errors()
    ]
    return Problem(REQUEST_INVALID, errors=errors).response()


async def _http_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    kind = ProblemType(status.name.lower(), status, status.phrase, status.description)
    return Problem(kind, str(error.detail), headers=error.headers).response()


def _unexpected(error: Exception) -> Response:
    if classify(error) is Fault.DEPENDENCY:
        _log.warning("request lost a dependency", **telemetry.describe_error(error))
        return Problem(DEPENDENCY_AWAY, headers={"Retry-After": "5"}).response()
    _log.error("request failed", **telemetry.describe_error(error))
    return Problem(INTERNAL_ERROR).response()


class _Observed:
    """Measures each request by its route template and continues the caller's trace.

    It also answers for errors that nothing else handled: Starlette's own
    handler raises them again afterwards, and the server cuts the connection.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._seconds = metrics.histogram("paceline_http_request_seconds")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _UNOBSERVED:
            await self._app(scope, receive, send)
            return
        status = 0
        started = time.perf_counter()

        async def observe(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        headers = dict(scope["headers"])
        traceparent = headers.get(b"traceparent", b"").decode("latin-1") or None
        try:
            with telemetry.span(
                f"HTTP {scope['method']}", kind=SpanKind.SERVER, traceparent=traceparent
            ) as span:
                try:
                    await self._app(scope, receive, observe)
                except Exception as error:
                    if status:
                        raise
                    await _unexpected(error)(scope, receive, observe)
                route = _route(scope)
                span.set_attribute("http.route", route)
                span.set_attribute("http.response.status_code", status)
        finally:
            self._seconds.labels(scope["method"], _route(scope), str(status)).observe(
                time.perf_counter() - started
            )


_UNOBSERVED: Final = frozenset({"/livez", "/readyz", "/metrics"})


def _route(scope: Scope) -> str:
    # The template, not the path: paths hold ids and tokens.
    return getattr(scope.get("route"), "path", "unmatched")
