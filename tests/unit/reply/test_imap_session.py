"""The IMAP session against a server that answers exactly as told."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from paceline_local import certificate
from paceline_providers.tls import context
from paceline_reply.sources.base import SourceError
from paceline_reply.sources.imap import ImapSession, open_session
from paceline_reply.sources.imap_client import Endpoint

GREETING = b"* OK [CAPABILITY IMAP4rev1 IDLE] hello\r\n"


class Script:
    """A server: for each command word the lines it sends; `{tag}` is the command's tag."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes] = {
            "CAPABILITY": b"* CAPABILITY IMAP4rev1 IDLE\r\n{tag} OK done\r\n",
            "LOGIN": b"{tag} OK done\r\n",
            "EXAMINE": b"* OK [UIDVALIDITY 7] x\r\n* OK [UIDNEXT 9] x\r\n{tag} OK [READ-ONLY]\r\n",
            "IDLE": b"+ idling\r\n",
            "NOOP": b"{tag} OK done\r\n",
            "DONE": b"{tag} OK idle done\r\n",
        }
        self.commands: list[str] = []
        self.port = 0
        self._idle_tag = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GREETING)
        while line := (await reader.readline()).decode().strip():
            if line == "DONE":
                writer.write(self.answers["DONE"].replace(b"{tag}", self._idle_tag.encode()))
                continue
            tag, word, *_ = line.split(" ")
            self.commands.append(line.partition(" ")[2])
            if word == "IDLE":
                self._idle_tag = tag
            answer = self.answers.get(word, b"{tag} BAD what?\r\n")
            if answer == b"hang up":
                break
            # One write: what belongs together arrives in one segment.
            writer.write(answer.replace(b"{tag}", tag.encode()))
            await writer.drain()
        writer.close()


@pytest.fixture
async def script() -> AsyncIterator[Script]:
    async with serving(None) as made:
        yield made


@contextlib.asynccontextmanager
async def serving(tls: ssl.SSLContext | None) -> AsyncIterator[Script]:
    made = Script()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0, ssl=tls)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    server.close()


async def resolve(_host: str, _port: int) -> Sequence[str]:
    return ["127.0.0.1"]


@pytest.fixture
async def threads() -> AsyncIterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


async def signed_in(
    script: Script,
    threads: ThreadPoolExecutor,
    username: str = "sam",
    password: str = "pw",
    ca_file: Path | None = None,
) -> ImapSession:
    return await open_session(
        Endpoint("localhost", script.port, "none" if ca_file is None else "implicit", username),
        password,
        resolve=resolve,
        tls=partial(context, ca_file),
        threads=threads,
    )


async def test_news_in_one_segment_with_the_go_ahead_is_not_slept_through(
    script: Script, threads: ThreadPoolExecutor
) -> None:
    script.answers["IDLE"] = b"+ idling\r\n* 5 EXISTS\r\n"
    session = await signed_in(script, threads)
    await session.open_folder()

    await asyncio.wait_for(session.wait(60), 10)

    await session.close()


