"""A twin under load: a mailbox with thousands of messages answers as fast as an empty one."""

import base64
import time
from collections.abc import Callable

import pytest
from tests.twins.gmail.calls import Call
from tests.twins.gmail.oauth import EVERYTHING, Access
from tests.twins.gmail.operations import OPERATIONS, Asked
from tests.twins.gmail.server import GmailTwin
from tests.twins.graph.server import GraphTwin

ANN = "ann@north.test"
BATCH = 250
BATCHES = 6


def message(number: int) -> bytes:
    return (
        f"From: {ANN}\r\nTo: bob{number}@example.test\r\nSubject: Re: Hello\r\n"
        f"Message-ID: <{number}@north.test>\r\nReferences: <{number - 1}@north.test>\r\n"
        f"X-Paceline-Job: job_{number}\r\n\r\nHello\r\n"
    ).encode()


def gmail() -> Callable[[int], None]:
    twin = GmailTwin()
    mailbox = twin.add_mailbox(ANN)
    mailbox.conduct.sends_per_day = mailbox.conduct.units_per_minute = 10**9
    access = Access(ANN, frozenset(EVERYTHING), twin.now())

    def ask(name: str, **parameters: str) -> None:
        given = {key: [value] for key, value in parameters.items()}
        one = Asked(name, OPERATIONS[name], "me", "")
        Call(mailbox, access, one, given, "", b"", False, twin.now()).run()

    def work(number: int) -> None:
        draft = mailbox.create_draft(message(number), None)
        mailbox.send_draft(draft)
        mailbox.receive(message(number).replace(b"<", b"<r"))
        ask("users.history.list", startHistoryId=str(mailbox.history_id - 3))
        after = str(int(time.time()))
        ask("users.messages.list", q=f"in:sent to:bob{number}@example.test after:{after}",
            maxResults="100")  # fmt: skip
        ask("users.getProfile")

    return work


def graph() -> Callable[[int], None]:
    twin = GraphTwin()
    mailbox = twin.add_mailbox(ANN)
    mailbox.conduct.sends_per_day = 10**9

    def work(number: int) -> None:
        item = mailbox.add_mime(message(number), "drafts", is_draft=True)
        mailbox.send(mailbox.find(item.immutable_id))
        mailbox.find(item.regular_id)
        mailbox.add_mime(message(number).replace(b"<", b"<r"), "inbox")
        mailbox.changed_since("inbox", mailbox.changes - 1, created_only=True)

    return work


@pytest.mark.parametrize("begin", [gmail, graph])
def test_the_last_of_thousands_takes_no_longer_than_the_first(
    begin: Callable[[], Callable[[int], None]],
) -> None:
    work, took = begin(), []
    for batch in range(BATCHES):
        started = time.process_time()
        for number in range(batch * BATCH, (batch + 1) * BATCH):
            work(number)
        took.append(time.process_time() - started)
    # What looks at every message would take six times as long in the last batch.
    assert min(took[-2:]) < 2.5 * max(took[:2]), took


def test_a_large_message_is_taken_without_being_read_line_by_line() -> None:
    twin = GmailTwin()
    mailbox = twin.add_mailbox(ANN)
    raw = message(1) + b"a line of no interest, but of some length\r\n" * 500_000
    started = time.process_time()
    mailbox.send(base64.b64decode(base64.b64encode(raw)), None)
    assert time.process_time() - started < 2
    assert twin.submissions[0].raw == raw
