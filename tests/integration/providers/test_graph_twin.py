"""The Graph twin held to what Microsoft publishes: fields, types, codes and the life of ids.

The shapes below are those of PROVIDERS §2 and of the pages of
microsoftgraph/microsoft-graph-docs-contrib that stand beside them (api-reference/v1.0 and
concepts), and of learn.microsoft.com/entra/identity-platform. Names and types agree with the
models of msgraph-sdk 1.65.0, which at 132 MB is too large to be installed for this.
"""

import asyncio
import base64
import hashlib
import re
import socket
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from tests.integration.providers.graph_mailbox import (
    SEND_AND_READ,
    SEND_ONLY,
    SENDER,
    Connected,
    connected,
    mime,
)
from tests.twins.graph.oauth import CLIENT_ID, CLIENT_SECRET
from tests.twins.wire import Request, Response, served
from tests.waiting import until

from paceline_providers.aadsts import rule_for

IMMUTABLE = {"Prefer": 'IdType="ImmutableId"'}
TEXT, MAYBE, FLAG, COUNT, LIST, THING = str, (str, bool, type(None)), bool, int, list, dict
Shape = Mapping[str, Any]

# resources/message.md (JSON representation), api/message-createreply.md (example 2).
MESSAGE: Shape = {
    "@odata.etag": TEXT, "id": TEXT, "createdDateTime": "time", "lastModifiedDateTime": "time",
    "changeKey": TEXT, "categories": LIST, "receivedDateTime": "time", "sentDateTime": "time",
    "hasAttachments": FLAG, "internetMessageId": "message-id", "subject": TEXT,
    "bodyPreview": TEXT, "importance": TEXT, "parentFolderId": TEXT, "conversationId": TEXT,
    "conversationIndex": "binary", "isDeliveryReceiptRequested": MAYBE,
    "isReadReceiptRequested": FLAG, "isRead": FLAG, "isDraft": FLAG, "webLink": TEXT,
    "inferenceClassification": TEXT, "body": {"contentType": TEXT, "content": TEXT},
    "sender": {"emailAddress": {"name": TEXT, "address": TEXT}},
    "from": {"emailAddress": {"name": TEXT, "address": TEXT}}, "toRecipients": LIST,
    "ccRecipients": LIST, "bccRecipients": LIST, "replyTo": LIST,
    "flag": {"flagStatus": TEXT}, "@odata.context": TEXT,
}  # fmt: skip
RECIPIENT_SHAPE: Shape = {"emailAddress": {"name": TEXT, "address": TEXT}}
# concepts/errors.md (error resource).
ERROR: Shape = {
    "error": {
        "code": TEXT, "message": TEXT,
        "innerError": {"date": TEXT, "request-id": TEXT, "client-request-id": TEXT},
    }
}  # fmt: skip
# resources/user.md: what /me shows unless asked for more.
USER: Shape = {
    "@odata.context": TEXT, "id": TEXT, "displayName": TEXT, "givenName": TEXT, "surname": TEXT,
    "mail": TEXT, "userPrincipalName": TEXT, "businessPhones": LIST, "jobTitle": MAYBE,
    "mobilePhone": MAYBE, "officeLocation": MAYBE, "preferredLanguage": MAYBE,
}  # fmt: skip
# resources/mailfolder.md.
FOLDER: Shape = {
    "id": TEXT, "displayName": TEXT, "totalItemCount": COUNT, "unreadItemCount": COUNT,
}  # fmt: skip
# identity-platform/v2-oauth2-auth-code-flow (successful response, error response).
TOKEN: Shape = {
    "token_type": TEXT, "scope": TEXT, "expires_in": COUNT, "ext_expires_in": COUNT,
    "access_token": TEXT, "refresh_token": TEXT,
}  # fmt: skip
TOKEN_ERROR: Shape = {
    "error": TEXT, "error_description": TEXT, "error_codes": LIST, "timestamp": TEXT,
    "trace_id": TEXT, "correlation_id": TEXT, "error_uri": TEXT,
}  # fmt: skip
_FORMS = {
    "time": re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"),
    "binary": re.compile(r"(?:[A-Za-z0-9+/]{4})+(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?"),
    "message-id": re.compile(r"<[^<>\s]+@[^<>\s]+>"),
}


