"""The Gmail twin against Google's discovery document: nothing is served that is not described.

The document is the one in google-api-python-client, which Google generates.
"""

import base64
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from email.message import EmailMessage
from importlib.resources import files
from typing import Any, Final

import httpx
import pytest
from tests.conformance.providers.stage import RECIPIENT, SENDER, message
from tests.twins.gmail.oauth import ALL_MAIL, EVERYTHING, PREFIX
from tests.twins.gmail.operations import GLOBAL_PARAMETERS, OPERATIONS, Operation
from tests.twins.gmail.server import GmailTwin, running

ME: Final = "gmail/v1/users/me"
_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]*={0,2}")
# Bytes at all offsets that the two alphabets of base64 write differently.
_ODD: Final = "X-Odd: ???? >>>> ????? >>>>> ~~~ ???>>>??>\r\n"


@pytest.fixture(scope="module")
def description() -> dict[str, Any]:
    folder = files("googleapiclient") / "discovery_cache" / "documents"
    document: dict[str, Any] = json.loads((folder / "gmail.v1.json").read_text("utf-8"))
    return document


def described(description: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the description of a method, by its name without `gmail.`."""
    *resources, method = name.split(".")
    here: Mapping[str, Any] = description
    for resource in resources:
        here = here["resources"][resource]
    found: dict[str, Any] = here["methods"][method]
    return found


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_is_described_as_it_is_served(
    description: dict[str, Any], name: str
) -> None:
    served: Operation = OPERATIONS[name]
    published = described(description, name)
    assert published["httpMethod"] == served.method
    assert published["path"] == served.path
    in_query = {
        key for key, value in published["parameters"].items() if value["location"] == "query"
    }
    assert served.parameters <= in_query
    # Scopes of Gmail add-ons are never granted to a server.
    assert served.scopes == {one for one in published["scopes"] if ".addons." not in one}
    if served.uploads:
        upload = published["mediaUpload"]["protocols"]["simple"]
        assert upload["path"] == f"/upload/{served.path}"
        assert upload["multipart"] is True
        assert published["mediaUpload"]["maxSize"] == "36700160"


def test_parameters_of_every_method_are_described(description: dict[str, Any]) -> None:
    assert description["parameters"].keys() >= GLOBAL_PARAMETERS


def test_scopes_are_described(description: dict[str, Any]) -> None:
    published = description["auth"]["oauth2"]["scopes"].keys()
    assert {scope for one in OPERATIONS.values() for scope in one.scopes} <= published
    assert ALL_MAIL in published


@dataclass
class Described:
    """A client that holds every answer to its description."""

    http: httpx.AsyncClient
    description: Mapping[str, Any]
    seen: set[str] = field(default_factory=set)
    shown: set[str] = field(default_factory=set)

    async def ask(self, name: str, /, item: str = "", body: Any = None, **parameters: Any) -> Any:
        """Do an operation; returns its answer. A `messageId` goes into the path."""
        published = described(self.description, name)
        path = published["path"].format(
            userId="me", id=item, messageId=parameters.pop("messageId", "")
        )
        answer = await self.http.request(
            published["httpMethod"], path, params=parameters, json=body
        )
        assert answer.is_success, answer.text
        self.seen.add(name)
        if "response" not in published:
            assert answer.status_code == 204
            assert answer.content == b""
            return None
        document = answer.json()
        schema = published["response"]["$ref"]
        assert list(self._faults(document, {"$ref": schema}, schema)) == []
        return document

    def _faults(self, value: Any, schema: Mapping[str, Any], at: str) -> Iterator[str]:
        if "$ref" in schema:
            schema = self.description["schemas"][schema["$ref"]]
        match schema["type"]:
            case "object":
                if not isinstance(value, dict):
                    yield f"{at}: not an object"
                    return
                for key, inner in value.items():
                    self.shown.add(f"{at}.{key}")
                    if key not in schema["properties"]:
                        yield f"{at}.{key}: not described"
                    else:
                        yield from self._faults(inner, schema["properties"][key], f"{at}.{key}")
            case "array":
                if not isinstance(value, list):
                    yield f"{at}: not an array"
                    return
                for inner in value:
                    yield from self._faults(inner, schema["items"], at)
            case "string":
                if not isinstance(value, str):
                    yield f"{at}: not a string"
                elif schema.get("format") in ("int64", "uint64") and not value.isdecimal():
                    yield f"{at}: not a number in a string"
                elif schema.get("format") == "byte" and not _BASE64URL.fullmatch(value):
                    yield f"{at}: not base64url"
                elif "enum" in schema and value not in schema["enum"]:
                    yield f"{at}: not one of {schema['enum']}"
            case "integer":
                if not isinstance(value, int) or isinstance(value, bool):
                    yield f"{at}: not an integer"
            case "boolean":
                if not isinstance(value, bool):
                    yield f"{at}: not a boolean"
            case other:
                yield f"{at}: the description says {other}"


async def test_every_answer_is_described(description: dict[str, Any]) -> None:
    twin = GmailTwin()
    async with running(twin) as (_, url):
        twin.add_mailbox(SENDER)
        twin.add_mailbox(RECIPIENT)
        token = twin.identity.grant(SENDER, (*EVERYTHING, ALL_MAIL))["access_token"]
        headers = {"Authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, trust_env=False) as http:
            ours = Described(http, description)
            await _tour(ours, twin)
    assert ours.seen == OPERATIONS.keys()
    # The check has looked at what matters.
    assert ours.shown >= {
        "Message.id", "Message.threadId", "Message.labelIds", "Message.raw",
        "Message.internalDate", "Message.payload.headers.name", "Message.payload.parts.body.data",
        "Draft.message.id", "Thread.messages.payload.headers.value",
        "ListHistoryResponse.history.messagesAdded.message.labelIds",
        "ListHistoryResponse.history.messagesDeleted.message.id",
        "ListHistoryResponse.history.labelsAdded.labelIds",
        "ListHistoryResponse.historyId", "ListMessagesResponse.nextPageToken",
        "ListDraftsResponse.drafts.id", "Profile.historyId", "ListLabelsResponse.labels.name",
        "ListThreadsResponse.threads.historyId", "MessagePartBody.data", "Label.messagesUnread",
        "Message.payload.parts.body.attachmentId", "ListSendAsResponse.sendAs.sendAsEmail",
    }  # fmt: skip


def _with_attachment() -> bytes:
    built = EmailMessage()
    built["From"], built["To"], built["Subject"] = RECIPIENT, SENDER, "With a table"
    built.set_content("See the table.")
    built.add_attachment(b"a,b\r\n", maintype="text", subtype="csv", filename="table.csv")
    return bytes(built)


async def _tour(ours: Described, twin: GmailTwin) -> None:
    """Use everything that the twin has."""
    raw = base64.urlsafe_b64encode(message("job_1", extra=_ODD)).decode()
    start = (await ours.ask("users.getProfile"))["historyId"]
    sent = await ours.ask("users.messages.send", body={"raw": raw})
    for form in ("minimal", "full", "raw", "metadata"):
        await ours.ask("users.messages.get", sent["id"], format=form)
    await ours.ask(
        "users.messages.get", sent["id"], format="metadata", metadataHeaders=["Message-ID"]
    )
    # A report has parts.
    report = twin.bounce(twin.submissions[0])
    await ours.ask("users.messages.get", report.id)
    await ours.ask("users.messages.modify", report.id, {"addLabelIds": ["STARRED"]})
    await ours.ask("users.messages.modify", report.id, {"removeLabelIds": ["UNREAD"]})
    await ours.ask("users.messages.list", q="in:sent", maxResults=100)
    await ours.ask("users.messages.list", maxResults=1, includeSpamTrash="true")
    draft = await ours.ask("users.drafts.create", body={"message": {"raw": raw}})
    await ours.ask("users.drafts.get", draft["id"], format="full")
    await ours.ask("users.drafts.list", q="in:drafts")
    await ours.ask("users.drafts.send", body={"id": draft["id"]})
    other = await ours.ask("users.drafts.create", body={"message": {"raw": raw}})
    await ours.ask("users.drafts.update", other["id"], {"message": {"raw": raw}})
    await ours.ask("users.drafts.delete", other["id"])
    attached = twin.mailboxes[SENDER].receive(_with_attachment())
    shown = await ours.ask("users.messages.get", attached.id)
    part = shown["payload"]["parts"][1]["body"]
    whole = await ours.ask(
        "users.messages.attachments.get", part["attachmentId"], messageId=attached.id
    )
    assert base64.urlsafe_b64decode(whole["data"]) == b"a,b\r\n"
    await ours.ask("users.messages.trash", attached.id)
    await ours.ask("users.messages.untrash", attached.id)
    await ours.ask("users.messages.delete", attached.id)
    await ours.ask("users.threads.list", labelIds="SENT")
    await ours.ask("users.labels.get", "INBOX")
    await ours.ask("users.settings.sendAs.list")
    await ours.ask("users.threads.get", sent["threadId"], format="metadata")
    await ours.ask("users.history.list", startHistoryId=start)
    await ours.ask(
        "users.history.list", startHistoryId=start, historyTypes=["messageAdded"], labelId="INBOX"
    )
    await ours.ask("users.labels.list")


async def test_what_is_not_described_is_refused() -> None:
    twin = GmailTwin()
    async with running(twin) as (_, url):
        twin.add_mailbox(SENDER)
        token = twin.identity.grant(SENDER, (f"{PREFIX}gmail.send",))["access_token"]
        headers = {"Authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, trust_env=False) as http:
            odd = await http.get(f"{ME}/labels", params={"filter": "x"})
            assert odd.status_code == 403
            unknown = await http.post(f"{ME}/messages/send", params={"dryRun": "1"}, json={})
            assert (unknown.status_code, unknown.json()["error"]["status"]) == (
                400, "INVALID_ARGUMENT",
            )  # fmt: skip
            nowhere = await http.get(f"{ME}/outbox")
            assert nowhere.status_code == 404
            unsigned = await http.get(f"{ME}/profile", headers={"Authorization": "Bearer x"})
            assert unsigned.json()["error"]["errors"][0]["reason"] == "authError"
