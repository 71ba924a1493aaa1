"""Reads the octets of a built message again and compares them with what was meant.

It knows one dialect, the one that `mime` writes, and takes nothing else: what a general parser
would forgive, guess or repair is an error here. Nothing of what was written reaches it but the
octets; what it compares them with comes from the message's parts.
"""

import binascii
import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from struct import Struct
from typing import Final
from urllib.parse import unquote_to_bytes

from paceline_sender.domain import mime
from paceline_sender.domain.mime import Entity, Field, Leaf, Mailbox, Multipart, Text, Tokens

_LONG: Final = 998  # RFC 5322 §2.1.1
_WORD: Final = re.compile(r"=\?utf-8\?([qb])\?([!->@-~]+)\?=")
_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\["\\])*)"')
_ROWS: Final = Struct("76s2x" * 32)
_QUOTED_PAIR: Final = re.compile(r"\\(.)")
_BOUNDARY: Final = re.compile(
    r'multipart/(mixed|alternative|related)(?:; type="([a-z/-]+)")?;'
    r' boundary="([0-9A-Za-z=_]{8,60})"'
)
_SIMPLE: Final = re.compile(r'filename="([^"\\;%]+)"')
_EXTENDED: Final = re.compile(r"filename\*(?:(\d+)\*)?=((?:[A-Za-z0-9._~'-]|%[0-9A-F]{2})+)")


class Differs(Exception):
    """The octets do not say what was meant; the text says where, without repeating it."""


def compare(data: bytes, fields: Sequence[Field], entity: Entity) -> None:
    """Raise `Differs` unless `data` is a message of exactly these fields and this content.

    Holds the whole to 7 bit, CRLF line ends and 998 octets a line; each header block to these
    fields, in this order, with these values; each boundary to as many lines as there are parts.
    """
    if not data.isascii() or b"\0" in data:
        raise Differs("there is more than 7-bit text")
    head, blank, body = data.partition(b"\r\n\r\n")
    if not blank:
        raise Differs("the header does not end")
    lines = _unfolded(head)
    count = len(fields)
    if len(lines) < count:
        raise Differs("header fields are missing")
    for line, field in zip(lines, fields, strict=False):
        name, _, value = line.partition(": ")
        if name != field.name or not _says(value, field):
            raise Differs(f"{field.name} does not read back as written")
    texts = [head]
    _compare_entity(lines[count:], body, entity, texts)
    # All that stands between boundaries, but for base64, which `_holds` takes line by line.
    text = b"\r\n".join(texts)
    ends = text.split(b"\r\n")
    if text.count(b"\n") != len(ends) - 1 or text.count(b"\r") != len(ends) - 1:
        raise Differs("a line does not end with CRLF")
    if max(map(len, ends)) > _LONG:
        raise Differs("a line is too long")


def _unfolded(head: bytes) -> list[str]:
    return head.decode("ascii").replace("\r\n ", " ").split("\r\n")


def _says(value: str, field: Field) -> bool:
    if isinstance(field, Tokens):
        return value == " ".join(field.tokens) and "=?" not in value
    if isinstance(field, Text):
        return (_decoded(value) if "=?" in value else value) == field.value
    return _says_mailbox(value, field)


def _says_mailbox(value: str, field: Mailbox) -> bool:
    if not field.phrase:
        return value == field.address
    phrase, blank, address = value.rpartition(" ")
    if not blank or address != f"<{field.address}>":
        return False
    quoted = _QUOTED.fullmatch(phrase)
    if quoted is None:
        return _decoded(phrase) == field.phrase
    return _QUOTED_PAIR.sub(r"\1", quoted[1]) == field.phrase and "=?" not in phrase


def _decoded(value: str) -> str | None:
    """Return the text of a value that is encoded-words and nothing else; None otherwise."""
    texts: list[str] = []
    for word in value.split(" "):
        match = _WORD.fullmatch(word)
        if match is None or len(word) > 75:
            return None
        how, payload = match.groups()
        try:
            octets = (
                binascii.a2b_qp(payload, header=True)
                if how == "q"
                else binascii.a2b_base64(payload, strict_mode=True)
            )
            texts.append(octets.decode())
        except ValueError:
            return None
    return "".join(texts)


def _compare_entity(lines: list[str], body: bytes, entity: Entity, texts: list[bytes]) -> None:
    if isinstance(entity, Leaf):
        if lines != _leaf_lines(entity, lines):
            raise Differs("a part's header does not read back as written")
        if not _holds(body, entity):
            raise Differs("a part's content does not read back as written")
        if entity.encoding != "base64":
            texts.append(body)
        return
    match = _BOUNDARY.fullmatch(lines[0].removeprefix("Content-Type: ")) if lines else None
    if match is None or len(lines) != 1 or match[1] != entity.subtype:
        raise Differs("a multipart's header does not read back as written")
    if match[2] != (_type(entity.parts[0]) if entity.subtype == "related" else None):
        raise Differs("a multipart's root does not read back as written")
    pieces = (b"\r\n" + body).split(b"\r\n--" + match[3].encode("ascii"))
    if pieces[0] or pieces[-1] != b"--\r\n" or len(pieces) != len(entity.parts) + 2:
        raise Differs("the parts do not read back as written")
    for octets, part in zip(pieces[1:-1], entity.parts, strict=True):
        head, blank, content = octets.partition(b"\r\n\r\n")
        if not blank or not head.startswith(b"\r\n"):
            raise Differs("a part does not begin as it should")
        texts.append(head)
        _compare_entity(_unfolded(head[2:]), content, part, texts)


def _type(entity: Entity) -> str:
    if isinstance(entity, Multipart):
        return f"multipart/{entity.subtype}"
    return entity.content_type.partition(";")[0]


def _leaf_lines(leaf: Leaf, found: list[str]) -> list[str]:
    """Return the lines that the header of `leaf` must be; a disposition is judged on the way."""
    lines = [f"Content-Type: {leaf.content_type}", f"Content-Transfer-Encoding: {leaf.encoding}"]
    if leaf.content_id is not None:
        lines.append(f"Content-ID: <{leaf.content_id}>")
    if leaf.disposition is not None:
        kind, *parameters = found[-1].removeprefix("Content-Disposition: ").split("; ")
        if kind != leaf.disposition or _filename(parameters) != leaf.filename:
            raise Differs("a file's name does not read back as written")
        lines.append(found[-1])
    return lines


def _filename(parameters: list[str]) -> str | None:
    if not parameters:
        return ""
    *extended, last = parameters
    plain = _SIMPLE.fullmatch(last)
    if plain is None or not extended:
        return plain and plain[1]
    segments = [_EXTENDED.fullmatch(one) for one in extended]
    value = ""
    for number, segment in enumerate(segments):
        expected = None if len(segments) == 1 else str(number)
        if segment is None or segment[1] != expected:
            return None
        value += segment[2]
    charset, _, encoded = value.partition("''")
    if charset != "utf-8" or "'" in encoded:
        return None
    try:
        return unquote_to_bytes(encoded).decode()
    except UnicodeDecodeError:
        return None


def _holds(body: bytes, leaf: Leaf) -> bool:
    if leaf.encoding == "quoted-printable":
        return body.endswith(b"\r\n") and binascii.a2b_qp(body) == leaf.content
    whole = _base64(leaf.content)
    # Rows of 78 octets, the last one shorter: what stands in them, and how each one ends.
    full, rest = divmod(len(whole), 76)
    at = len(body) - len(body) % _ROWS.size
    rows = [*chain.from_iterable(_ROWS.iter_unpack(memoryview(body)[:at]))]
    rows += [body[n : n + 76] for n in range(at, len(body), 78)]
    if rest:
        rows[-1:] = [rows[-1].removesuffix(b"\r\n")] if rows else []
    return (
        len(body) == 78 * full + (rest + 2 if rest else 0)
        and body[76::78] == b"\r" * full
        and body[77::78] == b"\n" * full
        and body.endswith(b"\r\n" if body else b"")
        and b"".join(rows) == whole
    )


def _base64(content: bytes) -> bytes:
    # Encoding is a bijection, and its inverse costs three times as much. A campaign sends the
    # same files to all: small ones are kept.
    return (
        _kept(content)
        if len(content) <= mime.KEPT_SIZE
        else binascii.b2a_base64(content, newline=False)
    )


@lru_cache(maxsize=mime.KEPT)
def _kept(content: bytes) -> bytes:
    return binascii.b2a_base64(content, newline=False)
