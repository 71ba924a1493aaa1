"""Follow-ups stand in one conversation, in each client, whoever sends them."""

import hashlib
import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.sender.messages import PARTS, parse

from paceline_sender.domain import conversation
from paceline_sender.domain.conversation import MAX_REFERENCES, SentMessage, Thread
from paceline_sender.domain.message import build

# ---- what carries a message, and what becomes of its Message-ID


@dataclass(frozen=True)
class Carrier:
    """A mailbox's way out. PROVIDERS §1.2, 2.2 and 2.5 say who rewrites and who tells."""

    name: str
    rewrites: bool
    tells: bool = True


SMTP = Carrier("smtp", rewrites=False)
GMAIL = Carrier("gmail", rewrites=True)
GRAPH = Carrier("graph", rewrites=True)
# smtp.office365.com rewrites; a grant to send alone cannot read back.
EXCHANGE_SMTP = Carrier("smtp.office365.com", rewrites=True, tells=False)
SEND_ONLY = Carrier("Mail.Send alone", rewrites=True, tells=False)
TELLING = (SMTP, GMAIL, GRAPH)


@dataclass(frozen=True)
class Arrived:
    """A message as it lies in the recipient's mailbox."""

    message_id: str
    named: tuple[str, ...]
    subject: str
    sender: str
    at: datetime


def delivered(carriers: Sequence[Carrier], subjects: Iterable[str]) -> list[Arrived]:
    """Send one message after another, by its octets; what follows knows what was told."""
    sent: list[SentMessage] = []
    box: list[Arrived] = []
    for number, (carrier, own) in enumerate(zip(carriers, subjects, strict=False)):
        subject = conversation.subject(own, sent)
        own_id = f"<{number:016x}.0123456789abcdef@one.test>"
        parts = replace(
            PARTS,
            from_email=f"sender{number}@one.test",
            subject=subject,
            message_id=own_id,
            date=PARTS.date + timedelta(days=9 * number),
            thread=conversation.thread(subject, sent),
        )
        read = parse(build(parts))
        seen_id = f"<AM{number}PR=01+{number}@am{number}.prod.outlook.com>"
        message_id = seen_id if carrier.rewrites else own_id
        named = f"{read['In-Reply-To'] or ''} {read['References'] or ''}".split()
        box.append(Arrived(message_id, tuple(named), read["Subject"], parts.from_email, parts.date))
        sent.append(SentMessage(message_id if carrier.tells else own_id, subject))
    return box


# ---- how clients group

_PREFIX = re.compile(r"^(?:(?:re|r|fwd?|aw|wg|sv|vs|antw)(?:\[\d+\])?\s*:\s*)+", re.IGNORECASE)
Groups = list[set[int]]


def topic(subject: str) -> str:
    return _PREFIX.sub("", subject).strip()


def gmail(box: Sequence[Arrived]) -> Groups:
    """The same subject, and References that name ids seen in the thread, or that consistently
    name the same; without References the same sender within a week
    (workspaceupdates.googleblog.com/2019/03/threading-changes-in-gmail-conversation-view.html).
    """

    def joins(one: Arrived, group: Sequence[Arrived]) -> bool:
        if topic(one.subject) != topic(group[0].subject):
            return False
        if one.named:
            seen = {name for other in group for name in (other.message_id, *other.named)}
            return not seen.isdisjoint(one.named)
        return any(
            one.sender == other.sender and one.at - other.at <= timedelta(days=7) for other in group
        )

    return _grouped(box, joins)


def exchange(box: Sequence[Arrived]) -> Groups:
    """References and In-Reply-To lead to the first message; another subject is another
    conversation (learn.microsoft.com/exchange/client-developer/exchange-web-services/
    how-to-work-with-conversations-by-using-ews-in-exchange). Taken strictly: ids count only
    of messages that are there.
    """

    def joins(one: Arrived, group: Sequence[Arrived]) -> bool:
        return topic(one.subject).casefold() == topic(group[0].subject).casefold() and any(
            other.message_id in one.named for other in group
        )

    return _grouped(box, joins)