def check(found: Any, shape: Shape, where: str = "") -> None:
    """Fail unless `found` has exactly the fields of `shape`, each of its type."""
    assert found.keys() == shape.keys(), where
    for name, wanted in shape.items():
        value, place = found[name], f"{where}/{name}"
        if isinstance(wanted, Mapping):
            check(value, wanted, place)
        elif isinstance(wanted, str):
            assert _FORMS[wanted].fullmatch(value), place
        else:
            assert isinstance(value, wanted), place


async def ask(ann: Connected, method: str, path: str, **more: Any) -> httpx.Response:
    """Make one request as the mailbox's client."""
    headers = {"Authorization": f"Bearer {ann.tokens.access}"} | more.pop("headers", {})
    return await ann.http.request(method, f"{ann.url}/v1.0/{path}", headers=headers, **more)


async def draft(ann: Connected, headers: Mapping[str, str] = IMMUTABLE) -> dict[str, Any]:
    """Create a draft from MIME."""
    answer = await ask(
        ann, "POST", "me/messages", content=base64.b64encode(mime()),
        headers={"Content-Type": "text/plain", **headers},
    )  # fmt: skip
    assert answer.status_code == 201
    found: dict[str, Any] = answer.json()
    return found


# ---- shapes


async def test_a_message_has_the_published_fields() -> None:
    async with connected() as ann:
        made = await draft(ann)
        check(made, MESSAGE)
        assert made["isDraft"] is True
        for one in made["toRecipients"]:
            check(one, RECIPIENT_SHAPE)
        got = (await ask(ann, "GET", f"me/messages/{made['id']}", headers=IMMUTABLE)).json()
        check(got, MESSAGE)
        reply = await ask(ann, "POST", f"me/messages/{made['id']}/createReply", headers=IMMUTABLE)
        assert reply.status_code == 201
        check(reply.json(), MESSAGE)
        assert reply.json()["conversationId"] == made["conversationId"]


async def test_people_and_folders_have_the_published_fields() -> None:
    async with connected() as ann:
        check((await ask(ann, "GET", "me")).json(), USER)
        for name in ("inbox", "drafts", "sentitems", "junkemail", "deleteditems"):
            folder = (await ask(ann, "GET", f"me/mailFolders/{name}")).json()
            check(folder, FOLDER)
            same = await ask(ann, "GET", f"me/mailFolders/{folder['id']}")
            assert same.json() == folder


async def test_headers_come_only_when_they_are_selected() -> None:
    async with connected() as ann:
        made = await draft(ann)
        assert "internetMessageHeaders" not in made
        answer = await ask(ann, "GET", "me/messages?$select=internetMessageHeaders,subject")
        [shown] = answer.json()["value"]
        assert shown.keys() == {"@odata.etag", "id", "subject", "internetMessageHeaders"}
        assert {"name": "X-Paceline-Job", "value": "job_1.ws_1.1-mac"} in shown[
            "internetMessageHeaders"
        ]


@pytest.mark.parametrize(
    ("method", "path", "more", "status", "code"),
    [
        ("GET", "me/messages/AAkALgnone", {}, 404, "ErrorItemNotFound"),
        ("POST", "me/messages/AAkALgnone/send", {}, 404, "ErrorItemNotFound"),
        ("GET", "me/messages/bad id", {}, 400, "ErrorInvalidIdMalformed"),
        ("GET", "me/mailFolders/nowhere", {}, 404, "ErrorFolderNotFound"),
        ("GET", "me/messages?$filter=contains(subject,'x')", {}, 400, "ErrorInvalidUrlQueryFilter"),
        ("POST", "me/messages", {"content": b"~", "headers": {"Content-Type": "text/plain"}}, 400,
         "ErrorMimeContentInvalidBase64String"),
        ("POST", "me/sendMail", {"content": b"~", "headers": {"Content-Type": "text/plain"}}, 400,
         "ErrorMimeContentInvalidBase64String"),
        ("POST", "me/messages", {"json": {"internetMessageHeaders": [{"name": "In-Reply-To",
         "value": "<a@b>"}]}}, 400, "InvalidInternetMessageHeader"),
        ("POST", "me/sendMail", {"json": {"message": {"subject": "to nobody"}}}, 400,
         "ErrorInvalidRecipients"),
        ("GET", "me", {"headers": {"Authorization": "Bearer x"}}, 401,
         "InvalidAuthenticationToken"),
    ],
)  # fmt: skip
async def test_refusals_have_the_published_codes(
    method: str, path: str, more: dict[str, Any], status: int, code: str
) -> None:
    async with connected() as ann:
        answer = await ask(ann, method, path, **more)
        assert answer.status_code == status
        check(answer.json(), ERROR)
        assert answer.json()["error"]["code"] == code
        assert ann.truth == []


