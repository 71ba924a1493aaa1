"""Postfix's log and maildirs, as a real mail host wrote them, read back as facts."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from paceline_demo.truth import parse, queued_at, read_log, read_maildir

SINCE = datetime(2026, 11, 20, 8, 34, 22, tzinfo=UTC)

# Postfix 3.7.11 of the local stack, in this order.
LOG = """\
Nov 20 08:34:22 mx postfix/smtpd[31986]: lost connection after CONNECT from unknown[127.0.0.1]
Nov 20 08:34:22 mx postfix/smtpd[31992]: 4jW7t64V7gz1SKTZ: client=unknown[127.0.0.1], \
sasl_method=PLAIN, sasl_username=ada@north.test
Nov 20 08:34:22 mx postfix/cleanup[31994]: 4jW7t64V7gz1SKTZ: message-id=<1@x>
Nov 20 08:34:22 mx postfix/qmgr[31985]: 4jW7t64V7gz1SKTZ: from=<ada@north.test>, size=321, nrcpt=1
Nov 20 08:34:22 mx postfix/smtpd[31992]: 4jW7t64XsZz1SKVh: client=unknown[127.0.0.1], \
sasl_method=PLAIN, sasl_username=ada@north.test
Nov 20 08:34:22 mx postfix/cleanup[31994]: 4jW7t64XsZz1SKVh: message-id=<2@x>
Nov 20 08:34:22 mx postfix/lmtp[31995]: 4jW7t64V7gz1SKTZ: to=<rec@example.test>, \
relay=127.0.0.1[127.0.0.1]:20809, delay=0.04, dsn=2.0.0, status=sent (250 2.0.0 Saved)
Nov 20 08:34:22 mx postfix/smtpd[32003]: 4jW7t64psPz1SKWG: client=unknown[127.0.0.1]
Nov 20 08:34:22 mx postfix/cleanup[31994]: 4jW7t64psPz1SKWG: message-id=<dovecot-sieve-1@vm>
Nov 20 08:34:22 mx postfix/smtpd[32000]: NOQUEUE: reject: RCPT from unknown[127.0.0.1]: 550 5.1.1 \
<x@late.test>: Recipient address rejected: No such user here; from=<ada@north.test> \
to=<x@late.test> proto=ESMTP helo=<mx.example.test>
Nov 20 08:34:22 mx postfix/smtp[31997]: 4jW7t64XsZz1SKVh: to=<x@late.test>, \
relay=127.0.0.1[127.0.0.1]:20009, delay=0.05, dsn=5.1.1, status=bounced (host said: 550 5.1.1)
Nov 20 08:34:43 mx postfix/smtpd[32536]: 4jW7tW5n6gz1SKWn: client=unknown[127.0.0.1], \
sasl_method=PLAIN, sasl_username=Ada@north.test
Nov 20 08:34:43 mx postfix/smtpd[32536]: 4jW7tW5n6gz1SKWn: reject: RCPT from unknown[127.0.0.1]: \
550 5.1.1 <nobody@example.test>: Recipient address rejected: User unknown in virtual mailbox \
table; from=<ada@north.test> to=<nobody@example.test> proto=ESMTP helo=<[127.0.0.1]>
""".splitlines()

DSN = b"""\
Return-Path: <>
Received: from mx.example.test ([127.0.0.1])
\tby vm with LMTP
\tid aGm/KA4GAGv/fAAAg+zDdQ:T2
Received: by mx.example.test (Postfix)
\tid 4jW7t64wmwz1SKVk; Fri, 20 Nov 2026 08:34:22 +0000 (UTC)
From: Mail Delivery System <MAILER-DAEMON@example.test>
Auto-Submitted: auto-replied
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status; boundary="b"

--b
Content-Type: text/plain; charset=utf-8

I'm sorry.
--b
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.example.test
Arrival-Date: Fri, 20 Nov 2026 08:34:22 +0000 (UTC)

Final-Recipient: rfc822; X@late.test
Action: failed
Status: 5.1.1

--b--
"""

STEP = b"""\
Received: from vm (unknown [127.0.0.1])
\tby mx.example.test (Postfix) with ESMTPSA id 4jW7t64psPz1SKWG
From: =?utf-8?q?Ada_North?= <Ada@north.test>
Subject: =?utf-8?q?Re=3A_Caf=C3=A9?=
Message-ID: <2@north.test>
In-Reply-To: <1@north.test>
References: <0@north.test>
 <1@north.test>
List-Unsubscribe: <mailto:ada@north.test?subject=unsubscribe%20x>,
 <http://127.0.0.1:8000/u/ws_1.job_2.1.mac>
List-Unsubscribe-Post: List-Unsubscribe=One-Click
X-Paceline-Job: job_2.ws_1.1.mac
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: quoted-printable

Caf=C3=A9 and a line that is folded =
here
"""


def test_queue_id_tells_its_microsecond() -> None:
    assert queued_at("4jW7t64V7gz1SKTZ") == datetime(2026, 11, 20, 8, 34, 22, 633135, tzinfo=UTC)


@pytest.mark.parametrize("text", ["", "A1B2C3D4E5F", "z", "4jW7tAEIOUz1SK", "aGm/KA4GAGv/fAAAgz1"])
def test_another_text_is_no_long_queue_id(text: str) -> None:
    with pytest.raises(ValueError, match="queue id"):
        queued_at(text)


def test_log_tells_who_submitted_what_and_its_fate() -> None:
    log = read_log(LOG, SINCE)
    assert [(s.mailbox, s.message_id, s.recipients) for s in log.submissions] == [
        ("ada@north.test", "<1@x>", ("rec@example.test",)),
        ("ada@north.test", "<2@x>", ("x@late.test",)),
        ("ada@north.test", None, ("nobody@example.test",)),
    ]
    assert [s.fate for s in log.submissions[:2]] == [
        {"rec@example.test": "sent"},
        {"x@late.test": "bounced"},
    ]
    assert log.unqueued == (("ada@north.test", "x@late.test"),)
    assert log.submissions == tuple(log.of("ada@north.test"))


def test_what_was_before_the_run_is_left_out(tmp_path: Path) -> None:
    later = datetime(2026, 11, 20, 8, 34, 40, tzinfo=UTC)
    assert [s.recipients for s in read_log(LOG, later).submissions] == [("nobody@example.test",)]
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "1").write_bytes(STEP)
    assert len(read_maildir("x", tmp_path, SINCE)) == 1
    assert read_maildir("x", tmp_path, later) == []


def test_report_names_its_recipient() -> None:
    report = parse("ada@north.test", DSN)
    assert (report.report_on, report.automatic) == ("x@late.test", True)


def test_message_tells_thread_job_words_and_the_way_out() -> None:
    held = parse("zoe@example.test", STEP)
    assert held.at == datetime(2026, 11, 20, 8, 34, 22, 678361, tzinfo=UTC)
    assert held.sender == "ada@north.test"
    assert held.subject == "Re: Café"
    assert held.references == ("<0@north.test>", "<1@north.test>")
    assert held.in_reply_to == "<1@north.test>"
    assert held.job == "job_2.ws_1.1.mac"
    assert held.text.splitlines() == ["Café and a line that is folded here"]
    assert held.one_click_url == "http://127.0.0.1:8000/u/ws_1.job_2.1.mac"
    assert not held.automatic


def test_message_of_another_host_is_refused() -> None:
    with pytest.raises(ValueError, match="no queue id"):
        parse("zoe@example.test", b"From: a@b\r\n\r\nhi\r\n")
