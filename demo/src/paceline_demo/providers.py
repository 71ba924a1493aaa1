"""Both providers' twins, as an operator sets them up and as a checker reads their books."""

import base64
from collections.abc import Mapping, Sequence
from datetime import datetime
from threading import Lock
from typing import Any, Final

from paceline_demo.scenario import Scenario, Sender
from paceline_demo.truth import Held, Submission, parse
from paceline_local.parts.twins import Kind, Twin
from paceline_local.passwords import Passwords
from paceline_local.stack import Stack

# How the gateway calls the providers of the two kinds.
NAMES: Final[Mapping[Kind, str]] = {"gmail": "google", "graph": "microsoft"}
# What a person may leave out, and a mailbox cannot do without.
UNTICKED: Final = "https://www.googleapis.com/auth/gmail.modify"

_CLIENTS: Final[Mapping[Kind, str]] = {
    "gmail": "paceline-demo.apps.googleusercontent.com",
    "graph": "9c2f7a1e-0d0e-4a55-8d8b-paceline0demo",
}


class Providers:
    """The twins of one run: fresh accounts for its senders, and what they know of them."""

    def __init__(self, stack: Stack, scenario: Scenario) -> None:
        self._twins: Final[Mapping[Kind, Twin]] = stack.twins
        self._passwords: Final[Passwords] = stack.passwords
        self._senders = scenario.at_providers
        self._next: dict[Kind, int] = {}
        self._submissions: list[Submission] = []
        self._reading = Lock()

    def open(self) -> None:
        """Give each sender an empty account, whose provider names every message anew.

        What the twins took before this run is not read.
        """
        for sender in self._senders:
            twin = self._twin(sender)
            twin.control("DELETE", f"mailboxes/{sender.email}")
            twin.control("POST", "mailboxes", {"email": sender.email, **_named(sender)})
            conduct = {"rewrites_message_id": True}
            twin.control("POST", f"mailboxes/{sender.email}/conduct", conduct)
        for kind, twin in self._twins.items():
            self._next[kind] = twin.control("GET", "truth?raw=0")["next"]

    def register(self, kind: Kind, redirect_uri: str) -> tuple[str, str]:
        """Register the operator's OAuth app; return its client id and secret."""
        client_id = _CLIENTS[kind]
        secret = self._passwords.get("demo", f"{kind}_client_secret")
        self._twins[kind].control(
            "POST", "identity",
            {"clients": {client_id: secret}, "redirect_uris": [redirect_uri]},
        )  # fmt: skip
        return client_id, secret

    def submissions(self) -> list[Submission]:
        """Return every message that the twins took since the run began."""
        # Onlookers and the checker ask from threads of their own.
        with self._reading:
            for kind, twin in self._twins.items():
                told = twin.control("GET", f"truth?raw=0&after={self._next[kind]}")
                self._next[kind] = told["next"]
                self._submissions += [_submission(one) for one in told["submissions"]]
            return list(self._submissions)

    def inboxes(self) -> dict[str, list[Held]]:
        """Return what came to each sender, in order."""
        return {sender.email: self._inbox(sender) for sender in self._senders}

    def tokens(self) -> list[str]:
        """Return the tokens that the senders have given: nobody else may show one."""
        return [
            token
            for sender in self._senders
            for token in self._twin(sender).control(
                "GET", f"mailboxes/{sender.email}/tokens"
            )["tokens"]
        ]  # fmt: skip

    def _inbox(self, sender: Sender) -> list[Held]:
        told = self._twin(sender).control("GET", f"mailboxes/{sender.email}/inbox")
        found = [
            parse(
                sender.email, base64.b64decode(one["raw"]), datetime.fromisoformat(one["at"]),
                one["thread_id"],
            )
            for one in told["messages"]
        ]  # fmt: skip
        return sorted(found, key=lambda held: held.at)

    def _twin(self, sender: Sender) -> Twin:
        assert sender.kind != "smtp"
        return self._twins[sender.kind]


def _named(sender: Sender) -> dict[str, Any]:
    return {"name" if sender.kind == "gmail" else "display_name": sender.display_name}


def _submission(one: Mapping[str, Any]) -> Submission:
    """Read one of the twins' submissions: Gmail's and Graph's differ in a few names."""
    recipients: Sequence[str] = one["recipients"]
    return Submission(
        queue_id=one.get("id") or one["item_id"],
        # The request, not its taking: that is what a cadence and a suppression speak of.
        at=datetime.fromisoformat(one["asked_at"]),
        mailbox=one["mailbox"],
        message_id=one["message_id"],
        job=one["job"],
        thread_id=one.get("thread_id") or one["conversation_id"],
        fate=dict.fromkeys(recipients, "sent"),
    )
