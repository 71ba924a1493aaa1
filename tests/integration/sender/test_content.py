"""What goes into a message, from the rows of the gateway to the octets a mail host got."""

import base64
import re
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

import httpx
import pytest
from psycopg.types.json import Jsonb
from tests.waiting import until

from paceline_common import ids, tracking
from paceline_common.keys import KeyService
from paceline_common.storage import AttachmentFiles, ObjectStore
from paceline_local.stack import Stack
from paceline_sender import attachments
from paceline_sender.domain.outcome import Answer
from paceline_sender.job import Job
from paceline_sender.settings import SenderSettings
from paceline_sender.transport import MailTransport

from .conftest import FakeTransport, Sender, World, key_login

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
PDF = b"%PDF-1.7 the offer\n" + bytes(range(256)) * 100


@pytest.fixture
async def files(house: Stack, settings: SenderSettings, keys: KeyService) -> AttachmentFiles:
    """What the gateway stores with."""
    return AttachmentFiles(ObjectStore.of(settings), keys)


@pytest.fixture
async def postal(make_sender: Callable[[Any], Sender], mail: MailTransport) -> Sender:
    made = make_sender(mail)
    await made.reconciler.beat_once()
    made.start()
    return made


async def attach(
    world: World, files: AttachmentFiles, *named: tuple[str, str, bytes, str | None]
) -> list[dict[str, Any]]:
    """Store files as the gateway does, and have step 1 send them."""
    step = world.one(
        "SELECT step_id FROM gateway.step WHERE workspace_id = %s AND position = 1",
        world.workspace_id,
    )["step_id"]
    rows = []
    for place, (filename, kind, content, content_id) in enumerate(named, 1):
        number = world.one("SELECT nextval('gateway.attachment_attachment_id_seq') AS n")["n"]
        key = files.new_key(world.workspace_id, number)
        await files.put(world.workspace_id, number, key, content)
        rows.append(world.one(
            "INSERT INTO gateway.attachment (workspace_id, attachment_id, filename, content_type,"
            " size, digest, content_id, storage_key, state)"
            " VALUES (%s, %s, %s, %s, %s, sha256(%s), %s, %s, 'stored') RETURNING *",
            world.workspace_id, number, filename, kind, len(content), content, content_id, key,
        ))  # fmt: skip
        world.rows(
            "INSERT INTO gateway.step_attachment (workspace_id, step_id, attachment_id, position)"
            " VALUES (%s, %s, %s, %s)",
            world.workspace_id, step, number, place,
        )  # fmt: skip
    return rows


def write_step(world: World, position: int = 1, **values: Any) -> None:
    for name, value in values.items():
        world.rows(
            f"UPDATE gateway.step SET {name} = %s WHERE workspace_id = %s AND position = %s",
            Jsonb(value) if isinstance(value, list) else value, world.workspace_id, position,
        )  # fmt: skip


def set_mailbox(world: World, **values: Any) -> None:
    for name, value in values.items():
        world.rows(
            f"UPDATE gateway.mailbox SET {name} = %s WHERE workspace_id = %s",
            Jsonb(value) if isinstance(value, list) else value, world.workspace_id,
        )  # fmt: skip


async def preview(client: httpx.AsyncClient, world: World, job: Job, **more: Any) -> dict[str, Any]:
    answer = await client.post(
        "/internal/preview/job",
        json={
            "workspace_id": job.workspace, "job_id": job.public_id,
            "at": job.slot_at.isoformat(), "raw": True, **more,
        },
    )  # fmt: skip
    assert answer.status_code == 200, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


async def finished(world: World, job: Job, state: str) -> None:
    at_rest = ("sent", "bounced", "failed", "queued", "in_doubt")
    await until(lambda: world.job_row(job)["state"] in at_rest, "an outcome")
    tries = [(one["outcome"], one["reason"], one["text"]) for one in world.attempts(job)]
    assert world.job_row(job)["state"] == state, tries


def parsed(data: bytes) -> EmailMessage:
    return message_from_bytes(data, _class=EmailMessage, policy=policy.default)


def delivered_octets(house: Stack, email: str) -> bytes:
    """What arrived, without what the mail host put before it."""
    (path,) = (house.mailhost.maildir(email) / "new").iterdir()
    whole = path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    return whole[re.search(rb"^Date: ", whole, re.MULTILINE).start() :]  # type: ignore[union-attr]


VARIANTS = [
    {"name": "A", "weight": 1, "subject": None, "text": "A {one|two} {{ first_name }}",
     "html": '<p>A {one|two}</p><a href="https://acme.com/?a=1&amp;b=2">x</a>'
             '<img src="cid:logo"><a href="{{ unsubscribe_url }}">out</a>'},
    {"name": "B", "weight": 3, "subject": "B {un|deux|trois}", "text": "B {{ first_name }}",
     "html": "<p>B</p>"},
]  # fmt: skip