async def test_a_scope_that_was_not_granted_is_refused() -> None:
    for scopes, path in ((SEND_ONLY, "me/messages"), (SEND_AND_READ, "me/messages/AAkALgx/send")):
        async with connected(scopes) as ann:
            method = "GET" if scopes is SEND_ONLY else "POST"
            answer = await ask(ann, method, path)
            assert answer.status_code == (403 if scopes is SEND_ONLY else 404)
    async with connected(SEND_AND_READ) as ann:
        refused = await ask(ann, "POST", "me/messages", json={})
        assert refused.status_code == 403
        assert refused.json()["error"]["code"] == "ErrorAccessDenied"


# ---- sending


async def test_both_forms_of_send_mail_answer_202_with_nothing() -> None:
    async with connected() as ann:
        message = {
            "subject": "Hello",
            "body": {"contentType": "Text", "content": "Good day"},
            "toRecipients": [{"emailAddress": {"address": "bob@example.test"}}],
            "internetMessageHeaders": [{"name": "x-paceline-job", "value": "j"}],
        }
        for more in (
            {"json": {"message": message, "saveToSentItems": True}},
            {"content": base64.b64encode(mime()), "headers": {"Content-Type": "text/plain"}},
        ):
            answer = await ask(ann, "POST", "me/sendMail", **more)
            assert (answer.status_code, answer.content) == (202, b"")
        assert [one.job for one in ann.truth] == ["j", "job_1.ws_1.1-mac"]


async def test_sending_a_draft_answers_202_with_nothing_and_wants_an_empty_body() -> None:
    async with connected() as ann:
        made = await draft(ann)
        refused = await ask(ann, "POST", f"me/messages/{made['id']}/send", content=b"x")
        assert refused.status_code == 411
        answer = await ask(ann, "POST", f"me/messages/{made['id']}/send")
        assert (answer.status_code, answer.content) == (202, b"")


async def test_an_immutable_id_stays_and_a_regular_one_changes_with_the_folder() -> None:
    # concepts/outlook-immutable-id.md
    async with connected() as ann:
        regular = await draft(ann, {})
        shown = await ask(ann, "GET", f"me/messages/{regular['id']}", headers=IMMUTABLE)
        lasting = shown.json()["id"]
        assert lasting != regular["id"]
        await ask(ann, "POST", f"me/messages/{lasting}/send")
        assert (await ask(ann, "GET", f"me/messages/{regular['id']}")).status_code == 404
        sent = await ask(ann, "GET", f"me/messages/{lasting}", headers=IMMUTABLE)
        assert (sent.json()["id"], sent.json()["isDraft"]) == (lasting, False)
        assert sent.headers["Preference-Applied"] == 'IdType="ImmutableId"'


async def test_a_sent_message_keeps_what_only_a_draft_may_change() -> None:
    # api/message-update.md ("Updatable only if isDraft = true"), microsoft-graph-docs issue 17008
    async with connected() as ann:
        made = await draft(ann)
        path = f"me/messages/{made['id']}"
        changed = await ask(ann, "PATCH", path, json={"subject": "Other"}, headers=IMMUTABLE)
        check(changed.json(), MESSAGE)
        assert changed.json()["subject"] == "Other"
        await ask(ann, "POST", f"{path}/send")
        refused = await ask(ann, "PATCH", path, json={"subject": "Third", "toRecipients": []})
        assert refused.status_code == 400
        assert refused.json()["error"]["code"] == "ErrorInvalidPropertySet"
        assert ann.mailbox.find(made["id"]).addresses == ["bob@example.test"]


