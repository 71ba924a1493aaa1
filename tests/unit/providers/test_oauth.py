"""Refreshing a grant: once for all who wait, whoever wins, and never a false alarm."""

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline_providers.aadsts import rules
from paceline_providers.classes import OutcomeClass
from paceline_providers.oauth import (
    MARGIN,
    Grant,
    GrantTokens,
    StoredTokens,
    TokenEndpoint,
    refresh,
    revoke,
)
from paceline_providers.proof import TokenRefused, TokenUnavailable

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
URL = "https://tokens.example/token"


@dataclass
class Identity:
    """A token endpoint. `rotates`: a refresh token ends with its use."""

    rotates: bool = False
    turns: Callable[[], int] = lambda: 0
    alive: set[str] = field(default_factory=lambda: {"rt-0"})
    given: list[str] = field(default_factory=list)
    answers: list[httpx.Response] = field(default_factory=list)

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        await _turn(self.turns())
        form = dict(parse_qsl(request.content.decode()))
        if self.answers:
            return self.answers.pop(0)
        token = form["refresh_token"]
        if token not in self.alive:
            return httpx.Response(
                400, json={"error": "invalid_grant", "error_description": "expired or revoked"}
            )
        if self.rotates:
            self.alive.discard(token)
        number = len(self.given) + 1
        self.given.append(f"at-{number}")
        self.alive.add(f"rt-{number}")
        answer = {
            "access_token": f"at-{number}", "expires_in": 3599, "refresh_token": f"rt-{number}",
        }  # fmt: skip
        await _turn(self.turns())
        return httpx.Response(200, json=answer)


@dataclass
class Store:
    """A shared row with compare-and-set, as `paceline_common.tokens` keeps it."""

    turns: Callable[[], int] = lambda: 0
    row: dict[str, Any] | None = None
    writes: int = 0
    broken: Exception | None = None
    secret: str | Exception | None = None

    async def load(self) -> Mapping[str, Any] | None:
        await _turn(self.turns())
        return self.row

    async def replace(self, seen_version: int, tokens: Mapping[str, Any]) -> Mapping[str, Any]:
        await _turn(self.turns())
        if self.broken is not None:
            raise self.broken
        if seen_version == (self.row["version"] if self.row else 0):
            self.row = {**tokens, "version": seen_version + 1}
            self.writes += 1
        assert self.row is not None
        return self.row

    async def app_secret(self) -> str | None:
        if isinstance(self.secret, Exception):
            raise self.secret
        return self.secret


async def _turn(times: int) -> None:
    for _ in range(times):
        await asyncio.sleep(0)


def grant(**changes: Any) -> Grant:
    return Grant.of(
        {
            "client_id": "app", "client_secret": "app-secret", "refresh_token": "rt-0",
            "access_token": "at-0", "expires_at": (NOW + timedelta(minutes=1)).isoformat(),
            "scopes": ["mail"], **changes,
        }
    )  # fmt: skip


def tokens(http: httpx.AsyncClient, store: Store, **more: Any) -> GrantTokens:
    return GrantTokens(
        http, TokenEndpoint("microsoft", URL), more.pop("grant", grant()), store,
        more.pop("now", lambda: NOW), **more,
    )  # fmt: skip


@given(
    seed=st.integers(0, 2**32),
    processes=st.integers(1, 4),
    callers=st.integers(1, 4),
    rotates=st.booleans(),
)
@settings(deadline=None, max_examples=200)
def test_a_race_of_refreshes_leaves_everyone_with_a_token_and_the_newest_in_the_store(
    seed: int, processes: int, callers: int, rotates: bool
) -> None:
    rng = random.Random(seed)

    def turns() -> int:
        return rng.randrange(12)

    async def race() -> None:
        identity = Identity(rotates=rotates, turns=turns)
        store = Store(turns)

        async def a_while(_: float) -> None:
            # Longer than it takes the winner to store what it got.
            await _turn(50)

        async with httpx.AsyncClient(transport=httpx.MockTransport(identity)) as http:
            houses = [tokens(http, store, pause=a_while) for _ in range(processes)]
            got = await asyncio.gather(*(one() for one in houses for _ in range(callers)))
            assert store.row is not None
            assert set(got) <= set(identity.given)
            assert len(identity.given) <= processes
            # Each process agrees with the store on what is newest, or can go on from it.
            assert store.row["access_token"] in identity.given
            assert store.row["refresh_token"] in identity.alive
            again = await asyncio.gather(*(one(refused=one.grant.access_token) for one in houses))
            assert all(one not in got for one in again) or rotates is False
            assert store.row["refresh_token"] in identity.alive

    asyncio.run(race())


