"""Google's own client against the Gmail twin: the twin is Gmail to software nobody here wrote."""

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import pytest
from google.auth.exceptions import RefreshError
from google.oauth2.credentials import Credentials
from googleapiclient.discovery import build_from_document  # type: ignore[import-untyped]
from googleapiclient.errors import HttpError  # type: ignore[import-untyped]
from googleapiclient.http import MediaIoBaseUpload  # type: ignore[import-untyped]
from tests.conformance.providers.stage import RECIPIENT, SENDER, message
from tests.twins.gmail.oauth import CLIENT_ID, CLIENT_SECRET
from tests.twins.gmail.server import GmailTwin, running


@dataclass
class Google:
    """The twin, and Google's client signed in to one of its accounts."""

    twin: GmailTwin
    users: Any
    credentials: Credentials

    async def run(self, request: Any) -> Any:
        """Execute a request of the client, which blocks."""
        return await asyncio.to_thread(request.execute)


@pytest.fixture
async def google() -> AsyncIterator[Google]:
    async with running() as (twin, url):
        twin.add_mailbox(SENDER)
        twin.add_mailbox(RECIPIENT)
        granted = twin.identity.grant(SENDER)
        credentials = Credentials(  # type: ignore[no-untyped-call]
            granted["access_token"],
            refresh_token=granted["refresh_token"],
            token_uri=f"{url}/token",
            client_id=CLIENT_ID,
            client_secret=CLIENT_SECRET,
        )
        # The published description with the twin's address: uploads keep its scheme.
        folder = files("googleapiclient") / "discovery_cache" / "documents"
        described = json.loads((folder / "gmail.v1.json").read_text("utf-8"))
        described |= {"rootUrl": f"{url}/", "baseUrl": f"{url}/"}
        service = build_from_document(
            described, credentials=credentials, client_options={"api_endpoint": url}
        )
        yield Google(twin, service.users(), credentials)
        service.close()


def raw(data: bytes) -> dict[str, Any]:
    return {"raw": base64.urlsafe_b64encode(data).decode()}


async def test_it_sends_and_reads_back(google: Google) -> None:
    sent = await google.run(google.users.messages().send(userId="me", body=raw(message("job_1"))))
    assert sent["labelIds"] == ["SENT"]
    assert [one.job for one in google.twin.submissions] == ["job_1"]
    back = await google.run(
        google.users.messages().get(
            userId=SENDER, id=sent["id"], format="metadata", metadataHeaders=["Message-ID"]
        )
    )
    assert back["payload"]["headers"] == [{"name": "Message-ID", "value": "<job_1@north.test>"}]
    found = await google.run(
        google.users.messages().list(userId="me", q="rfc822msgid:job_1@north.test in:sent")
    )
    assert [one["id"] for one in found["messages"]] == [sent["id"]]


async def test_it_uploads_a_large_message_into_a_thread(google: Google) -> None:
    first = await google.run(google.users.messages().send(userId="me", body=raw(message("job_1"))))
    extra = "References: <job_1@north.test>\r\n"
    data = message("job_2", subject="Re: Hello", extra=extra, size=6_000_000)
    second = await google.run(
        google.users.messages().send(
            userId="me",
            body={"threadId": first["threadId"]},
            media_body=MediaIoBaseUpload(io.BytesIO(data), "message/rfc822"),
        )
    )
    assert second["threadId"] == first["threadId"]
    # The client writes the part through Python's email package, whose line ends are bare.
    assert (
        google.twin.submissions[1].raw.replace(b"\r\n", b"\n").strip()
        == data.replace(b"\r\n", b"\n").strip()
    )
    thread = await google.run(google.users.threads().get(userId="me", id=first["threadId"]))
    assert [one["id"] for one in thread["messages"]] == [first["id"], second["id"]]


async def test_a_draft_is_sent_once_or_deleted(google: Google) -> None:
    drafts = google.users.drafts()
    draft = await google.run(drafts.create(userId="me", body={"message": raw(message("job_1"))}))
    listed = await google.run(drafts.list(userId="me"))
    assert [one["id"] for one in listed["drafts"]] == [draft["id"]]
    await google.run(drafts.send(userId="me", body={"id": draft["id"]}))
    with pytest.raises(HttpError) as gone:
        await google.run(drafts.delete(userId="me", id=draft["id"]))
    assert gone.value.status_code == 404
    assert len(google.twin.submissions) == 1
    other = await google.run(drafts.create(userId="me", body={"message": raw(message("job_2"))}))
    assert await google.run(drafts.delete(userId="me", id=other["id"])) == ""
    with pytest.raises(HttpError):
        await google.run(drafts.send(userId="me", body={"id": other["id"]}))
    assert len(google.twin.submissions) == 1


