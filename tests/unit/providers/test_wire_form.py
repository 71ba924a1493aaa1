"""A message as it goes over the wire, and back."""

from hypothesis import given
from hypothesis import strategies as st

from paceline_providers.smtp_wire import wire_form

_MESSAGES = st.lists(
    st.sampled_from([b"\r", b"\n", b"\r\n", b".", b"..", b"a", b"\x00", b"\xff", b"."])
).map(b"".join)


def received(wire: bytes) -> bytes:
    """What a server makes of it (RFC 5321 §4.5.2)."""
    lines = (wire + b".\r\n").split(b"\r\n")
    assert lines.index(b".") == len(lines) - 2, "the final dot is the only lone one"
    return b"".join(line.removeprefix(b".") + b"\r\n" for line in lines[:-2])


@given(_MESSAGES)
def test_the_server_gets_the_message_with_every_line_ended(message: bytes) -> None:
    wanted = message.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    wanted = wanted.replace(b"\n", b"\r\n")
    if not wanted.endswith(b"\r\n"):
        wanted += b"\r\n"
    assert received(wire_form(message)) == wanted


@given(_MESSAGES)
def test_no_lone_line_end_leaves(message: bytes) -> None:
    wire = wire_form(message).replace(b"\r\n", b"")
    assert b"\r" not in wire
    assert b"\n" not in wire
