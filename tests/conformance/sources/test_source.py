"""One suite for every way of reading: nothing missed from any place, whatever the provider."""

import asyncio
import json
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from tests.conformance.sources import stage as stages
from tests.conformance.sources.stage import ApiStage, Stage

from paceline_local.stack import Stack
from paceline_providers.api import Api
from paceline_reply.sources.api import Pace
from paceline_reply.sources.base import (
    FETCH_BYTES,
    REFUSALS,
    Fetched,
    Place,
    PlaceLost,
    Source,
    SourceError,
    Step,
)

KINDS = ("imap", "gmail", "graph")
APIS = KINDS[1:]


async def _put(kind: str, stack: AsyncExitStack, request: pytest.FixtureRequest) -> Stage:
    if kind == "imap":
        local: Stack = request.getfixturevalue("stack")
        return await stack.enter_async_context(stages.imap(local))
    return await stack.enter_async_context(stages.api(kind))


@pytest.fixture(params=KINDS)
async def stage(request: pytest.FixtureRequest) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        yield await _put(request.param, stack, request)


@pytest.fixture(params=APIS)
async def api(request: pytest.FixtureRequest) -> AsyncIterator[ApiStage]:
    async with stages.api(request.param) as one:
        yield one


def message(name: str, body: str = "Yes.") -> bytes:
    return (
        f"From: lee@client.test\r\nTo: ann@north.test\r\nSubject: {name}\r\n"
        f"Message-ID: <{name}@client.test>\r\n\r\n{body}\r\n"
    ).encode()


def ago(**spans: float) -> datetime:
    return datetime.now(UTC) - timedelta(**spans)


async def nothing_known(_: Collection[str]) -> Collection[str]:
    return ()


@asynccontextmanager
async def opened(source: Source) -> AsyncIterator[Source]:
    try:
        await source.open()
        yield source
    finally:
        await source.close()


async def steps(source: Source, place: Place) -> list[Step]:
    """Read once, as a reader does: what was given is known, and places go through the database."""
    found: list[Step] = []
    given: set[str | None] = set()

    async def known(asked: Collection[str]) -> Collection[str]:
        return {one for one in asked if one in given}

    async for step in source.read(json.loads(json.dumps(place)), known):
        found.append(step)
        given.add(step.message.provider_id if step.message else None)
    return found


async def news(source: Source, place: Place) -> list[Step]:
    """Read once more on the same connection, after the wait that belongs there."""
    await asyncio.wait_for(source.wait(), 15)
    return await steps(source, place)


def names(found: Sequence[Step]) -> list[str]:
    return [subject(step.message) for step in found if step.message is not None]


def subject(fetched: Fetched) -> str:
    head = fetched.raw.partition(b"Subject: ")[2]
    return head.partition(b"\r\n")[0].decode()


async def test_what_came_since_a_moment_is_read_and_older_mail_is_not(stage: Stage) -> None:
    stage.deliver(message("old"), ago_s=3 * 86_400)
    stage.deliver(message("first"), ago_s=600)
    stage.deliver(message("second"))
    async with opened(stage.source()) as source:
        found = await steps(source, await source.begin(ago(hours=1)))
        stage.deliver(message("third"))
        found += await news(source, found[-1].place)

    assert set(names(found)) == {"first", "second", "third"}


async def test_from_the_last_place_only_what_is_new_is_read(stage: Stage) -> None:
    async with opened(stage.source()) as source:
        place = await source.begin(ago(minutes=5))
        for name in ("one", "two"):
            stage.deliver(message(name))
            found = await news(source, place)
            assert names(found) == [name]
            place = found[-1].place
        found = await steps(source, place)

    assert names(found) == []


async def test_reading_goes_on_in_another_process_where_it_ended(stage: Stage) -> None:
    async with opened(stage.source()) as source:
        found = await steps(source, await source.begin(ago(minutes=5)))
        place = found[-1].place if found else await source.begin(ago(minutes=5))
    stage.deliver(message("meanwhile"))

    async with opened(stage.source()) as source:
        assert names(await steps(source, place)) == ["meanwhile"]


@pytest.mark.parametrize("settled", [False, True], ids=["first", "later"])
async def test_from_every_place_on_the_way_nothing_is_missed(stage: Stage, settled: bool) -> None:
    expected = {f"n{number}" for number in range(7)}
    async with opened(stage.source()) as source:
        place = await source.begin(ago(minutes=5))
        if settled and (before := await steps(source, place)):
            place = before[-1].place
        for name in sorted(expected):
            stage.deliver(message(name))
        whole = await news(source, place)
        for at, step in enumerate(whole):
            again = names(await steps(source, step.place))
            assert set(names(whole[: at + 1])) | set(again) == expected, f"after step {at}"

    assert set(names(whole)) == expected