async def test_a_preview_is_octet_for_octet_what_the_mail_host_got(
    house: Stack, world: World, postal: Sender, files: AttachmentFiles, client: httpx.AsyncClient
) -> None:
    write_step(world, variants=VARIANTS, subject="{Hi|Hello} {{ first_name }}")
    await attach(
        world, files, ("Angebot für Bøb.pdf", "application/pdf", PDF, None),
        ("logo.png", "image/png", PNG, "logo"),
    )  # fmt: skip
    set_mailbox(
        world, signature_text="Ann\n{{ sender.email }}", signature_html="<b>Ann</b>",
        headers=[["X-Team", "Nörd"]], encoding="base64", tracking_domain="t.north.test",
        reply_to="replies@north.test",
    )  # fmt: skip
    world.rows(
        "UPDATE gateway.workspace SET headers = %s WHERE workspace_id = %s",
        Jsonb([["X-Team", "hidden"], ["List-Id", "<offers.north.test>"]]), world.workspace_id,
    )  # fmt: skip
    world.rows(
        "UPDATE gateway.campaign SET track_opens = true, track_clicks = true"
        " WHERE workspace_id = %s",
        world.workspace_id,
    )
    recipients = [f"bob-{n}-{world.workspace_id}@example.test" for n in range(4)]
    for recipient in recipients:
        house.mailhost.add_user(recipient, "x")
    for n, recipient in enumerate(recipients):
        lead = world.lead(recipient, first_name=f"Bøb {n} {{a|b}} {{{{ x }}}}")
        job = world.job(lead, in_ms=3000, grace_ms=8000)
        # What a preview shows before the slot is what then leaves.
        told = await preview(client, world, job)
        postal.preparer.hold([job])
        await finished(world, job, "sent")
        await until(lambda at=recipient: any((house.mailhost.maildir(at) / "new").glob("*")), "in")  # type: ignore[misc]

        octets = base64.b64decode(told["message"])
        assert delivered_octets(house, recipient) == octets
        assert told["size"] == len(octets)
        assert told["variant"] == world.message(job)["variant"]
        assert told["subject"] == world.message(job)["subject"]
        assert told["missing"] == []
        message = parsed(octets)
        text = message.get_body(("plain",))
        assert text is not None
        assert text.get_content().replace("\r\n", "\n") == told["text"]
        assert f"Bøb {n} {{a|b}} {{{{ x }}}}" in told["text"]
        assert told["text"].endswith(f"\n\n-- \nAnn\n{world.email}\n")
        assert (message["X-Team"], message["List-Id"]) == ("Nörd", "<offers.north.test>")
        assert message["Reply-To"] == "replies@north.test"
        assert [one["filename"] for one in told["attachments"]] == [
            "Angebot für Bøb.pdf", "logo.png",
        ]  # fmt: skip
        held = {part.get_filename(): part.get_content() for part in message.walk()
                if part.get_filename()}  # fmt: skip
        assert held == {"Angebot für Bøb.pdf": PDF, "logo.png": PNG}


async def test_links_lead_to_the_mailboxes_own_domain_and_opting_out_does_not(
    house: Stack, world: World, client: httpx.AsyncClient
) -> None:
    write_step(world, variants=VARIANTS[:1])
    set_mailbox(world, tracking_domain="t.north.test")
    job = world.job(world.lead("bob@example.test"))
    plain = await preview(client, world, job)
    assert "t.north.test" not in plain["html"]
    world.rows(
        "UPDATE gateway.campaign SET track_opens = true, track_clicks = true"
        " WHERE workspace_id = %s",
        world.workspace_id,
    )
    shown = await preview(client, world, job)
    assert shown["text"] == plain["text"]
    found = re.findall(r'(?:href|src)="([^"]+)"', shown["html"])
    click, inline, opt_out, pixel = found
    assert inline == "cid:logo"
    assert opt_out.startswith(f"https://mail.example/u/{job.workspace}.{job.public_id}.")
    assert shown["html"].rstrip().endswith(f'<img src="{pixel}" width="1" height="1" alt="">')
    clicked = tracking.read_click(click.removeprefix("https://t.north.test/t/c/"))
    opened = tracking.read_open(pixel.removeprefix("https://t.north.test/t/o/"))
    assert clicked is not None
    assert opened is not None
    assert clicked.target == "https://acme.com/?a=1&b=2"
    assert (clicked.job_id, clicked.workspace_id, clicked.number) == (
        job.job_id, world.workspace_id, 1,
    )  # fmt: skip
    async with KeyService(key_login(house, "gateway")) as verifier:
        assert await verifier.verify_mac(
            [clicked.signed, opened.signed], [clicked.mac, opened.mac]
        ) == [True, True]
        # Not for another target, and not an open's for a click.
        assert await verifier.verify_mac(
            [clicked.signed.replace(b".1.", b".2."), clicked.signed], [clicked.mac, opened.mac]
        ) == [False, False]
    # Without a domain of its own a mailbox sends untracked, never on another's.
    set_mailbox(world, tracking_domain=None)
    assert (await preview(client, world, job))["html"] == plain["html"]