async def test_more_than_four_requests_at_once_are_refused() -> None:
    async with connected() as ann:
        ann.twin.fail("folder", "slow", times=6, delay_s=0.3)
        asked = (ask(ann, "GET", "me/mailFolders/inbox") for _ in range(6))
        answers = await asyncio.gather(*asked)
        refused = [one for one in answers if one.status_code == 429]
        assert len(refused) == 2
        for one in refused:
            check(one.json(), ERROR)
            assert "MailboxConcurrency" in one.json()["error"]["message"]
            assert one.headers["Retry-After"] == "1"
        assert (ann.mailbox.most_active, ann.mailbox.active) == (4, 0)


async def test_a_request_is_over_even_when_its_token_has_expired_meanwhile() -> None:
    async with connected() as ann:
        ann.twin.fail("folder", "slow", delay_s=0.2)
        asking = asyncio.create_task(ask(ann, "GET", "me/mailFolders/inbox"))
        await until(lambda: ann.mailbox.active == 1)
        ann.twin.identity.expire(SENDER)
        assert (await asking).status_code == 401
        assert ann.mailbox.active == 0


# ---- reading


async def test_listings_filter_order_and_page() -> None:
    async with connected() as ann:
        for number in range(25):
            ann.mailbox.add_mime(mime(message_id=f"<it's-{number}@north.test>"), "inbox")
        query = "$filter=internetMessageId eq '<it''s-7@north.test>'&$select=internetMessageId"
        [one] = (await ask(ann, "GET", f"me/messages?{query}")).json()["value"]
        assert one["internetMessageId"] == "<it's-7@north.test>"
        seen: list[str] = []
        url: str | None = f"{ann.url}/v1.0/me/mailFolders/inbox/messages?$top=10"
        pages = 0
        while url is not None:
            page = (
                await ann.http.get(url, headers={"Authorization": f"Bearer {ann.tokens.access}"})
            ).json()
            seen += [one["internetMessageId"] for one in page["value"]]
            url, pages = page.get("@odata.nextLink"), pages + 1
        assert (pages, len(set(seen))) == (3, 25)
        later = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
        none = await ask(ann, "GET", f"me/messages?$filter=receivedDateTime ge {later}")
        assert none.json()["value"] == []


async def test_delta_pages_then_tells_what_is_new_and_forgets_on_command() -> None:
    # concepts/delta-query-messages.md
    async with connected() as ann:
        headers = {"Authorization": f"Bearer {ann.tokens.access}", "Prefer": "odata.maxpagesize=2"}
        for number in range(3):
            ann.mailbox.add_mime(mime(message_id=f"<{number}@x.test>"), "inbox")
        link = f"{ann.url}/v1.0/me/mailFolders/inbox/messages/delta?changeType=created"
        first = (await ann.http.get(link, headers=headers)).json()
        assert (len(first["value"]), "@odata.deltaLink" in first) == (2, False)
        second = (await ann.http.get(first["@odata.nextLink"], headers=headers)).json()
        assert (len(second["value"]), "@odata.nextLink" in second) == (1, False)
        await ann.twin.deliver(SENDER, mime(message_id="<new@x.test>"))
        third = (await ann.http.get(second["@odata.deltaLink"], headers=headers)).json()
        assert [one["internetMessageId"] for one in third["value"]] == ["<new@x.test>"]
        ann.mailbox.delta_epoch += 1
        stale = await ann.http.get(third["@odata.deltaLink"], headers=headers)
        assert stale.status_code == 410
        check(stale.json(), ERROR)


async def test_delta_without_a_change_type_tells_of_removals() -> None:
    async with connected() as ann:
        headers = {"Authorization": f"Bearer {ann.tokens.access}", **IMMUTABLE}
        item = ann.mailbox.add_mime(mime(), "inbox")
        link = f"{ann.url}/v1.0/me/mailFolders/inbox/messages/delta"
        first = (await ann.http.get(link, headers=headers)).json()
        ann.mailbox.move(item, "junkemail")
        second = (await ann.http.get(first["@odata.deltaLink"], headers=headers)).json()
        assert second["value"] == [{"id": item.immutable_id, "@removed": {"reason": "deleted"}}]