async def test_many_pages_are_read_to_the_end(stage: Stage) -> None:
    count = 530
    async with opened(stage.source()) as source:
        place = await source.begin(ago(minutes=5))
        for number in range(count):
            stage.deliver(message(f"n{number}"))
        found = await news(source, place)
        listed = await steps(source, await source.begin(ago(minutes=10)))

    assert len(set(names(found))) == len(set(names(listed))) == count


async def test_the_bytes_are_those_that_arrived(stage: Stage) -> None:
    raw = b"Subject: odd\r\nX-Odd: caf\xe9 \xff\r\n\r\n\x80\x81 line\r\n.\r\n..dots\r\n"
    stage.deliver(raw)
    async with opened(stage.source()) as source:
        (step, *_) = await steps(source, await source.begin(ago(minutes=5)))

    assert step.message is not None
    assert (step.message.raw, step.message.size) == (raw, len(raw))
    assert abs(step.message.received_at - datetime.now(UTC)) < timedelta(minutes=1)
    assert (step.message.provider_id is not None) == stage.names_messages


async def test_a_large_message_is_cut_and_its_size_told(stage: Stage) -> None:
    raw = message("large", "x" * 70 + ("\r\n" + "y" * 70) * 20_000)
    stage.deliver(raw)
    async with opened(stage.source()) as source:
        (step, *_) = await steps(source, await source.begin(ago(minutes=5)))

    assert step.message is not None
    assert step.message.raw == raw[:FETCH_BYTES]
    assert step.message.size == len(raw)


async def test_a_message_deleted_before_it_is_read_is_passed_over(stage: Stage) -> None:
    async with opened(stage.source()) as source:
        place = await source.begin(ago(minutes=5))
        gone = stage.deliver(message("gone"))
        stage.deliver(message("stays"))
        stage.remove(gone)

        found = await news(source, place)
        assert names(found) == ["stays"]
        assert names(await steps(source, found[-1].place)) == []


async def test_a_forgotten_place_is_told_and_everything_since_a_moment_is_read(
    stage: Stage,
) -> None:
    async with opened(stage.source()) as source:
        place = await source.begin(ago(minutes=5))
        stage.deliver(message("before"))
        place = (await news(source, place))[-1].place
    stage.deliver(message("between"))
    await stage.forget()

    async with opened(stage.source()) as source:
        with pytest.raises(PlaceLost):
            await steps(source, place)
        found = await steps(source, await source.begin(ago(minutes=5)))
        assert set(names(found)) == {"before", "between"}
        stage.deliver(message("after"))
        assert names(await news(source, found[-1].place)) == ["after"]


async def test_a_place_forgotten_while_reading_begins_still_misses_nothing(stage: Stage) -> None:
    expected = {f"n{number}" for number in range(60)}
    for name in sorted(expected):
        stage.deliver(message(name))
    async with opened(stage.source()) as source:
        reading = source.read(await source.begin(ago(minutes=5)), nothing_known)
        # One page of Graph's, and an unfinished one.
        read = [await anext(reading) for _ in range(55)]
        await reading.aclose()  # type: ignore[attr-defined]  # an async generator
    await stage.forget()

    async with opened(stage.source()) as source:
        try:
            rest = await steps(source, read[-1].place)
        except PlaceLost:
            rest = await steps(source, await source.begin(ago(minutes=5)))
    assert set(names(read)) | set(names(rest)) == expected


async def test_waiting_ends_when_something_may_have_come(stage: Stage) -> None:
    async with opened(stage.source()) as source:
        place = await source.begin(ago(minutes=5))
        found = await steps(source, place)
        place = found[-1].place if found else place
        waiting = asyncio.create_task(source.wait())
        stage.deliver(message("pushed"))
        await asyncio.wait_for(waiting, 15)

        assert names(await steps(source, place)) == ["pushed"]


async def test_a_credential_that_is_good_no_more_is_a_refusal(stage: Stage) -> None:
    stage.refuse()

    with pytest.raises(SourceError) as failure:
        async with opened(stage.source()):
            pass

    assert failure.value.code in REFUSALS
    assert failure.value.message


async def test_a_host_that_does_not_answer_is_no_refusal(stage: Stage) -> None:
    with pytest.raises(SourceError) as failure:
        async with opened(stage.nobody_listens()):
            pass

    assert failure.value.code == "connect_refused"


# ---- what only APIs have


async def test_known_messages_are_not_fetched_again(api: ApiStage) -> None:
    for number in range(3):
        api.deliver(message(f"n{number}"))
    async with opened(api.source()) as source:
        found = await steps(source, await source.begin(ago(minutes=5)))
        ids = {step.message.provider_id for step in found if step.message is not None}
        before = api.account.twin.calls.count(api.account.fetches)
        api.deliver(message("new"))

        async def known(asked: Collection[str]) -> Collection[str]:
            return {one for one in asked if one in ids}

        again = [step async for step in source.read(await source.begin(ago(minutes=5)), known)]

    assert names(again) == ["new"]
    assert api.account.twin.calls.count(api.account.fetches) == before + 1