async def test_a_retry_keeps_what_was_drawn_whatever_was_changed_since(
    world: World, sender: Sender, transport: FakeTransport
) -> None:
    write_step(world, variants=VARIANTS)
    transport.answers["bob@example.test"] = Answer("deferred", "soft", code=451, text="later")
    job = world.job(world.lead("bob@example.test"))
    sender.preparer.hold([job])
    await finished(world, job, "queued")
    first = world.message(job)
    other = {"A": "B", "B": "A"}[first["variant"]]
    weights = {first["variant"]: 0, other: 1000}
    write_step(world, variants=[{**one, "weight": weights[one["name"]]} for one in VARIANTS])
    transport.answers.clear()
    row = world.one(
        "UPDATE scheduler.send_job SET state = 'reserved', mailbox_id = %s, pool_id = %s,"
        " slot_at = clock_timestamp() + interval '0.3 s',"
        " not_after = clock_timestamp() + interval '3 s' WHERE job_id = %s RETURNING *",
        world.mailbox_id, world.pool_id, job.job_id,
    )  # fmt: skip
    world.rows(
        "INSERT INTO scheduler.slot (workspace_id, job_id, fence, mailbox_id, slot_at, not_after,"
        " day, hour) VALUES (%s, %s, %s, %s, %s, %s, current_date, date_trunc('hour', now()))",
        world.workspace_id, job.job_id, row["fence"], world.mailbox_id, row["slot_at"],
        row["not_after"],
    )  # fmt: skip
    world.rows(
        "UPDATE scheduler.mailbox_budget SET outstanding = outstanding + 1,"
        " day_used = day_used + 1, hour_used = hour_used + 1 WHERE workspace_id = %s",
        world.workspace_id,
    )
    again = Job(
        world.workspace_id, job.job_id, row["fence"], world.mailbox_id, "campaign",
        row["slot_at"], row["not_after"],
    )  # fmt: skip
    sender.preparer.hold([again])
    await finished(world, job, "sent")
    assert world.message(job)["variant"] == first["variant"]
    tries = [parsed(data) for _, _, data, _ in transport.submitted]
    assert len({one["Subject"] for one in tries}) == 1
    assert len({one.get_body(("plain",)).get_content() for one in tries}) == 1  # type: ignore[union-attr]
    world.rows("SELECT set_config('app.workspace_ids', %s, false)", str(world.workspace_id))
    log = world.rows(
        "SELECT variant FROM sender.v_send_log WHERE job_id = %s ORDER BY attempt_no", job.job_id
    )
    assert [one["variant"] for one in log] == [first["variant"]] * 2


async def test_variants_are_shared_out_over_jobs(world: World, client: httpx.AsyncClient) -> None:
    write_step(world, variants=VARIANTS)
    drawn = Counter()
    asked = {
        "workspace_id": ids.encode("ws", world.workspace_id),
        "campaign_id": ids.encode("cmp", world.campaign_id),
        "step": 1, "mailbox_id": world.mailbox, "lead": {"first_name": "Bob"},
    }  # fmt: skip
    for draw in range(60):
        answer = await client.post("/internal/preview", json={**asked, "draw": draw})
        drawn[answer.json()["variant"]] += 1
    assert 5 <= drawn["A"] <= 28
    named = await client.post("/internal/preview", json={**asked, "variant": "A"})
    assert named.json()["variant"] == "A"
    wrong = await client.post("/internal/preview", json={**asked, "variant": "C"})
    assert (wrong.status_code, wrong.json()["code"]) == (404, "variant_not_found")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        ("lost", "attachment_missing"),
        ("altered", "attachment_unreadable"),
        ("exchanged", "attachment_unreadable"),
        ("deleted", "attachment_missing"),
    ],
)
async def test_a_file_that_cannot_go_along_fails_the_job(
    world: World, sender: Sender, transport: FakeTransport, files: AttachmentFiles,
    settings: SenderSettings, spoil: str, reason: str,
) -> None:  # fmt: skip
    one, other = await attach(
        world, files, ("offer.pdf", "application/pdf", PDF, None),
        ("logo.png", "image/png", PNG, None),
    )  # fmt: skip
    store = ObjectStore.of(settings)
    match spoil:
        case "lost":
            await store.delete(one["storage_key"])
        case "altered":
            held = await store.get(one["storage_key"])
            await store.put(one["storage_key"], held[:-1] + bytes([held[-1] ^ 1]))
        case "exchanged":
            await store.put(one["storage_key"], await store.get(other["storage_key"]))
        case "deleted":
            world.rows(
                "UPDATE gateway.attachment SET state = 'deleted' WHERE attachment_id = %s",
                one["attachment_id"],
            )
    job = world.job(world.lead("bob@example.test"))
    sender.preparer.hold([job])
    await finished(world, job, "failed")
    (attempt,) = world.attempts(job)
    assert (attempt["outcome"], attempt["reason"]) == ("failed", reason)
    assert attempt["claimed_at"] is None
    assert transport.submitted == []


