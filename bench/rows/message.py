"""Row 10: a MIME message from rendered parts, and a Liquid template, against the usual ways."""

from dataclasses import replace
from datetime import UTC, datetime
from email import policy
from email.message import EmailMessage

from jinja2 import Environment, StrictUndefined

from bench.measure import Result, cpu_seconds, interleave
from paceline_sender.domain.conversation import Thread
from paceline_sender.domain.message import Attachment, Parts, build
from paceline_sender.domain.render import fill

COUNT = 300
TEXT = "Hello Ada,\n\n" + "A line of an ordinary letter, about as long as a line is.\n" * 12
HTML = "<p>Hello Ada,</p>" + "<p>A line of an ordinary letter, about as long as it is.</p>" * 12
TEMPLATE = (
    "Hello {{ first_name }},\n{% if company %}how is {{ company }}?{% endif %}\n"
    "{{ city | default('your town') }} and {{ product | upper }}\n"
)
LIQUID = TEMPLATE.replace("default('your town')", "default: 'your town'").replace(
    "| upper", "| upcase"
)
VALUES = {"first_name": "Ada", "company": "Analytical", "city": "London", "product": "engine"}
PARTS = Parts(
    from_name="Grace Hopper", from_email="grace@north.test", reply_to=None,
    to_email="ada@example.test", subject="A question about the engine", text=TEXT, html=HTML,
    message_id="<0123456789abcdef.0123456789abcdef@north.test>",
    date=datetime(2026, 1, 5, 9, 0, tzinfo=UTC), thread=Thread(None, ()),
    job_token="job_0123456789abcdef.ws_0123456789abcdef.1." + "x" * 43,
    unsubscribe_url="https://go.example.test/u/ws_0123456789abcdef.job_0123456789abcdef.1."
    + "x" * 43,
    unsubscribe_mailto="mailto:grace@north.test?subject=unsubscribe%20" + "x" * 60,
)  # fmt: skip


FILE = Attachment("report.pdf", "application/pdf", bytes(range(256)) * 400)


def standard(file: Attachment | None = None) -> bytes:
    """The same message by the standard library's `EmailMessage` alone."""
    message = EmailMessage(policy=policy.SMTP)
    message["Date"] = PARTS.date
    message["From"] = f"{PARTS.from_name} <{PARTS.from_email}>"
    message["To"] = PARTS.to_email
    message["Subject"] = PARTS.subject
    message["Message-ID"] = PARTS.message_id
    message["List-Unsubscribe"] = f"<{PARTS.unsubscribe_url}>, <{PARTS.unsubscribe_mailto}>"
    message["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    message["X-Paceline-Job"] = PARTS.job_token
    message.set_content(TEXT, cte="quoted-printable")
    message.add_alternative(HTML, subtype="html", cte="quoted-printable")
    if file is not None:
        message.add_attachment(
            file.content, maintype="application", subtype="pdf", filename=file.filename
        )
    return message.as_bytes()


def measure(repeats: int) -> list[Result]:
    """Messages per CPU-second against `EmailMessage`; render time against Jinja2.

    Ours is read back and compared with what was meant, theirs is not.
    """
    jinja = Environment(undefined=StrictUndefined, autoescape=False).from_string(TEMPLATE)
    filed = replace(PARTS, attachments=(FILE,))
    ours, theirs = interleave(
        lambda: COUNT / cpu_seconds(lambda: [build(PARTS) for _ in range(COUNT)]),
        lambda: COUNT / cpu_seconds(lambda: [standard() for _ in range(COUNT)]),
        repeats,
    )
    ours_filed, theirs_filed = interleave(
        lambda: COUNT / cpu_seconds(lambda: [build(filed) for _ in range(COUNT)]),
        lambda: COUNT / cpu_seconds(lambda: [standard(FILE) for _ in range(COUNT)]),
        repeats,
    )
    rendered, peer = interleave(
        lambda: cpu_seconds(lambda: [fill(LIQUID, VALUES) for _ in range(COUNT * 10)]),
        lambda: cpu_seconds(lambda: [jinja.render(VALUES) for _ in range(COUNT * 10)]),
        repeats,
    )
    return [
        Result(10, "MIME from rendered parts, against EmailMessage", "messages/CPU-s",
               ours, theirs, 15.0, "higher"),
        Result(10, "the same with a file of 100 kB", "messages/CPU-s",
               ours_filed, theirs_filed, 15.0, "higher"),
        Result(10, "Liquid render, against Jinja2", "CPU-s", rendered, peer, 4.0, "lower"),
    ]  # fmt: skip
