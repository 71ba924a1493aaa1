"""Reading MIME that strangers wrote: never fails, whatever the bytes."""

import email.message
import email.parser
import email.policy


def parse(raw: bytes) -> email.message.Message:
    """Return the message (RFC 5322), its headers alone where it is nested too deeply to walk."""
    try:
        message = email.message_from_bytes(raw, policy=email.policy.compat32)
        # Walk once: what is nested too deeply to parse may also be too deep to walk.
        for _ in message.walk():
            pass
    except RecursionError:
        # Hundreds of levels, which no mail client makes: its headers must do.
        return email.parser.BytesParser(policy=email.policy.compat32).parsebytes(
            raw, headersonly=True
        )
    return message