async def test_many_callers_share_one_refresh() -> None:
    identity = Identity(turns=lambda: 5)
    async with httpx.AsyncClient(transport=httpx.MockTransport(identity)) as http:
        one = tokens(http, Store())
        got = await asyncio.gather(*(one() for _ in range(50)))
    assert got == ["at-1"] * 50
    assert identity.given == ["at-1"]


async def test_a_token_is_kept_until_five_minutes_before_its_end() -> None:
    identity, at = Identity(), [NOW]
    fresh = grant(expires_at=(NOW + timedelta(minutes=30)).isoformat())
    async with httpx.AsyncClient(transport=httpx.MockTransport(identity)) as http:
        one = tokens(http, Store(), grant=fresh, now=lambda: at[0])
        assert await one() == "at-0"
        at[0] = NOW + timedelta(minutes=30) - MARGIN - timedelta(seconds=1)
        assert await one() == "at-0"
        at[0] += timedelta(seconds=1)
        assert await one() == "at-1"
        assert one.grant.expires_at == at[0] + timedelta(seconds=3599)


async def test_what_another_process_stored_is_taken_without_asking() -> None:
    identity = Identity()
    store = Store()
    store.row = {
        "version": 3, "refresh_token": "rt-9", "access_token": "at-9",
        "expires_at": NOW + timedelta(hours=1),
    }  # fmt: skip
    async with httpx.AsyncClient(transport=httpx.MockTransport(identity)) as http:
        assert await tokens(http, store)() == "at-9"
    assert identity.given == []


async def test_a_refused_token_is_never_given_again() -> None:
    identity = Identity()
    fresh = grant(expires_at=(NOW + timedelta(hours=1)).isoformat())
    async with httpx.AsyncClient(transport=httpx.MockTransport(identity)) as http:
        one = tokens(http, Store(), grant=fresh)
        assert await one() == "at-0"
        assert await asyncio.gather(*(one("at-0") for _ in range(10))) == ["at-1"] * 10
        # Late news of an old token is no reason to refresh.
        assert await one("at-0") == "at-1"
    assert identity.given == ["at-1"]


async def test_a_revoked_grant_is_refused_to_all_who_wait_after_one_request() -> None:
    identity = Identity(alive=set(), turns=lambda: 5)
    asked = 0

    async def count(request: httpx.Request) -> httpx.Response:
        nonlocal asked
        asked += 1
        return await identity(request)

    async def at_once(_: float) -> None:
        await asyncio.sleep(0)

    async with httpx.AsyncClient(transport=httpx.MockTransport(count)) as http:
        one = tokens(http, Store(), pause=at_once)
        results = await asyncio.gather(*(one() for _ in range(5)), return_exceptions=True)
    assert all(isinstance(result, TokenRefused) for result in results)
    assert str(results[0]) == "expired or revoked"
    assert asked == 1


async def test_a_caller_that_gives_up_does_not_end_the_refresh_of_the_others() -> None:
    identity = Identity(turns=lambda: 20)
    async with httpx.AsyncClient(transport=httpx.MockTransport(identity)) as http:
        one = tokens(http, Store())
        impatient, patient = asyncio.create_task(one()), asyncio.create_task(one())
        await _turn(5)
        impatient.cancel()
        assert await patient == "at-1"
        assert impatient.cancelled()


async def test_a_token_that_could_not_be_stored_is_used_all_the_same() -> None:
    identity, told = Identity(), []
    store = Store(broken=OSError("no database"))
    async with httpx.AsyncClient(transport=httpx.MockTransport(identity)) as http:
        one = tokens(http, store, on_unsaved=told.append)
        assert await one() == "at-1"
        assert told == [store.broken]
        store.broken = None
        assert await one("at-1") == "at-2"
    assert store.row is not None
    assert store.row["refresh_token"] == "rt-2"


