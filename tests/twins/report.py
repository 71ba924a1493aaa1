"""A plain delivery status notification (RFC 3464), as a mail server far away writes it."""

import secrets
from datetime import datetime
from email.utils import format_datetime


def delivery_report(
    to: str, recipient: str, status: str, diagnostic: str, original: bytes, now: datetime
) -> bytes:
    """Return the report to `to` about the message `original` to `recipient`.

    `status` is the enhanced code, `diagnostic` the far server's words. Its head alone comes
    back, as RFC 3462 allows.
    """
    action, word = ("failed", "failure") if status.startswith("5") else ("delayed", "delay")
    boundary = secrets.token_hex(12)
    head = original.replace(b"\r\n", b"\n").partition(b"\n\n")[0].decode("utf-8", "replace")
    lines = (
        "Return-Path: <>",
        "From: Mail Delivery System <mailer-daemon@twin.test>",
        f"To: {to}",
        f"Subject: Delivery status notification ({word})",
        f"Message-ID: <{secrets.token_hex(10)}@twin.test>",
        f"Date: {format_datetime(now)}",
        "Auto-Submitted: auto-replied",
        "MIME-Version: 1.0",
        f'Content-Type: multipart/report; report-type=delivery-status; boundary="{boundary}"',
        "",
        f"--{boundary}",
        "Content-Type: text/plain; charset=utf-8",
        "",
        f"Your message to {recipient} was not delivered: {diagnostic}",
        f"--{boundary}",
        "Content-Type: message/delivery-status",
        "",
        "Reporting-MTA: dns; twin.test",
        "",
        f"Final-Recipient: rfc822; {recipient}",
        f"Action: {action}",
        f"Status: {status}",
        f"Diagnostic-Code: smtp; {diagnostic}",
        "",
        f"--{boundary}",
        "Content-Type: text/rfc822-headers",
        "",
        *head.split("\n"),
        f"--{boundary}--",
        "",
    )
    return "\r\n".join(lines).encode()