class _Listener:
    """A notification endpoint that echoes the validation token and keeps what it is told."""

    late_answers: list[int]

    def __init__(self, *, echoes: bool) -> None:
        self.echoes, self.told, self.late_answers = echoes, [], []

    told: list[bytes]

    def admit(self, request: Request) -> Response | None:
        return None

    def leave(self, request: Request) -> None:
        return None

    def fault_for(self, request: Request) -> None:
        return None

    def faulty_answer(self, fault: Any) -> Response:
        raise AssertionError(fault)

    async def answer(self, request: Request) -> Response:
        if "validationToken" in request.query:
            word = request.query["validationToken"] if self.echoes else "no"
            return Response(200, word.encode(), {"Content-Type": "text/plain"})
        self.told.append(request.body)
        return Response(202)


@pytest.mark.parametrize("echoes", [True, False])
async def test_a_subscription_is_validated_and_notifies(echoes: bool) -> None:
    # concepts/change-notifications-delivery-webhooks.md
    listener = _Listener(echoes=echoes)
    async with connected() as ann, served(listener) as port:
        body = {
            "changeType": "created",
            "notificationUrl": f"http://127.0.0.1:{port}/hook",
            "resource": "me/mailFolders('inbox')/messages",
            "expirationDateTime": (datetime.now(UTC) + timedelta(days=6)).isoformat(),
            "clientState": "ours",
        }
        made = await ask(ann, "POST", "subscriptions", json=body)
        assert made.status_code == (201 if echoes else 400)
        if not echoes:
            return
        item = await ann.twin.deliver(SENDER, mime())
        [told] = listener.told
        assert b'"clientState": "ours"' in told.replace(b'":"', b'": "')
        assert item.regular_id.encode() in told
        gone = await ask(ann, "DELETE", f"subscriptions/{made.json()['id']}")
        assert gone.status_code == 204
        late = {**body, "expirationDateTime": (datetime.now(UTC) + timedelta(days=8)).isoformat()}
        assert (await ask(ann, "POST", "subscriptions", json=late)).status_code == 400


# ---- signing in


