"""`paceline-admin` with the admin's own credentials."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaException, Producer
from typer.testing import CliRunner

from paceline_common import grants, ids, topics
from paceline_common.admin import AdminSettings
from paceline_common.admin import build as build_admin
from paceline_gateway import kafka_publishers
from paceline_local.stack import Stack

Admin = Callable[..., Any]
NOBODY = ids.encode("ws", 1 << 60)


def test_a_workspace_is_made_with_its_keys(admin: Admin, sql: Any) -> None:
    made = admin("workspace", "create", "Ours", "--timezone", "Europe/Berlin", "--country", "DE")
    number = ids.decode("ws", made["workspace_id"])
    (row,) = [
        one for one in admin("workspace", "list") if one["workspace_id"] == made["workspace_id"]
    ]
    assert (row["name"], row["timezone"], row["country"]) == ("Ours", "Europe/Berlin", "DE")
    (audit,) = sql.execute(
        "SELECT body FROM gateway.outbox WHERE workspace_id = %s AND topic = 'audit-recorded'",
        [number],
    ).fetchall()
    body = json.loads(bytes(audit["body"]))
    assert (body["action"], body["actor"]) == ("workspace.created", "admin")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("workspace", "create", "x", "--timezone", "Mars"), "IANA"),
        (("workspace", "create", "x", "--country", "Germany"), "like DE"),
        (("key", "create", NOBODY, "--name", "x"), "no workspace"),
        (("key", "create", "1", "--name", "x"), "not a ws_ id"),
        (("key", "revoke", ids.encode("key", 1 << 60)), "no such key"),
        (("publisher", "add", "Bad Name"), "no publisher name"),
        (("publisher", "remove", "nobody"), "no publisher"),
        (("publisher", "allow", "nobody", NOBODY), "no workspace"),
        (("oauth-app", "set", "yahoo", "--client-id", "x"), "none of google, microsoft"),
        (("oauth-app", "set", "google", "--client-id", "x", "--tenant", "y"), "tenants"),
        (("oauth-app", "remove", "yahoo"), "none of google, microsoft"),
    ],
)
def test_refusals_exit_1_and_say_why(admin: Admin, arguments: tuple[str, ...], words: str) -> None:
    assert words in admin(*arguments, code=1)


def test_wrong_usage_exits_2(admin: Admin) -> None:
    admin("workspace", "destroy", code=2)


def test_a_scope_that_is_none_is_refused(admin: Admin) -> None:
    workspace = admin("workspace", "create", "x")["workspace_id"]
    refused = admin("key", "create", workspace, "--name", "x", "--scope", "root", code=1)
    assert "no such scope: root" in refused


def test_a_key_is_stored_as_its_hash_only(admin: Admin, sql: Any) -> None:
    workspace = admin("workspace", "create", "x")["workspace_id"]
    key = admin("key", "create", workspace, "--name", "ours")["key"]
    (row,) = sql.execute(
        "SELECT * FROM gateway.api_key WHERE workspace_id = %s", [ids.decode("ws", workspace)]
    ).fetchall()
    assert key not in str(row)
    assert len(bytes(row["key_hash"])) == 32


def test_a_publisher_is_allowed_into_named_workspaces(admin: Admin) -> None:
    one, other = (admin("workspace", "create", name)["workspace_id"] for name in ("one", "other"))
    added = admin("publisher", "add", "tests-crm", "--workspace", one)
    assert (added["topic"], added["principal"]) == (
        "lead-enrolled.tests-crm",
        "publisher-tests-crm",
    )
    # In the local stack the admin is no Kafka administrator: it says what to make there.
    assert added["kafka"].startswith("not provisioned")
    assert "write on topic lead-enrolled.tests-crm" in added["acls"]
    partitions = topics.LEAD_ENROLLED_BY_PUBLISHER.partitions
    assert f"make the topic ({partitions} partitions, retention.ms=" in added["next"]
    assert added["next"].endswith("paceline-local publisher tests-crm")
    admin("publisher", "allow", "tests-crm", other)
    admin("publisher", "allow", "tests-crm", other)
    (row,) = [one for one in admin("publisher", "list") if one["publisher"] == "tests-crm"]
    assert row["workspaces"] == [one, other]
    admin("publisher", "remove", "tests-crm")
    assert "tests-crm" not in [one["publisher"] for one in admin("publisher", "list")]


def test_kafka_is_provisioned_where_the_admin_may(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in stack.env("admin").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PACELINE_KAFKA_USER", "stack")
    monkeypatch.setenv(
        "PACELINE_KAFKA_PASSWORD", stack.passwords.get("stack", "paceline_kafka_password")
    )
    settings = AdminSettings()
    name = "tests-provisioned"
    for password in ("first-password", "second-password"):
        kafka_publishers.provision(settings, name, password)
    client = stack.kafka.client_config("stack") | {
        "sasl.username": grants.publisher_principal(name), "sasl.password": "second-password",
    }  # fmt: skip
    assert _write(client, topics.publisher_topic(name)) is None
    assert _write(client, "lead-enrolled") is not None
    kafka_publishers.withdraw(settings, name)
    stack.kafka.admin().delete_topics([topics.publisher_topic(name)])
    assert _write(client, topics.publisher_topic(name)) is not None


def test_the_installations_quarantine_is_listed_and_its_leads_replayed(
    admin: Admin, sql: Any, tmp_path: Path
) -> None:
    workspace = admin("workspace", "create", "x")["workspace_id"]
    number = ids.decode("ws", workspace)
    (row,) = sql.execute(
        "INSERT INTO scheduler.quarantine (topic, partition, offset_, headers, body, digest,"
        " reason_code, reason, attempts) SELECT 'lead-enrolled.crm', 0,"
        " coalesce(max(offset_), 0) + 1, '[]', '{}', '', 'workspace_denied', 'may not', 1"
        " FROM scheduler.quarantine RETURNING quarantine_id"
    ).fetchall()
    entry = ids.encode("qua", row["quarantine_id"])
    (listed,) = [one for one in admin("quarantine", "list") if one["id"] == entry]
    assert (listed["service"], listed["reason_code"]) == ("scheduler", "workspace_denied")
    refused = admin("quarantine", "replay", entry, "--workspace", workspace, code=1)
    assert "still not valid" in refused
    lead = tmp_path / "lead.json"
    lead.write_text(json.dumps({"campaign_id": "cmp_x", "email": "ann@lead.test"}))
    made = admin("quarantine", "replay", entry, "--workspace", workspace, "--lead", str(lead))
    (event,) = sql.execute(
        "SELECT body FROM gateway.outbox WHERE workspace_id = %s AND event_id = %s",
        [number, made["event_id"]],
    ).fetchall()
    sql.execute("DELETE FROM scheduler.quarantine WHERE quarantine_id = %s", [row["quarantine_id"]])
    body = json.loads(bytes(event["body"]))
    assert (body["replay_of"], body["workspace_id"]) == (entry, workspace)


def _write(client: dict[str, Any], topic: str) -> Exception | None:
    """Try to publish one record; return why it failed."""
    failures: list[Exception] = []
    producer = Producer({**client, "message.timeout.ms": 4000, "log_level": 0})
    producer.produce(
        topic,
        b"{}",
        on_delivery=lambda error, _: failures.append(KafkaException(error)) if error else None,
    )
    producer.flush(10)
    return failures[0] if failures else None


def test_an_oauth_apps_secret_is_asked_for_and_never_an_argument(
    admin: Admin, sql: Any, stack: Stack
) -> None:
    told = "GOCSPX-typed-by-hand"
    try:
        made = CliRunner().invoke(
            build_admin(), ["oauth-app", "set", "google", "--client-id", "typed"],
            env=stack.env("admin"), input=f"{told}\n",
        )  # fmt: skip
        assert made.exit_code == 0, made.output
        assert told not in made.output
        (row,) = sql.execute(
            "SELECT client_id, client_secret FROM gateway.oauth_installation_app"
        ).fetchall()
        assert row["client_id"] == "typed"
        assert told.encode() not in bytes(row["client_secret"])
        empty = CliRunner().invoke(
            build_admin(), ["oauth-app", "set", "google", "--client-id", "x"],
            env=stack.env("admin"), input=" \n",
        )  # fmt: skip
        assert empty.exit_code == 1
        assert sql.execute("SELECT client_id FROM gateway.oauth_installation_app").fetchall() == [
            {"client_id": "typed"}
        ]
        actions = [
            json.loads(bytes(one["body"]))
            for one in sql.execute(
                "SELECT body FROM gateway.outbox WHERE topic = 'audit-recorded' AND workspace_id"
                " IS NULL ORDER BY id"
            ).fetchall()
        ]
        # Other tests set apps too.
        (said,) = [one["detail"] for one in actions if one["action"] == "oauth_app.set"][-1:]
        assert said == {"client_id": "typed"}
    finally:
        admin("oauth-app", "remove", "google")
    assert "no app" in admin("oauth-app", "remove", "google", code=1)
