"""The key-service twin: the subset of Vault's HTTP API that Paceline uses, in memory.

For development and tests only: keys live in this process, unprotected, and die
with it unless somebody keeps its `state`. Paths, status codes and error bodies are
Vault's; one conformance suite (`tests/conformance/keys`) holds both to the same answers.
"""

import json
import re
import secrets
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from tests.twins.vault import acl
from tests.twins.vault.state import Role, Secret, State
from tests.twins.vault.transit import Body, Refused, Transit

VERSION = "1.21.2+twin"

_DENIED = Refused(403, "permission denied")
_BAD_TOKEN = Refused(403, "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n")
_NO_AUTH = frozenset({"auth/approle/login", "sys/health", "sys/seal-status"})
_SUDO = re.compile(r"sys/(auth/.+|seal)")


@dataclass
class Token:
    """A token; one without `ttl_s` never expires."""

    id: str
    policies: tuple[str, ...]
    ttl_s: float = 0
    max_ttl_s: float = 0
    created_at: float = field(default_factory=time.monotonic)
    expires_at: float = float("inf")

    def renew(self) -> None:
        """Let the token live `ttl_s` longer, but never past its maximal age."""
        limit = self.created_at + (self.max_ttl_s or float("inf"))
        self.expires_at = min(time.monotonic() + self.ttl_s, limit)

    def auth(self) -> dict[str, Any]:
        """Return the `auth` block of a login or a renewal."""
        return {
            "client_token": self.id,
            "accessor": secrets.token_hex(12),
            "policies": list(self.policies),
            "token_policies": list(self.policies),
            "metadata": {},
            "lease_duration": round(self.expires_at - time.monotonic()) if self.ttl_s else 0,
            "renewable": bool(self.ttl_s),
            "entity_id": "",
            "token_type": "service",
            "orphan": True,
        }


@dataclass(frozen=True)
class Call:
    """One request below `/v1/`."""

    path: str
    operation: str
    body: Body
    token: Token | None


@dataclass(frozen=True)
class Answer:
    """What a handler gives back: `data` or `auth` within Vault's envelope, or a bare body."""

    status: int = 200
    data: dict[str, Any] | None = None
    auth: dict[str, Any] | None = None
    warnings: list[str] | None = None
    bare: dict[str, Any] | None = None

    def rendered(self) -> dict[str, Any] | None:
        """Return the JSON body, None for 204."""
        if self.bare is not None or self.status == 204:
            return self.bare
        return {
            "request_id": str(uuid.uuid4()),
            "lease_id": "",
            "renewable": False,
            "lease_duration": 0,
            "data": self.data,
            "wrap_info": None,
            "warnings": self.warnings or None,
            "auth": self.auth,
        }


_NOTHING = Answer(204)
Handler = Callable[..., Answer]