async def test_a_store_that_cannot_be_read_makes_the_token_unavailable() -> None:
    class Broken(Store):
        async def load(self) -> Mapping[str, Any] | None:
            raise OSError("secret words of a driver")

    async with httpx.AsyncClient(transport=httpx.MockTransport(Identity())) as http:
        with pytest.raises(TokenUnavailable, match="OSError") as failure:
            await tokens(http, Broken())()
    assert "secret" not in str(failure.value)


def _secrets_asked(good: str, asked: list[str]) -> Callable[[httpx.Request], httpx.Response]:
    """A token endpoint that takes one app secret and notes which it was shown."""

    def respond(request: httpx.Request) -> httpx.Response:
        asked.append(dict(parse_qsl(request.content.decode()))["client_secret"])
        if asked[-1] != good:
            return httpx.Response(401, json={"error": "invalid_client"})
        return httpx.Response(200, json={"access_token": f"at-{len(asked)}", "expires_in": 3599})

    return respond


async def test_each_refresh_is_made_with_the_apps_newest_secret() -> None:
    asked: list[str] = []
    store = Store()
    handler = _secrets_asked("app-secret-2", asked)
    async with httpx.AsyncClient(transport=httpx.MockTransport(handler)) as http:
        one = tokens(http, store)
        with pytest.raises(TokenUnavailable) as failure:
            await one()
        assert failure.value.outcome_class is OutcomeClass.CONFIG
        store.secret = "app-secret-2"
        assert await one() == "at-2"
        # Neither the stored tokens nor what is read back bring the old one again.
        assert await one("at-2") == "at-3"
    assert asked == ["app-secret", "app-secret-2", "app-secret-2"]


async def test_a_secret_that_is_set_while_the_old_one_is_on_its_way_is_tried_at_once() -> None:
    asked: list[str] = []
    store = Store()

    def respond(request: httpx.Request) -> httpx.Response:
        store.secret = "app-secret-2"
        return _secrets_asked("app-secret-2", asked)(request)

    async with httpx.AsyncClient(transport=httpx.MockTransport(respond)) as http:
        assert await tokens(http, store)() == "at-2"
    assert asked == ["app-secret", "app-secret-2"]


async def test_a_secret_that_cannot_be_read_makes_the_token_unavailable() -> None:
    asked: list[str] = []
    store = Store(secret=OSError("secret words of a driver"))
    handler = _secrets_asked("app-secret", asked)
    async with httpx.AsyncClient(transport=httpx.MockTransport(handler)) as http:
        with pytest.raises(TokenUnavailable, match="OSError") as failure:
            await tokens(http, store)()
    # An old secret would be taken for a wrong one.
    assert (asked, failure.value.outcome_class) == ([], OutcomeClass.SOFT)
    assert "secret words" not in str(failure.value)


@pytest.mark.parametrize(
    ("provider", "answer", "refused", "meaning"),
    [
        ("google", (400, {"error": "invalid_grant"}), True, None),
        ("google", (401, {"error": "invalid_client"}), False, OutcomeClass.CONFIG),
        ("google", (400, {"error": "admin_policy_enforced"}), True, None),
        ("google", (503, {"error": "invalid_grant"}), False, OutcomeClass.SOFT),
        ("google", (400, {"error": "what_is_this"}), False, OutcomeClass.SOFT),
        (
            "microsoft",
            (400, {"error": "invalid_grant", "error_description": "AADSTS50173: x"}),
            True,
            None,
        ),
        (
            "microsoft",
            (401, {"error": "invalid_client", "error_description": "AADSTS7000222: x"}),
            False,
            OutcomeClass.CONFIG,
        ),
    ],
)
async def test_only_the_end_of_the_grant_counts_as_refused(
    provider: Any, answer: tuple[int, dict[str, str]], refused: bool, meaning: OutcomeClass | None
) -> None:
    def respond(_: httpx.Request) -> httpx.Response:
        return httpx.Response(answer[0], json=answer[1])

    async with httpx.AsyncClient(transport=httpx.MockTransport(respond)) as http:
        with pytest.raises(TokenRefused if refused else TokenUnavailable) as failure:
            await refresh(http, TokenEndpoint(provider, URL), grant(), lambda: NOW)
    assert getattr(failure.value, "outcome_class", None) == meaning