async def test_news_in_one_tls_record_with_the_go_ahead_is_not_slept_through(
    threads: ThreadPoolExecutor, tmp_path: Path
) -> None:
    certificate.ensure(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    async with serving(tls) as script:
        script.answers["IDLE"] = b"+ idling\r\n* 5 EXISTS\r\n"
        session = await signed_in(script, threads, ca_file=tmp_path / "ca.pem")
        await session.open_folder()

        await asyncio.wait_for(session.wait(60), 10)
        # Silence over TLS is no news, and no error.
        script.answers["IDLE"] = b"+ idling\r\n"
        script.answers["UID"] = b"* SEARCH\r\n{tag} OK done\r\n"
        assert await session.uids_after(9) == []
        await asyncio.wait_for(session.wait(0.2), 10)

        assert script.commands.count("IDLE") == 2
        assert script.commands[-1] == "NOOP"
        await session.close()


async def test_news_ahead_of_the_go_ahead_is_news_and_no_error(
    script: Script, threads: ThreadPoolExecutor
) -> None:
    script.answers["IDLE"] = b"* 5 EXISTS\r\n+ idling\r\n"
    session = await signed_in(script, threads)
    await session.open_folder()

    await asyncio.wait_for(session.wait(60), 10)

    await session.close()


async def test_half_a_line_of_news_is_news_and_the_rest_is_read_later(
    script: Script, threads: ThreadPoolExecutor
) -> None:
    script.answers["IDLE"] = b"+ idling\r\n* 5 EX"
    script.answers["DONE"] = b"ISTS\r\n{tag} OK idle done\r\n"
    script.answers["UID"] = b"* SEARCH 9\r\n{tag} OK done\r\n"
    session = await signed_in(script, threads)
    await session.open_folder()

    await asyncio.wait_for(session.wait(60), 10)

    assert await session.uids_after(8) == [9]
    await session.close()


async def test_a_refused_idle_is_an_error_with_the_servers_words(
    script: Script, threads: ThreadPoolExecutor
) -> None:
    script.answers["IDLE"] = b"{tag} NO not today\r\n"
    session = await signed_in(script, threads)

    with pytest.raises(SourceError) as failure:
        await session.wait(60)

    assert failure.value.code == "protocol_error"
    assert "not today" in failure.value.message
    await session.close()


async def test_news_told_in_the_answer_of_a_search_is_looked_at_before_idling(
    script: Script, threads: ThreadPoolExecutor
) -> None:
    script.answers["UID"] = b"* SEARCH\r\n* 1 EXISTS\r\n{tag} OK done\r\n"
    session = await signed_in(script, threads)
    await session.open_folder()

    assert await session.uids_after(8) == []
    await asyncio.wait_for(session.wait(60), 10)

    assert "IDLE" not in script.commands
    await session.close()


async def test_a_count_told_again_is_no_news(script: Script, threads: ThreadPoolExecutor) -> None:
    script.answers["UID"] = b"* 3 EXISTS\r\n* SEARCH\r\n{tag} OK done\r\n"
    session = await signed_in(script, threads)
    await session.open_folder()
    await session.uids_after(8)

    await session.uids_after(8)
    await asyncio.wait_for(session.wait(0.2), 10)

    assert "IDLE" in script.commands
    await session.close()


async def test_a_message_in_the_place_of_an_expunged_one_is_news(
    script: Script, threads: ThreadPoolExecutor
) -> None:
    script.answers["UID"] = b"* 3 EXISTS\r\n* SEARCH\r\n{tag} OK done\r\n"
    session = await signed_in(script, threads)
    await session.open_folder()
    await session.uids_after(8)

    script.answers["UID"] = b"* SEARCH\r\n* 2 EXPUNGE\r\n* 3 EXISTS\r\n{tag} OK done\r\n"
    await session.uids_after(8)
    await asyncio.wait_for(session.wait(60), 10)

    assert "IDLE" not in script.commands
    await session.close()


async def test_a_server_that_idles_in_silence_is_asked_when_the_time_is_over(
    script: Script, threads: ThreadPoolExecutor
) -> None:
    session = await signed_in(script, threads)
    await session.open_folder()

    await asyncio.wait_for(session.wait(0.2), 10)

    assert script.commands[-2:] == ["IDLE", "NOOP"]
    await session.close()


async def test_waiting_ends_after_its_time_without_news(
    script: Script, threads: ThreadPoolExecutor
) -> None:
    session = await signed_in(script, threads)

    await asyncio.wait_for(session.wait(0.2), 10)
    await asyncio.wait_for(session.wait(0.2), 10)

    assert script.commands.count("IDLE") == 2
    await session.close()


async def test_a_server_without_idle_is_polled(script: Script, threads: ThreadPoolExecutor) -> None:
    script.answers["CAPABILITY"] = b"* CAPABILITY IMAP4rev1\r\n{tag} OK done\r\n"
    session = await signed_in(script, threads)

    await session.wait(0.05)

    assert script.commands[-1] == "NOOP"
    await session.close()


async def test_the_highest_uid_is_not_taken_for_a_new_one(
    script: Script, threads: ThreadPoolExecutor
) -> None:
    script.answers["UID"] = b"* SEARCH 8\r\n{tag} OK done\r\n"
    session = await signed_in(script, threads)

    assert await session.uids_after(8) == []
    assert await session.uids_after(7) == [8]
    await session.close()


async def test_a_server_that_hangs_up_is_a_lost_connection_not_a_refusal(
    script: Script, threads: ThreadPoolExecutor
) -> None:
    script.answers["LOGIN"] = b"hang up"

    with pytest.raises(SourceError) as failure:
        await signed_in(script, threads)

    assert failure.value.code == "connection_lost"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"{tag} NO [AUTHENTICATIONFAILED] Invalid credentials (Failure)\r\n", "auth_failed"),
        (b"{tag} NO [ALERT] Application-specific password required\r\n", "auth_failed"),
        (b"{tag} NO [UNAVAILABLE] Temporary authentication failure\r\n", "protocol_error"),
        (b"{tag} NO [ALERT] Too many simultaneous connections\r\n", "protocol_error"),
        (b"{tag} BAD Error in IMAP command\r\n", "protocol_error"),
    ],
)
async def test_only_a_refusal_of_the_password_is_one(
    script: Script, threads: ThreadPoolExecutor, answer: bytes, code: str
) -> None:
    script.answers["LOGIN"] = answer

    with pytest.raises(SourceError) as failure:
        await signed_in(script, threads)

    assert failure.value.code == code


async def test_user_names_and_passwords_with_quotes_stay_one_argument_each(
    script: Script, threads: ThreadPoolExecutor
) -> None:
    session = await signed_in(script, threads, username='sam "the" man', password='a\\"b c')

    (login,) = [line for line in script.commands if line.startswith("LOGIN")]
    assert login == 'LOGIN "sam \\"the\\" man" "a\\\\\\"b c"'
    await session.close()
