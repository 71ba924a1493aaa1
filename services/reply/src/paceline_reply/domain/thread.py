"""Is a message part of a conversation, judged by its subject?"""

import re
import unicodedata
from typing import Final

# Reply and forward marks of clients and languages, also counted (`Re[2]:`), and tags that
# gateways put in front (`[EXT]`).
_MARK: Final = re.compile(
    r"^\s*(\[[^\]]{1,30}\]\s*|("
    r"re|aw|antw|sv|vs|vá|odp|odg|ref|res|rif|r|i|tr|fw|fwd|wg|enc|rv|vb|vl|doorst|pd|továbbítás"
    r"|回复|答复|回覆|转发|轉寄|返信|転送|회신|отв|ответ|на|απ"
    r")\s*(\[\d{1,3}\]|\(\d{1,3}\))?\s*[:：]\s*)"
)


def base_subject(subject: str) -> str:
    """Return the subject without reply marks and tags, folded for comparison.

    `Re: AW: [EXT] Hello  there` and `hello there` have the same base.
    """
    text = " ".join(unicodedata.normalize("NFKC", subject).casefold().split())
    while (mark := _MARK.match(text)) is not None:
        text = text[mark.end() :]
    return text.strip()


def same_conversation(sent: str, received: str) -> bool:
    """Tell whether two subjects belong to one conversation; empty ones prove nothing."""
    base = base_subject(sent)
    return bool(base) and base == base_subject(received)
