"""Is a message an automatic answer (RFC 3834), written by no person?

Headers decide; a subject only helps, since subjects are localized. A mailing
list's headers alone do not make an answer automatic: people answer from shared
addresses that are lists (sales@, team@).
"""

import re
from typing import Final

from paceline_reply.domain.inbound import Inbound

_PRESENT: Final = ("x-autoreply", "x-autorespond", "x-autoresponder", "x-auto-reply")
_SUBJECT: Final = re.compile(
    r"(?i)^\s*(\[[^\]]{1,30}\]\s*)?("
    r"auto(matic|matische|mated)?[\s-]*(reply|response|antwort|answer)\b"
    r"|out of( the)? office\b|(oof|ooo)\s*:"
    r"|abwesen(d|heit)|automatische antwort|réponse automatique|absence du bureau"
    r"|respuesta automática|fuera de la oficina|resposta automática|risposta automatica"
    r"|fuori sede|automatisch antwoord|afwezig|autosvar|automatiskt svar|frånvaro"
    r"|automaattinen vastaus|odpowiedź automatyczna|automatická odpověď|автоответ"
    r"|автоматический ответ|自動応答|自動返信|不在|自动答复|자동 회신"
    r")"
)
_AUTO_PREFIX: Final = re.compile(r"(?i)^\s*auto\s*:")


def automatic(inbound: Inbound) -> str | None:
    """Return the sign that `inbound` was written by a program, None when there is none.

    Strong signs first, as in RFC 3834 §5 and the vendors' own headers; reports
    of delivery are not this function's business.
    """
    submitted = inbound.header("auto-submitted").partition(";")[0].strip().lower()
    if submitted and submitted != "no":
        return f"auto-submitted: {submitted}"
    for name in _PRESENT:
        if (value := inbound.header(name).lower()) and value not in ("no", "false"):
            return name
    if inbound.header("x-apple-action").lower() == "vacation":
        return "x-apple-action: vacation"
    precedence = inbound.header("precedence").lower()
    if precedence in ("auto_reply", "auto-reply"):
        return f"precedence: {precedence}"
    if inbound.header("return-path") == "<>":
        return "null return-path"
    if inbound.report_type == "disposition-notification":
        return "read receipt"
    if _SUBJECT.match(inbound.subject):
        return "subject"
    if _AUTO_PREFIX.match(inbound.subject) and inbound.header("in-reply-to"):
        return "subject"
    # Ticket systems and bulk mailers; RFC 3834 §3.1.8 names `Precedence: bulk` for them.
    if precedence in ("bulk", "junk"):
        return f"precedence: {precedence}"
    if suppressed := inbound.header("x-auto-response-suppress").lower():
        kinds = {kind.strip() for kind in suppressed.split(",")}
        if kinds & {"all", "autoreply"}:
            return "x-auto-response-suppress"
    return None
