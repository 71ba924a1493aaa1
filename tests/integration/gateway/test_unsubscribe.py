"""The unsubscribe link as mail clients, scanners and people use it (RFC 8058)."""

import httpx
import pytest

from paceline_common import ids
from paceline_common.address import AddressHasher
from paceline_common.keys import KeyService

from .conftest import Enrolled, Tenant, enroll

ONE_CLICK = {"List-Unsubscribe": "One-Click"}


async def link(tenant: Tenant, keys: KeyService, job_id: int) -> str:
    job = ids.encode("job", job_id)
    (mac,) = await keys.mac([f"unsubscribe/{tenant.id}/{job}".encode()])
    return f"/u/{tenant.id}.{job}.{mac}"


@pytest.fixture
async def ann(tenant: Tenant, hasher: AddressHasher) -> Enrolled:
    return enroll(tenant, hasher, await tenant.campaign(), "ann@lead.test")


@pytest.fixture
async def stranger(tenant: Tenant) -> httpx.AsyncClient:
    """The recipient: no key."""
    del tenant.http.headers["Authorization"]
    return tenant.http


def state(tenant: Tenant, one: Enrolled) -> str:
    (row,) = tenant.rows(
        "SELECT state FROM scheduler.enrollment WHERE workspace_id = %s AND enrollment_id = %s",
        tenant.number, one.enrollment_id,
    )  # fmt: skip
    return str(row["state"])


async def test_one_click_is_effective_before_its_answer(
    tenant: Tenant, ann: Enrolled, stranger: httpx.AsyncClient, sender_keys: KeyService
) -> None:
    url = await link(tenant, sender_keys, ann.job_id)
    answer = await stranger.post(url, data=ONE_CLICK)
    assert answer.status_code == 200
    assert "set-cookie" not in answer.headers
    assert "location" not in answer.headers
    assert state(tenant, ann) == "unsubscribed"
    (row,) = tenant.rows(
        "SELECT reason, source FROM scheduler.address WHERE workspace_id = %s"
        " AND suppressed_at IS NOT NULL",
        tenant.number,
    )
    assert row == {"reason": "unsubscribed", "source": "one_click"}
    assert (await stranger.post(url, data=ONE_CLICK)).status_code == 200
    assert state(tenant, ann) == "unsubscribed"


@pytest.mark.parametrize("form", [{"files": {"List-Unsubscribe": (None, "One-Click")}}, {}])
async def test_the_body_may_be_a_form_or_missing(
    tenant: Tenant,
    ann: Enrolled,
    stranger: httpx.AsyncClient,
    sender_keys: KeyService,
    form: dict[str, dict[str, tuple[None, str]]],
) -> None:
    url = await link(tenant, sender_keys, ann.job_id)
    assert (await stranger.post(url, **form)).status_code == 200  # type: ignore[arg-type]
    assert state(tenant, ann) == "unsubscribed"


async def test_opening_the_link_shows_a_button_and_changes_nothing(
    tenant: Tenant, ann: Enrolled, stranger: httpx.AsyncClient, sender_keys: KeyService
) -> None:
    url = await link(tenant, sender_keys, ann.job_id)
    page = await stranger.get(url)
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert '<form method="post"' in page.text
    assert "ann@lead.test" not in page.text
    assert page.headers["cache-control"] == "no-store"
    assert page.headers["referrer-policy"] == "no-referrer"
    assert state(tenant, ann) == "active"


async def test_a_forged_or_foreign_token_is_a_plain_404(
    tenant: Tenant, ann: Enrolled, stranger: httpx.AsyncClient, sender_keys: KeyService
) -> None:
    right = await link(tenant, sender_keys, ann.job_id)
    other_job = await link(tenant, sender_keys, ann.job_id + 1_000_000)
    wrong = [
        "/u/x",
        "/u/..",
        f"/u/{'a' * 5000}",
        "/u/%3Cscript%3E",
        right[:-1] + ("A" if right[-1] != "A" else "B"),
        right.replace(ids.encode("job", ann.job_id), ids.encode("job", ann.job_id + 1)),
        right.replace(tenant.id, ids.encode("ws", tenant.number + 1)),
    ]
    for url in wrong:
        for answer in (await stranger.get(url), await stranger.post(url, data=ONE_CLICK)):
            assert answer.status_code == 404, url
            assert "script>" not in answer.text
    assert (await stranger.post(other_job, data=ONE_CLICK)).status_code == 404
    assert state(tenant, ann) == "active"