class KeyTwin:
    """The whole `state`, and `answer`, which serves one request."""

    def __init__(self, root_token: str, state: State | None = None) -> None:
        self.state = state or State()
        self._tokens = {root_token: Token(root_token, ("root",))}
        self._rules = {name: acl.parse(text) for name, text in self.state.policies.items()}
        self._roles = self.state.roles
        self._secrets = self.state.secrets
        self._mounts = self.state.mounts
        self._auths = self.state.auths
        self._transit = Transit(self.state.keys)
        self._sealed = False
        self._routes: list[tuple[str, re.Pattern[str], Handler]] = [
            (operation, re.compile(pattern), handler)
            for pattern, operations in self._table().items()
            for operation, handler in operations.items()
        ]

    def answer(self, method: str, path: str, body: Body, token_id: str | None) -> Answer:
        """Serve one request; raise `Refused` for everything that Vault refuses."""
        path = path.strip("/")
        if path in ("sys/health", "sys/seal-status"):
            return self._health(path)
        if self._sealed:
            raise Refused(503, "Vault is sealed")
        operation = {
            "GET": "read", "POST": "update", "PUT": "update", "DELETE": "delete", "LIST": "list",
        }.get(method)  # fmt: skip
        if operation is None:
            raise Refused(405)
        token = self._authenticated(path, token_id)
        if token is not None:
            self._authorize(token, path, operation)
        call = Call(path, operation, body, token)
        known = False
        for wanted, pattern, handler in self._routes:
            if match := pattern.fullmatch(path):
                known = True
                if wanted == operation:
                    return handler(call, **match.groupdict())
        if known:
            raise Refused(405, "1 error occurred:\n\t* unsupported operation\n\n")
        raise Refused(404, f'no handler for route "{path}". route entry not found.')

    def _authenticated(self, path: str, token_id: str | None) -> Token | None:
        if path in _NO_AUTH:
            return None
        if not token_id:
            raise _DENIED
        token = self._tokens.get(token_id)
        if token is None or token.expires_at <= time.monotonic():
            self._tokens.pop(token_id, None)
            raise _BAD_TOKEN
        return token

    def _authorize(self, token: Token, path: str, operation: str) -> None:
        if "root" in token.policies:
            return
        rules = [self._rules[name] for name in token.policies if name in self._rules]
        allowed = acl.capabilities([acl.DEFAULT_POLICY, *rules], path)
        if operation == "update" and self._is_new(path):
            operation = "create"
        if operation not in allowed or (_SUDO.fullmatch(path) and "sudo" not in allowed):
            raise _DENIED

    def _is_new(self, path: str) -> bool:
        """Tell whether writing creates, for the paths where Vault asks that (else it updates)."""
        if match := re.fullmatch(r"transit/encrypt/([^/]+)", path):
            return match[1] not in self._transit.keys
        if match := re.fullmatch(r"secret/data/(.+)", path):
            return match[1] not in self._secrets
        if match := re.fullmatch(r"auth/approle/role/([^/]+)", path):
            return match[1] not in self._roles
        return False

    def _table(self) -> dict[str, dict[str, Handler]]:
        name = r"(?P<name>[A-Za-z0-9][\w.-]*)"
        return {
            r"sys/seal": {"update": self._seal},
            rf"sys/(policies/acl|policy)/{name}": {
                "read": self._read_policy,
                "update": self._write_policy,
                "delete": self._delete_policy,
            },
            r"sys/policies/acl": {
                "list": lambda _: Answer(data={"keys": sorted(["root", "default", *self._rules])})
            },
            r"sys/mounts": {"read": lambda _: _listing(self._mounts)},
            r"sys/auth": {"read": lambda _: _listing(self._auths)},
            r"sys/mounts/(?P<path>.+)": {"update": self._mount},
            r"sys/auth/(?P<path>.+)": {"update": self._enable_auth},
            r"auth/token/lookup-self": {"read": self._lookup, "update": self._lookup},
            r"auth/token/renew-self": {"update": self._renew},
            r"auth/token/revoke-self": {"update": self._revoke},
            r"auth/approle/login": {"update": self._login},
            rf"auth/approle/role/{name}": {
                "update": self._write_role,
                "read": self._read_role,
                "delete": self._delete_role,
            },
            rf"auth/approle/role/{name}/role-id": {
                "read": self._read_role_id,
                "update": self._write_role_id,
            },
            rf"auth/approle/role/{name}/secret-id": {"update": self._new_secret_id},
            r"transit/keys": {"list": self._list_keys},
            rf"transit/keys/{name}": {
                "update": self._create_key,
                "read": lambda _, name: Answer(data=self._transit.read(name)),
                "delete": self._delete_key,
            },
            rf"transit/keys/{name}/config": {
                "update": lambda call, name: Answer(data=self._transit.configure(name, call.body))
            },
            rf"transit/keys/{name}/rotate": {
                "update": lambda _, name: Answer(data=self._transit.rotate(name))
            },
            rf"transit/encrypt/{name}": {
                "update": lambda call, name: _of(self._transit.encrypt(name, call.body))
            },
            rf"transit/decrypt/{name}": {
                "update": lambda call, name: _of(self._transit.decrypt(name, call.body))
            },
            rf"transit/rewrap/{name}": {
                "update": lambda call, name: _of(self._transit.rewrap(name, call.body))
            },
            rf"transit/datakey/(?P<form>[^/]+)/{name}": {
                "update": lambda call, form, name: Answer(
                    data=self._transit.datakey(form, name, call.body)
                )
            },
            rf"transit/hmac/{name}(/(?P<algorithm>[^/]+))?": {
                "update": lambda call, name, algorithm: _of(
                    self._transit.hmac(name, call.body, algorithm)
                )
            },
            rf"transit/verify/{name}(/(?P<algorithm>[^/]+))?": {
                "update": lambda call, name, algorithm: _of(
                    self._transit.verify(name, call.body, algorithm)
                )
            },
            rf"transit/sign/{name}(/(?P<algorithm>[^/]+))?": {
                "update": lambda call, name, algorithm: _of(self._transit.sign(name, call.body))
            },
            r"secret/data/(?P<path>.+)": {
                "read": self._read_secret,
                "update": self._write_secret,
                "delete": self._delete_secret,
            },
            r"secret/metadata/(?P<path>.*)": {
                "list": self._list_secrets,
                "delete": self._forget_secret,
            },
        }

    def _health(self, path: str) -> Answer:
        state = {"initialized": True, "sealed": self._sealed, "version": VERSION}
        if path == "sys/seal-status":
            return Answer(bare=state | {"type": "shamir", "t": 1, "n": 1, "progress": 0})
        health = state | {
            "standby": False,
            "performance_standby": False,
            "server_time_utc": int(time.time()),
            "cluster_name": "twin",
            "cluster_id": self.state.cluster_id,
            "enterprise": False,
        }
        return Answer(503 if self._sealed else 200, bare=health)

    def _seal(self, _: Call) -> Answer:
        self._sealed = True
        return _NOTHING

    def _read_policy(self, _: Call, name: str) -> Answer:
        if name not in self.state.policies:
            raise Refused(404)
        return Answer(data={"name": name, "policy": self.state.policies[name]})

    def _write_policy(self, call: Call, name: str) -> Answer:
        text = call.body.get("policy", "")
        try:
            self._rules[name] = acl.parse(text)
        except (ValueError, KeyError, TypeError) as error:
            raise Refused(400, f"failed to parse policy: {error}") from None
        self.state.policies[name] = text
        return _NOTHING

    def _delete_policy(self, _: Call, name: str) -> Answer:
        self._rules.pop(name, None)
        self.state.policies.pop(name, None)
        return _NOTHING

    def _mount(self, call: Call, path: str) -> Answer:
        mount = path.rstrip("/") + "/"
        if mount in self._mounts:
            raise Refused(400, f"path is already in use at {mount}")
        if (mount, call.body.get("type")) != ("transit/", "transit"):
            raise Refused(400, "the twin mounts Transit at transit/ only")
        self._mounts[mount] = {"type": "transit", "options": {}}
        return _NOTHING

    def _enable_auth(self, call: Call, path: str) -> Answer:
        mount = path.rstrip("/") + "/"
        if mount in self._auths:
            raise Refused(400, f"path is already in use at {mount}")
        if (mount, call.body.get("type")) != ("approle/", "approle"):
            raise Refused(400, "the twin enables AppRole at approle/ only")
        self._auths[mount] = {"type": "approle"}
        return _NOTHING

    def _lookup(self, call: Call) -> Answer:
        token = _token(call)
        auth = token.auth()
        return Answer(
            data={
                "id": token.id,
                "accessor": auth["accessor"],
                "policies": auth["policies"],
                "ttl": auth["lease_duration"],
                "renewable": auth["renewable"],
                "path": "auth/approle/login" if token.ttl_s else "auth/token/root",
                "type": "service",
            }
        )

    def _renew(self, call: Call) -> Answer:
        token = _token(call)
        if not token.ttl_s:
            raise Refused(400, "lease is not renewable")
        token.renew()
        return Answer(auth=token.auth())

    def _revoke(self, call: Call) -> Answer:
        del self._tokens[_token(call).id]
        return _NOTHING

    def _login(self, call: Call) -> Answer:
        for field_name in ("role_id", "secret_id"):
            if not call.body.get(field_name):
                raise Refused(400, f"missing {field_name}")
        for role in self._roles.values():
            if role.role_id == call.body["role_id"] and call.body["secret_id"] in role.secret_ids:
                policies = ("default", *role.token_policies)
                token = Token(
                    f"hvs.{secrets.token_urlsafe(24)}", policies, role.ttl_s, role.max_ttl_s
                )
                token.renew()
                self._tokens[token.id] = token
                return Answer(auth=token.auth())
        raise Refused(400, "invalid role or secret ID")

    def _write_role(self, call: Call, name: str) -> Answer:
        policies = call.body.get("token_policies") or call.body.get("policies") or []
        if isinstance(policies, str):
            policies = [policy.strip() for policy in policies.split(",")]
        ttl_s = _seconds(call.body.get("token_ttl", 0)) or 32 * 86400
        max_ttl_s = _seconds(call.body.get("token_max_ttl", 0)) or 32 * 86400
        role = self._roles.setdefault(name, Role((), ttl_s, max_ttl_s))
        role.token_policies, role.ttl_s, role.max_ttl_s = tuple(policies), ttl_s, max_ttl_s
        return _NOTHING

    def _read_role(self, _: Call, name: str) -> Answer:
        role = self._role(name)
        return Answer(
            data={
                "token_policies": list(role.token_policies),
                "token_ttl": int(role.ttl_s),
                "token_max_ttl": int(role.max_ttl_s),
                "bind_secret_id": True,
            }
        )

    def _delete_role(self, _: Call, name: str) -> Answer:
        self._roles.pop(name, None)
        return _NOTHING

    def _read_role_id(self, _: Call, name: str) -> Answer:
        return Answer(data={"role_id": self._role(name).role_id})

    def _write_role_id(self, call: Call, name: str) -> Answer:
        self._role(name).role_id = call.body["role_id"]
        return _NOTHING

    def _new_secret_id(self, _: Call, name: str) -> Answer:
        secret_id = str(uuid.uuid4())
        self._role(name).secret_ids.add(secret_id)
        return Answer(
            data={
                "secret_id": secret_id,
                "secret_id_accessor": str(uuid.uuid4()),
                "secret_id_ttl": 0,
                "secret_id_num_uses": 0,
            }
        )

    def _role(self, name: str) -> Role:
        if name not in self._roles:
            raise Refused(404)
        return self._roles[name]

    def _create_key(self, call: Call, name: str) -> Answer:
        described, warnings = self._transit.create(name, call.body)
        return Answer(data=described, warnings=warnings)

    def _list_keys(self, _: Call) -> Answer:
        if not self._transit.keys:
            raise Refused(404)
        return Answer(data={"keys": sorted(self._transit.keys)})

    def _delete_key(self, _: Call, name: str) -> Answer:
        self._transit.delete(name)
        return _NOTHING

    def _read_secret(self, _: Call, path: str) -> Answer:
        versions = self._secrets.get(path, Secret()).versions
        if not versions:
            raise Refused(404)
        if versions[-1] is None:
            raise Refused(404)
        return Answer(data={"data": versions[-1], "metadata": _metadata(len(versions))})

    def _write_secret(self, call: Call, path: str) -> Answer:
        if "data" not in call.body:
            raise Refused(400, "no data provided")
        versions = self._secrets.get(path, Secret()).versions
        cas = call.body.get("options", {}).get("cas")
        if cas is not None and cas != len(versions):
            raise Refused(400, "check-and-set parameter did not match the current version")
        self._secrets[path] = Secret([*versions, dict(call.body["data"])])
        return Answer(data=_metadata(len(versions) + 1))

    def _delete_secret(self, _: Call, path: str) -> Answer:
        if path in self._secrets:
            self._secrets[path].versions[-1] = None
        return _NOTHING

    def _forget_secret(self, _: Call, path: str) -> Answer:
        self._secrets.pop(path, None)
        return _NOTHING

    def _list_secrets(self, _: Call, path: str) -> Answer:
        prefix = path.rstrip("/") + "/" if path else ""
        names = [name[len(prefix) :] for name in self._secrets if name.startswith(prefix)]
        below = sorted({re.sub("/.*", "/", name) for name in names})
        if not below:
            raise Refused(404)
        return Answer(data={"keys": below})