async def test_history_tells_what_arrived_and_forgets_in_time(google: Google) -> None:
    mailbox = google.twin.mailboxes[SENDER]
    profile = await google.run(google.users.getProfile(userId="me"))
    assert profile["emailAddress"] == SENDER
    await google.run(google.users.messages().send(userId="me", body=raw(message("job_1"))))
    # The report comes late, into the thread of what it reports.
    report = google.twin.bounce(google.twin.submissions[0])
    assert report.thread_id == google.twin.submissions[0].thread_id
    request = google.users.history().list(
        userId="me", startHistoryId=profile["historyId"], historyTypes=["messageAdded"],
        maxResults=1,
    )  # fmt: skip
    pages = []
    while request is not None:
        page = await google.run(request)
        pages.append(page)
        request = google.users.history().list_next(request, page)
    added = [
        one["message"]["id"]
        for page in pages
        for record in page.get("history", ())
        for one in record["messagesAdded"]
    ]
    assert len(pages) == 2
    assert added == [google.twin.submissions[0].id, report.id]
    mailbox.forget_history()
    with pytest.raises(HttpError) as stale:
        await google.run(
            google.users.history().list(userId="me", startHistoryId=profile["historyId"])
        )
    assert stale.value.status_code == 404


async def test_a_draft_is_changed_under_the_same_id_and_sent_into_its_thread(
    google: Google,
) -> None:
    first = await google.run(google.users.messages().send(userId="me", body=raw(message("job_1"))))
    drafts = google.users.drafts()
    draft = await google.run(drafts.create(userId="me", body={"message": raw(message("job_x"))}))
    data = message("job_2", subject="Re: Hello", extra="References: <job_1@north.test>\r\n")
    body = {"message": raw(data) | {"threadId": first["threadId"]}}
    changed = await google.run(drafts.update(userId="me", id=draft["id"], body=body))
    assert changed["id"] == draft["id"]
    assert changed["message"]["threadId"] == first["threadId"]
    sent = await google.run(drafts.send(userId="me", body={"id": draft["id"]}))
    assert sent["threadId"] == first["threadId"]
    assert [one.job for one in google.twin.submissions] == ["job_1", "job_2"]
    threads = await google.run(google.users.threads().list(userId="me", labelIds=["SENT"]))
    assert [one["id"] for one in threads["threads"]] == [first["threadId"]]


async def test_history_tells_of_labels_and_deletions_and_of_a_draft_that_was_sent(
    google: Google,
) -> None:
    start = (await google.run(google.users.getProfile(userId="me")))["historyId"]
    drafts = google.users.drafts()
    draft = await google.run(drafts.create(userId="me", body={"message": raw(message("job_1"))}))
    sent = await google.run(drafts.send(userId="me", body={"id": draft["id"]}))
    await google.run(
        google.users.messages().modify(
            userId="me", id=sent["id"], body={"addLabelIds": ["STARRED"]}
        )
    )
    await google.run(google.users.messages().trash(userId="me", id=sent["id"]))
    page = await google.run(google.users.history().list(userId="me", startHistoryId=start))
    told = [
        (kind, entry["message"]["id"], entry.get("labelIds"))
        for record in page["history"]
        for kind in ("messagesAdded", "messagesDeleted", "labelsAdded")
        for entry in record.get(kind, ())
    ]
    drafted = draft["message"]["id"]
    assert told == [
        ("messagesAdded", drafted, None), ("messagesDeleted", drafted, None),
        ("messagesAdded", sent["id"], None), ("labelsAdded", sent["id"], ["STARRED"]),
        ("labelsAdded", sent["id"], ["TRASH"]),
    ]  # fmt: skip
    assert page["historyId"] > start
    newest = await google.run(
        google.users.history().list(userId="me", startHistoryId=page["historyId"])
    )
    assert "history" not in newest
    unread = await google.run(google.users.labels().get(userId="me", id="TRASH"))
    assert unread["messagesTotal"] == 1


async def test_what_was_sent_shows_late_in_the_search_index(google: Google) -> None:
    google.twin.mailboxes[SENDER].conduct.index_lag_s = 60
    sent = await google.run(google.users.messages().send(userId="me", body=raw(message("job_1"))))
    listing = google.users.messages().list(userId="me", q="in:sent to:bob@example.test")
    assert "messages" not in await google.run(listing)
    google.twin.advance(61)
    assert [one["id"] for one in (await google.run(listing))["messages"]] == [sent["id"]]


async def test_an_expired_token_is_refreshed_and_a_revoked_one_is_not(google: Google) -> None:
    google.twin.identity.expire(SENDER)
    await google.run(google.users.getProfile(userId="me"))
    assert google.twin.identity.refreshes == 1
    google.twin.identity.revoke_all(SENDER)
    with pytest.raises(RefreshError, match="expired or revoked"):
        await google.run(google.users.getProfile(userId="me"))


async def test_a_limit_shows_in_googles_own_error(google: Google) -> None:
    google.twin.mailboxes[SENDER].conduct.sends_per_day = 0
    with pytest.raises(HttpError) as limited:
        await google.run(google.users.messages().send(userId="me", body=raw(message("job_1"))))
    assert limited.value.status_code == 429
    assert "Retry after" in limited.value.reason
    assert google.twin.submissions == []
