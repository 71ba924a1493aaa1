"""More of the Graph twin as Microsoft publishes it: folders, attachments, limits, renewals."""

from datetime import UTC, datetime, timedelta
from email.message import EmailMessage

from tests.integration.providers.graph_mailbox import SENDER, connected, mime
from tests.integration.providers.test_graph_twin import (
    COUNT,
    ERROR,
    FLAG,
    FOLDER,
    IMMUTABLE,
    MAYBE,
    MESSAGE,
    TEXT,
    Shape,
    ask,
    check,
    draft,
)

# resources/fileattachment.md, what a listing shows of it.
ATTACHMENT: Shape = {
    "@odata.type": TEXT, "id": TEXT, "name": TEXT, "contentType": TEXT, "size": COUNT,
    "isInline": FLAG, "contentId": MAYBE, "contentBytes": TEXT,
}  # fmt: skip


async def test_every_well_known_folder_is_listed() -> None:
    # api/user-list-mailfolders.md
    async with connected() as ann:
        listed = (await ask(ann, "GET", "me/mailFolders")).json()
        assert "@odata.context" in listed
        for folder in listed["value"]:
            check(folder, FOLDER)
        names = [folder["displayName"] for folder in listed["value"]]
        assert names == ["inbox", "drafts", "sentitems", "junkemail", "deleteditems"]


async def test_a_message_is_moved_and_read_and_counted_so() -> None:
    # api/message-move.md; a new id in the new folder, unless it is an immutable one
    async with connected() as ann:
        item = ann.mailbox.add_mime(mime(), "inbox")
        before = item.regular_id
        inbox = "me/mailFolders/inbox"
        assert (await ask(ann, "GET", inbox)).json()["unreadItemCount"] == 1
        path = f"me/messages/{item.immutable_id}"
        await ask(ann, "PATCH", path, json={"isRead": True})
        assert (await ask(ann, "GET", inbox)).json()["unreadItemCount"] == 0
        body = {"destinationId": "junkemail"}
        moved = await ask(ann, "POST", f"{path}/move", json=body, headers=IMMUTABLE)
        assert moved.status_code == 201
        check(moved.json(), MESSAGE)
        assert moved.json()["id"] == item.immutable_id
        assert (await ask(ann, "GET", f"me/messages/{before}")).status_code == 404
        assert (await ask(ann, "GET", inbox)).json()["totalItemCount"] == 0


async def test_attachments_have_the_published_fields() -> None:
    # api/message-list-attachments.md
    async with connected() as ann:
        built = EmailMessage()
        built["From"], built["To"], built["Subject"] = "bob@example.test", SENDER, "With a table"
        built.set_content("See the table.")
        built.add_attachment(b"a,b", maintype="text", subtype="csv", filename="table.csv")
        item = ann.mailbox.add_mime(bytes(built), "inbox")
        shown = (await ask(ann, "GET", f"me/messages/{item.immutable_id}/attachments")).json()
        [one] = shown["value"]
        check(one, ATTACHMENT)
        assert (one["name"], one["contentBytes"]) == ("table.csv", "YSxi")
        whole = (await ask(ann, "GET", f"me/messages/{item.immutable_id}")).json()
        assert whole["hasAttachments"] is True


async def test_too_many_requests_in_ten_minutes_are_refused_for_a_while() -> None:
    # concepts/throttling-limits.md (Outlook service limits)
    async with connected() as ann:
        ann.mailbox.conduct.requests_per_10_min = 2
        answers = [await ask(ann, "GET", "me") for _ in range(3)]
        assert [one.status_code for one in answers] == [200, 200, 429]
        check(answers[2].json(), ERROR)
        assert answers[2].json()["error"]["code"] == "ApplicationThrottled"
        assert int(answers[2].headers["Retry-After"]) > 0
        ann.twin.advance(601)
        assert (await ask(ann, "GET", "me")).status_code == 200


async def test_the_daily_limit_is_a_sliding_one() -> None:
    async with connected() as ann:
        ann.mailbox.conduct.sends_per_day = 1
        made = [await draft(ann), await draft(ann)]
        sent = [await ask(ann, "POST", f"me/messages/{one['id']}/send") for one in made]
        assert [one.status_code for one in sent] == [202, 429]
        assert sent[1].json()["error"]["code"] == "ErrorExceededMessageLimit"
        # The refused one is a draft still, and leaves when the first is a day old.
        ann.twin.advance(86_401)
        ann.tokens.access = ann.twin.identity.grant(SENDER)["access_token"]
        again = await ask(ann, "POST", f"me/messages/{made[1]['id']}/send")
        assert again.status_code == 202
        assert len(ann.truth) == 2


async def test_what_recipients_get_is_exchanges_own_header_and_our_body() -> None:
    async with connected() as ann:
        ann.mailbox.conduct.rewrites_message_id = True
        extra = "References: <a@x.test>\r\nAuto-Submitted: auto-generated\r\nBcc: eve@x.test\r\n"
        made = ann.mailbox.add_mime(mime(extra=extra), "drafts", is_draft=True)
        await ask(ann, "POST", f"me/messages/{made.immutable_id}/send")
        [one] = ann.truth
        text = one.raw.decode()
        head, _, body = text.partition("\r\n\r\n")
        assert f"Message-ID: {one.message_id}" in head
        assert one.message_id != one.submitted_message_id
        assert "References: <a@x.test>" in head
        assert "Auto-Submitted" not in head
        assert "eve@x.test" not in text
        assert body == mime().decode().partition("\r\n\r\n")[2]
        assert set(one.recipients) == {"bob@example.test", "eve@x.test"}


async def test_a_subscription_is_renewed_and_an_unknown_one_is_not() -> None:
    async with connected() as ann:
        until = (datetime.now(UTC) + timedelta(days=1)).isoformat()
        body = {"expirationDateTime": until}
        missing = await ask(ann, "PATCH", "subscriptions/nothing", json=body)
        assert missing.status_code == 404
        ann.twin.subscriptions["s1"] = (SENDER, {"expirationDateTime": "x", "resource": "r"})
        renewed = await ask(ann, "PATCH", "subscriptions/s1", json=body)
        assert renewed.status_code == 200
        assert renewed.json()["expirationDateTime"].endswith("Z")


async def test_a_sent_message_that_shows_late_is_told_of_by_delta_when_it_shows() -> None:
    async with connected() as ann:
        ann.mailbox.conduct.sent_lag_s = 60
        link = "me/mailFolders/sentitems/messages/delta"
        first = (await ask(ann, "GET", link, headers=IMMUTABLE)).json()
        made = await draft(ann)
        await ask(ann, "POST", f"me/messages/{made['id']}/send")
        token = first["@odata.deltaLink"].partition("?")[2]
        second = (await ask(ann, "GET", f"{link}?{token}", headers=IMMUTABLE)).json()
        assert second["value"] == []
        ann.twin.advance(61)
        token = second["@odata.deltaLink"].partition("?")[2]
        third = (await ask(ann, "GET", f"{link}?{token}", headers=IMMUTABLE)).json()
        assert [one["id"] for one in third["value"]] == [made["id"]]