def outlook(box: Sequence[Arrived]) -> Groups:
    """Outlook by itself, for messages without a tracked index: the hash of the topic
    ([MS-PST] 5.4, [MS-OXOMSG] 2.2.1.2).
    """

    def conversation_id(one: Arrived) -> bytes:
        return hashlib.md5(topic(one.subject)[:255].upper().encode("utf-16-le")).digest()

    return _grouped(box, lambda one, group: conversation_id(one) == conversation_id(group[0]))


def references(box: Sequence[Arrived]) -> Groups:
    """Apple Mail, Thunderbird, Dovecot: RFC 5256 THREAD=REFERENCES without its subject step;
    a message that is named but absent holds together those who name it.
    """
    groups: list[tuple[set[int], set[str]]] = []
    for number, one in enumerate(box):
        members, ids = {number}, {one.message_id, *one.named}
        for group in [group for group in groups if not group[1].isdisjoint(ids)]:
            members |= group[0]
            ids |= group[1]
            groups.remove(group)
        groups.append((members, ids))
    return sorted((members for members, _ in groups), key=min)


def _grouped(box: Sequence[Arrived], joins: Callable[[Arrived, Sequence[Arrived]], bool]) -> Groups:
    groups: Groups = []
    for number, one in enumerate(box):
        for group in groups:
            if joins(one, [box[member] for member in sorted(group)]):
                group.add(number)
                break
        else:
            groups.append({number})
    return groups


CLIENTS = (gmail, exchange, outlook, references)

# ---- one conversation


@pytest.mark.parametrize("client", CLIENTS)
def test_any_mix_of_transports_is_one_conversation(client: Callable[..., Groups]) -> None:
    for carriers in itertools.product(TELLING, repeat=4):
        box = delivered(carriers, ["A question", "", "", ""])
        assert client(box) == [{0, 1, 2, 3}], [carrier.name for carrier in carriers]


@settings(deadline=None, max_examples=40)
@given(
    carriers=st.lists(st.sampled_from(TELLING), min_size=1, max_size=30),
    first=st.sampled_from(["Hello", "Re: Hello", "ré: 😀", "x" * 600, "=?utf-8?q?x?=", "AW: a"]),
    repeats=st.booleans(),
)
def test_a_long_chain_is_one_conversation(
    carriers: list[Carrier], first: str, repeats: bool
) -> None:
    """Longer than References may be; the follow-ups have no subject, or say the same again."""
    box = delivered(carriers, [first, *[f"re: {first}" if repeats else ""] * 29])
    for client in CLIENTS:
        assert client(box) == [set(range(len(box)))], client.__name__


@pytest.mark.parametrize("client", CLIENTS)
def test_a_new_subject_begins_a_conversation_in_every_client(
    client: Callable[..., Groups],
) -> None:
    subjects = ["A question", "", "Another", "", "re: Another"]
    box = delivered((SMTP, GRAPH, GMAIL, SMTP, GRAPH), subjects)
    assert client(box) == [{0, 1}, {2, 3, 4}]
    assert box[3].subject == "Re: Another"


@pytest.mark.parametrize("carrier", [EXCHANGE_SMTP, SEND_ONLY])
@pytest.mark.parametrize("client", CLIENTS)
def test_what_is_lost_where_a_rewritten_id_cannot_be_read(
    client: Callable[..., Groups], carrier: Carrier
) -> None:
    """Only the first message's id matters: without it the follow-ups stand apart from it, but
    together, in all clients that go by ids."""
    box = delivered((carrier, SMTP, GMAIL, SMTP), ["A question", "", "", ""])
    assert client(box) == ([{0, 1, 2, 3}] if client is outlook else [{0}, {1, 2, 3}])
    for later in (1, 2, 3):
        carriers = [SMTP] * 4
        carriers[later] = carrier
        assert client(delivered(carriers, ["A question", "", "", ""])) == [{0, 1, 2, 3}]