async def test_spam_is_read_too(api: ApiStage) -> None:
    async with opened(api.source()) as source:
        place = await source.begin(ago(minutes=5))
        api.deliver(message("spam"), spam=True)
        found = await steps(source, place)
        api.deliver(message("later"), spam=True)

        assert names(found) == ["spam"]
        assert names(await steps(source, found[-1].place)) == ["later"]


async def test_what_the_account_sends_is_not_inbound(api: ApiStage) -> None:
    async with opened(api.source()) as source:
        place = await source.begin(ago(minutes=5))
        api.account.send(message("sent").replace(b"To: ann@north.test", b"To: bob@else.test"))
        first = await steps(source, place)
        api.account.send(message("again").replace(b"To: ann@north.test", b"To: bob@else.test"))

        assert names(first) == names(await steps(source, first[-1].place)) == []


async def test_a_look_that_finds_nothing_new_is_one_call_for_each_folder(api: ApiStage) -> None:
    async with opened(api.source()) as source:
        place = (await steps(source, await source.begin(ago(minutes=5))))[-1].place
        before = len(api.account.twin.calls)
        await steps(source, place)

    made = api.account.twin.calls[before:]
    assert made == [api.account.asks] * (2 if api.account.kind == "graph" else 1)


async def test_a_throttled_mailbox_tells_how_long_to_wait(api: ApiStage) -> None:
    async with opened(api.source()) as source:
        place = await source.begin(ago(minutes=5))
        api.account.twin.fail("any", "status", times=9, status=429, retry_after_s=77)
        with pytest.raises(SourceError) as failure:
            await steps(source, place)

    assert (failure.value.code, failure.value.retry_after) == ("throttled", timedelta(seconds=77))


async def test_a_next_page_on_another_host_gets_no_token() -> None:
    async with stages.api("graph") as api:
        for number in range(60):
            api.deliver(message(f"n{number}"))
        mailbox = api.account.mailbox  # type: ignore[attr-defined]  # Graph's account has it
        mailbox.conduct.next_page_on = "elsewhere.test"
        async with opened(api.source()) as source:
            place = await source.begin(ago(minutes=5))
            with pytest.raises(SourceError) as failure:
                await steps(source, place)

    assert failure.value.code == "protocol_error"
    assert "another host" in failure.value.message


@pytest.mark.parametrize("kind", ["reset_before", "reset_in_answer", "hang", "done_then_status"])
async def test_one_call_that_fails_is_made_again(api: ApiStage, kind: str) -> None:
    api.deliver(message("one"))
    async with opened(api.source()) as source:
        place = await source.begin(ago(minutes=5))
        api.account.twin.fail(api.account.fetches, kind)  # type: ignore[arg-type]  # a FaultKind
        if kind == "reset_in_answer":
            # What the status has told of is lost with the look; the next one finds it.
            with pytest.raises(SourceError, match="connection_lost"):
                await steps(source, place)
        found = await steps(source, place)

    assert set(names(found)) == {"one"}


async def test_a_grant_taken_back_while_reading_is_a_refusal(api: ApiStage) -> None:
    async with opened(api.source()) as source:
        place = await source.begin(ago(minutes=5))
        api.refuse()
        with pytest.raises(SourceError) as failure:
            await steps(source, place)

    assert failure.value.code == "grant_revoked"


async def test_a_grant_without_reading_is_a_refusal(api: ApiStage) -> None:
    with pytest.raises(SourceError) as failure:
        async with opened(api.without_reading()):
            pass

    assert failure.value.code == "auth_failed"
    assert "does not include reading" in failure.value.message


async def test_many_mailboxes_share_few_calls_at_once(api: ApiStage) -> None:
    inside = most = 0
    calls = api.provider.api

    class Counting(Api):
        async def call(self, *arguments: object, **more: object) -> object:  # type: ignore[override]
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            try:
                return await Api.call(self, *arguments, **more)  # type: ignore[arg-type]
            finally:
                inside -= 1

    counting = Counting(calls.http, calls.tokens, calls.now, calls.timeouts, calls.pause)
    pace = Pace(0.1, asyncio.Semaphore(2))
    sources = [
        replace(api, pace=pace, provider=replace(api.provider, api=counting)).source()
        for _ in range(8)
    ]
    await asyncio.gather(*(source.begin(ago(minutes=5)) for source in sources))
    await asyncio.gather(*(source.open() for source in sources))

    assert 1 <= most <= 2
