"""What a received message is. One answer for every message."""

import re
from typing import Final, Literal

from paceline_reply.domain.autoreply import automatic
from paceline_reply.domain.inbound import Inbound

Kind = Literal["human", "auto_reply", "dsn", "complaint", "unsubscribe", "own", "other"]

_DAEMON: Final = re.compile(r"^(mailer[-_]?daemon|postmaster|maildaemon|mail-daemon)\b")
_DAEMON_NAME: Final = re.compile(r"(?i)mail delivery (sub)?system|mail delivery service")
_NOTICE: Final = re.compile(
    r"(?i)undeliver|delivery status|failure notice|returned mail|delivery failure"
    r"|delivery (has )?failed|delivery incomplete|delivery delayed|could not be delivered"
    r"|delivery problem|warning: message|unzustellbar|nicht zugestellt|zustellung"
    r"|non remis|non distribu|échec de la remise|no entregado|no se pudo entregar"
    r"|mancato recapito|non consegna|onbestelbaar|niet bezorgd|não entregue|kan inte levereras"
    r"|oleverer|не доставлено|недоставлен|配信不能|配信できません|无法传递|無法傳遞|배달되지 않음"
)
# Newsletters carry the signs of automatic answers, and answer nothing.
_BULK: Final = frozenset({"list-id", "list-unsubscribe"})


def classify(inbound: Inbound, *, own: bool, unsubscribes: bool, matched: bool) -> Kind:
    """Return the kind of `inbound`.

    `own`: it comes from a mailbox of the workspace itself. `unsubscribes`: it
    carries a verified unsubscribe token. `matched`: it answers a message of ours.
    What answers nothing of ours and is no report is `other`.
    """
    if inbound.report_type == "feedback-report" or "message/feedback-report" in inbound.part_types:
        return "complaint"
    if _is_report(inbound):
        return "dsn"
    if own:
        return "own"
    if unsubscribes:
        return "unsubscribe"
    if not matched and inbound.headers.keys() & _BULK:
        return "other"
    if automatic(inbound):
        return "auto_reply"
    return "human" if matched else "other"


def _is_report(inbound: Inbound) -> bool:
    """Tell a delivery report (RFC 3464, RFC 6533) or its non-conforming relatives."""
    if inbound.report_type in ("delivery-status", "global-delivery-status"):
        return True
    if inbound.header("x-failed-recipients") or "x-ms-exchange-message-is-ndr" in inbound.headers:
        return True
    daemon = any(_DAEMON.match(address) for address in inbound.from_addresses) or bool(
        _DAEMON_NAME.search(inbound.header("from"))
    )
    null_sender = inbound.header("return-path") == "<>"
    if "message/delivery-status" in inbound.part_types and (daemon or null_sender):
        return True
    return daemon and (null_sender or bool(_NOTICE.search(inbound.subject)))