def test_the_models_tell_a_broken_chain() -> None:
    """What the clients are asked about is not true of anything that looks alike."""
    box = delivered((SMTP, SMTP), ["A question", ""])
    unnamed = [box[0], replace(box[1], named=("<other@one.test>",))]
    assert gmail(unnamed) == exchange(unnamed) == references(unnamed) == [{0}, {1}]
    renamed = [box[0], replace(box[1], subject="Re: A question!")]
    assert gmail(renamed) == exchange(renamed) == outlook(renamed) == [{0}, {1}]


# ---- the parts of it

IDS = st.lists(st.integers(0, 999), max_size=40)


@settings(deadline=None)
@given(IDS)
def test_a_chain_begins_with_the_first_and_ends_with_the_last(numbers: list[int]) -> None:
    subjects = itertools.chain(["Hello"], itertools.repeat("Re: Hello"))
    sent = [SentMessage(f"<{n}@one.test>", next(subjects)) for n in numbers]
    thread = conversation.thread("Re: Hello", sent)
    if not sent:
        assert thread == Thread(None, ())
        return
    assert thread.in_reply_to == thread.references[-1] == sent[-1].message_id
    assert len(thread.references) <= MAX_REFERENCES
    assert len(set(thread.references)) == len(thread.references)
    assert set(thread.references) <= {message.message_id for message in sent}
    if len(set(numbers)) == len(numbers):
        assert thread.references[0] == sent[0].message_id


def test_a_chain_that_is_too_long_keeps_the_first_and_the_latest() -> None:
    ids = [f"<{n}@one.test>" for n in range(MAX_REFERENCES + 9)]
    thread = conversation.thread("Re: Hello", [SentMessage(one, "Hello") for one in ids])
    assert thread == Thread(ids[-1], (ids[0], *ids[10:]))


@pytest.mark.parametrize(
    ("own", "first", "expected"),
    [
        ("", "Hello", "Re: Hello"),
        ("", "re: RE : Hello", "Re: Hello"),
        ("", "Re[2]: Hello", "Re: Hello"),
        ("", "Re:", "Re:"),
        ("", "Reply: Hello", "Re: Reply: Hello"),
        ("", "Fwd: Hello", "Re: Fwd: Hello"),
        ("Something else", "Hello", "Something else"),
        ("RE: hello", "Hello", "RE: hello"),
        ("  ", "Hello", "Re: Hello"),
        ("x" * 600, "Hello", "x" * 500),
        ("re:" * 900 + "Hello", "Hello", "Re: Hello"),
    ],
)
def test_the_subject_of_a_follow_up(own: str, first: str, expected: str) -> None:
    sent = [SentMessage("<1@one.test>", first)]
    assert conversation.subject(own, sent) == expected
    again = [*sent, SentMessage("<2@one.test>", conversation.subject("", sent))]
    if not own.strip():
        assert conversation.subject(own, again) == expected


def test_the_first_message_has_its_own_subject_or_none() -> None:
    assert conversation.subject("Hello", []) == "Hello"
    assert conversation.subject("", []) == ""


@pytest.mark.parametrize(
    "read_back",
    ["", "no id", "<a@b", "a@b", "<a b@c>", "<a@b>\r\nBcc: <c@d>", "<a@b> <c@d>", "<é@b>",
     "<=?utf-8?q?x?=@b>", "<" + "a" * 999 + "@b>"],
)  # fmt: skip
def test_an_id_of_another_that_is_no_id_is_not_named(read_back: str) -> None:
    sent = [SentMessage("<1@one.test>", "Hello"), SentMessage(read_back, "Re: Hello")]
    assert conversation.thread("Re: Hello", sent) == Thread("<1@one.test>", ("<1@one.test>",))


def test_a_message_id_is_fixed_by_job_workspace_and_domain() -> None:
    first = conversation.message_id("job_00000000000000aa", "ws_00000000000000bb", "one.test")
    assert first == "<00000000000000aa.00000000000000bb@one.test>"