async def test_the_token_endpoints_wish_to_wait_is_kept() -> None:
    def respond(_: httpx.Request) -> httpx.Response:
        return httpx.Response(
            429, json={"error": "rate_limit_exceeded"}, headers={"Retry-After": "77"}
        )

    async with httpx.AsyncClient(transport=httpx.MockTransport(respond)) as http:
        with pytest.raises(TokenUnavailable) as failure:
            await refresh(http, TokenEndpoint("google", URL), grant(), lambda: NOW)
    assert failure.value.retry_after == timedelta(seconds=77)


def test_what_keeps_a_token_away_says_who_has_to_act_and_how_long_to_wait() -> None:
    away = TokenUnavailable("busy", retry_after=timedelta(seconds=77)).unsent()
    assert (away.reason, away.outcome_class) == ("connect_timeout", OutcomeClass.SOFT)
    assert away.retry_after == timedelta(seconds=77)
    app = TokenUnavailable("AADSTS7000222", OutcomeClass.CONFIG).unsent()
    # The mailbox's grant is as good as ever: nobody has to connect it again.
    assert (app.reason, app.outcome_class) == ("app_refused", OutcomeClass.CONFIG)


async def test_a_refresh_without_a_new_refresh_token_keeps_the_old_one() -> None:
    def respond(request: httpx.Request) -> httpx.Response:
        form = dict(parse_qsl(request.content.decode()))
        assert form == {
            "grant_type": "refresh_token", "refresh_token": "rt-0", "client_id": "app",
            "client_secret": "app-secret",
        }  # fmt: skip
        return httpx.Response(200, json={"access_token": "at-1", "expires_in": 60})

    async with httpx.AsyncClient(transport=httpx.MockTransport(respond)) as http:
        fresh = await refresh(http, TokenEndpoint("google", URL), grant(), lambda: NOW)
    assert (fresh.refresh_token, fresh.access_token) == ("rt-0", "at-1")
    assert fresh.expires_at == NOW + timedelta(seconds=60)


async def test_a_token_endpoint_that_is_away_or_babbles_is_unavailable() -> None:
    def away(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    def babble(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, text="<html>")

    for respond in (away, babble):
        async with httpx.AsyncClient(transport=httpx.MockTransport(respond)) as http:
            with pytest.raises(TokenUnavailable):
                await refresh(http, TokenEndpoint("google", URL), grant(), lambda: NOW)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (httpx.Response(200, json={}), "revoked"),
        (httpx.Response(400, json={"error": "invalid_token"}), "already_gone"),
        (httpx.Response(500, text="no"), "failed"),
    ],
)
async def test_a_revocation_says_what_became_of_it(answer: httpx.Response, expected: str) -> None:
    async with httpx.AsyncClient(transport=httpx.MockTransport(lambda _: answer)) as http:
        assert (await revoke(http, URL, "rt-0"))[0] == expected


async def test_a_provider_without_revocation_is_said_so() -> None:
    async with httpx.AsyncClient(transport=httpx.MockTransport(Identity())) as http:
        result, words = await revoke(http, None, "rt-0")
    assert result == "not_supported"
    assert "no application" in words


def test_secrets_stay_out_of_what_is_printed() -> None:
    shown = repr(grant()) + repr(StoredTokens(1, "rt-0", "at-0", NOW))
    assert not any(secret in shown for secret in ("rt-0", "at-0", "app-secret"))


def test_googles_rules_are_named_once_and_say_where_they_come_from() -> None:
    found = rules("google")
    assert len({rule.name for rule in found}) == len(found)
    for rule in found:
        assert rule.sentence.endswith(".")
        assert rule.source
    assert not found[-1].codes
    assert not found[-1].errors