async def test_a_storage_that_is_away_holds_the_job_back(
    world: World, make_sender: Callable[[Any], Sender], transport: FakeTransport,
    files: AttachmentFiles, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    await attach(world, files, ("offer.pdf", "application/pdf", PDF, None))
    # The sender's own storage is not set up: it cannot know whether the file is there.
    monkeypatch.setattr(ObjectStore, "of", classmethod(lambda cls, _settings: cls(None)))
    sender = make_sender(transport)
    await sender.reconciler.beat_once()
    sender.start()
    job = world.job(world.lead("bob@example.test"))
    sender.preparer.hold([job])
    await finished(world, job, "queued")
    (attempt,) = world.attempts(job)
    assert (attempt["outcome"], attempt["reason"]) == ("unsent", "storage_unavailable")
    assert transport.submitted == []
    assert world.job_row(job)["due_at"] > datetime.now(job.slot_at.tzinfo)


async def test_a_message_that_is_too_large_fails_before_its_claim(
    world: World, sender: Sender, transport: FakeTransport, files: AttachmentFiles,
    settings: SenderSettings,
) -> None:  # fmt: skip
    await attach(
        world, files, ("a.bin", "application/zip", bytes(settings.message_max_bytes), None)
    )
    job = world.job(world.lead("bob@example.test"))
    sender.preparer.hold([job])
    await finished(world, job, "failed")
    (attempt,) = world.attempts(job)
    assert (attempt["reason"], attempt["claimed_at"]) == ("message_too_large", None)


async def test_a_file_is_fetched_once_for_the_jobs_of_a_moment(
    world: World, sender: Sender, transport: FakeTransport, files: AttachmentFiles,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    await attach(world, files, ("offer.pdf", "application/pdf", PDF, None))
    fetched = []
    get = ObjectStore.get

    async def counted(self: ObjectStore, key: str) -> bytes:
        fetched.append(key)
        return await get(self, key)

    monkeypatch.setattr(ObjectStore, "get", counted)
    jobs = [world.job(world.lead(f"b{n}@example.test"), in_ms=400) for n in range(5)]
    sender.preparer.hold(jobs)
    for job in jobs:
        await finished(world, job, "sent")
    assert len(fetched) == 1
    assert attachments.KEPT_FOR.total_seconds() <= 60


async def test_the_envelope_has_the_mailboxes_return_path(
    world: World, sender: Sender, transport: FakeTransport
) -> None:
    set_mailbox(world, return_path="bounces@north.test")
    job = world.job(world.lead("bob@example.test"))
    sender.preparer.hold([job])
    await finished(world, job, "sent")
    ((envelope_from, _, data, _),) = transport.submitted
    assert envelope_from == "bounces@north.test"
    assert parsed(data)["From"].addresses[0].addr_spec == world.email


async def test_a_preview_of_a_follow_up_continues_what_was_sent(
    world: World, sender: Sender, transport: FakeTransport, client: httpx.AsyncClient
) -> None:
    enrollment = world.lead("bob@example.test", company="Two")
    first = world.job(enrollment)
    sender.preparer.hold([first])
    await finished(world, first, "sent")
    second = world.job(enrollment, step=2, in_ms=60_000, grace_ms=1000)
    shown = await preview(client, world, second)
    fields = {one["name"]: one["value"] for one in shown["headers"]}
    assert shown["subject"] == "Re: Hello Bob"
    assert fields["In-Reply-To"] == world.message(first)["message_id"]
    # Another mailbox may be tried; a job without any needs one.
    answer = await client.post(
        "/internal/preview/job",
        json={"workspace_id": second.workspace, "job_id": ids.encode("job", 2**40)},
    )
    assert (answer.status_code, answer.json()["code"]) == (404, "job_not_found")