async def redeemed(ann: Connected, **form: str) -> httpx.Response:
    return await ann.http.post(
        f"{ann.url}/common/oauth2/v2.0/token",
        data={"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET, **form},
    )


async def authorized(ann: Connected, **more: str) -> dict[str, str]:
    """Go through the redirect; give the query that comes back."""
    answer = await ann.http.get(
        f"{ann.url}/common/oauth2/v2.0/authorize",
        params={
            "client_id": CLIENT_ID, "response_type": "code", "redirect_uri": "https://p.test/back",
            "scope": "https://graph.microsoft.com/Mail.Send offline_access", "state": "s1",
            "login_hint": SENDER, **more,
        },
    )  # fmt: skip
    assert answer.status_code == 302
    back = urlsplit(answer.headers["Location"])
    assert back.hostname == "p.test"
    return {name: values[0] for name, values in parse_qs(back.query).items()}


async def test_a_code_is_redeemed_once_with_its_verifier() -> None:
    async with connected() as ann:
        verifier = "v" * 43
        digest = hashlib.sha256(verifier.encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        back = await authorized(ann, code_challenge=challenge, code_challenge_method="S256")
        assert back["state"] == "s1"
        form = {
            "grant_type": "authorization_code", "code": back["code"],
            "redirect_uri": "https://p.test/back",
        }  # fmt: skip
        wrong = await redeemed(ann, **form, code_verifier="w" * 43)
        assert (wrong.status_code, wrong.json()["error_codes"]) == (400, [501481])
        right = await redeemed(ann, **form, code_verifier=verifier)
        check(right.json(), TOKEN)
        assert right.json()["scope"] == "https://graph.microsoft.com/Mail.Send"
        again = await redeemed(ann, **form, code_verifier=verifier)
        check(again.json(), TOKEN_ERROR)
        assert again.json()["error_codes"] == [54005]


@pytest.mark.parametrize("number", [65001, 65004, 90094])
async def test_a_refused_consent_comes_back_as_an_error(number: int) -> None:
    async with connected() as ann:
        ann.twin.identity.refuse_authorize[SENDER] = number
        back = await authorized(ann)
        assert "code" not in back
        rule = rule_for(back["error"], back["error_description"])
        assert rule.name == ("admin-consent" if number == 90094 else "no-consent")


@pytest.mark.parametrize(
    ("number", "name", "status"),
    [
        (65001, "no-consent", 400), (90094, "admin-consent", 400), (50076, "multi-factor", 400),
        (53003, "conditional-access", 400), (70008, "expired", 400), (700082, "expired", 400),
        (50020, "wrong-account", 400), (90033, "transient", 503), (90090, "transient", 400),
    ],
)  # fmt: skip
async def test_a_refresh_is_refused_in_microsofts_words(
    number: int, name: str, status: int
) -> None:
    async with connected() as ann:
        ann.twin.identity.refuse_token[SENDER] = number
        answer = await redeemed(ann, grant_type="refresh_token", refresh_token=ann.tokens.refresh)
        assert answer.status_code == status
        body = answer.json()
        check(body, TOKEN_ERROR)
        assert rule_for(body["error"], body["error_description"]).name == name


async def test_refreshing_gives_new_tokens_until_the_grant_is_revoked() -> None:
    async with connected() as ann:
        ann.twin.identity.rotates = True
        first = ann.tokens.refresh
        one = (await redeemed(ann, grant_type="refresh_token", refresh_token=first)).json()
        check(one, TOKEN)
        assert one["refresh_token"] != first
        stale = await redeemed(ann, grant_type="refresh_token", refresh_token=first)
        assert stale.json()["error"] == "invalid_grant"
        ann.twin.identity.revoke(SENDER)
        newest = one["refresh_token"]
        ended = await redeemed(ann, grant_type="refresh_token", refresh_token=newest)
        assert ended.json()["error_codes"] == [50173]


async def test_an_app_with_a_wrong_secret_is_refused_as_an_app() -> None:
    async with connected() as ann:
        form = {"grant_type": "refresh_token", "refresh_token": ann.tokens.refresh}
        wrong = await redeemed(ann, **form, client_secret="x")
        assert (wrong.status_code, wrong.json()["error"]) == (401, "invalid_client")
        unknown = await redeemed(ann, **form, client_id="x")
        assert unknown.json()["error_codes"] == [700016]


# ---- the twin as a process


async def test_the_twin_runs_as_a_process_and_is_told_over_http() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.twins.graph", "--port", str(port),
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        line = await asyncio.wait_for(process.stderr.readline(), 30)
        assert b"Graph twin on" in line
        base = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=base, timeout=10) as http:
            tokens = (await http.post("/control/mailboxes", json={"email": SENDER})).json()
            check(tokens, TOKEN)
            await http.post(f"/control/mailboxes/{SENDER}/conduct", json={"resends": True})
            fault = {"operation": "sendMail", "kind": "done_then_status", "status": 504}
            await http.post("/control/faults", json=fault)
            headers = {
                "Authorization": f"Bearer {tokens['access_token']}",
                "Content-Type": "text/plain",
            }
            content = base64.b64encode(mime())
            sent = await http.post("/v1.0/me/sendMail", content=content, headers=headers)
            assert sent.status_code == 504
            truth = (await http.get("/control/truth")).json()["submissions"]
            assert [one["job"] for one in truth] == ["job_1.ws_1.1-mac"]
            assert base64.b64decode(truth[0]["mime"]) == mime()
            await http.post(f"/control/mailboxes/{SENDER}/tokens", json={"do": "expire"})
            assert (await http.get("/v1.0/me", headers=headers)).status_code == 401
            unknown = await http.post(f"/control/mailboxes/{SENDER}/conduct", json={"x": 1})
            assert unknown.status_code == 400
    finally:
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 10) == 0