def application(twin: KeyTwin, keep: Callable[[State], None] = lambda _: None) -> Starlette:
    """Return the ASGI application that serves `twin` at `/v1/`.

    `keep` is given the state after every call that may have changed it, before
    the call is answered.
    """

    async def endpoint(request: Request) -> Response:
        raw = await request.body()
        try:
            try:
                body = json.loads(raw) if raw else {}
            except ValueError as error:
                raise Refused(500, f"failed to parse JSON input: {error}") from None
            method = request.method
            if method == "GET" and request.query_params.get("list") == "true":
                method = "LIST"
            try:
                answer = twin.answer(
                    method,
                    request.path_params["path"],
                    body or {},
                    request.headers.get("x-vault-token")
                    or request.headers.get("authorization", "").removeprefix("Bearer ")
                    or None,
                )
            finally:
                if method not in ("GET", "LIST"):
                    keep(twin.state)
        except Refused as refusal:
            return JSONResponse({"errors": list(refusal.errors)}, refusal.status)
        rendered = answer.rendered()
        if rendered is None:
            return Response(status_code=answer.status)
        return JSONResponse(rendered, answer.status)

    route = Route(
        "/v1/{path:path}", endpoint, methods=["GET", "POST", "PUT", "DELETE", "LIST", "PATCH"]
    )
    return Starlette(routes=[route])


def _token(call: Call) -> Token:
    if call.token is None:
        raise _DENIED
    return call.token


def _of(result: tuple[int, dict[str, Any]]) -> Answer:
    status, data = result
    return Answer(status, data=data)


def _listing(mounts: dict[str, Any]) -> Answer:
    return Answer(data=dict(mounts))


def _metadata(version: int) -> dict[str, Any]:
    return {
        "created_time": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        "custom_metadata": None,
        "deletion_time": "",
        "destroyed": False,
        "version": version,
    }


def _seconds(duration: str | int) -> float:
    """Read a Go duration of one unit (`90`, `90s`, `15m`, `1h`)."""
    match = re.fullmatch(r"(\d+)([smh]?)", str(duration))
    if match is None:
        raise Refused(400, f"time: invalid duration {duration!r}")
    return int(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]
