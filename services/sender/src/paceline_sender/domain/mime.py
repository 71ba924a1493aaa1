"""MIME octet by octet (RFC 5322, 2045 to 2047, 2231): header fields, encoded content, parts.

Written by hand because the standard library's `EmailMessage` folds any token longer than a
line (a List-Unsubscribe URL, a Message-ID) into an encoded-word, and because it is slow. What
is written here is deterministic: the same parts give the same octets. `readback` reads it again.
"""

import binascii
import hashlib
import re
import unicodedata
from functools import lru_cache
from itertools import chain
from struct import Struct
from typing import Final, Literal, NamedTuple, TypeAlias
from urllib.parse import quote

Encoding = Literal["quoted-printable", "base64"]

CRLF: Final = "\r\n"
LINE: Final = 78  # RFC 5322 §2.1.1: SHOULD; 998 is the MUST
_WORD: Final = 75  # RFC 2047 §2
_WORD_FRAME: Final = len("=?utf-8?q??=")
# RFC 2045 §6.8: 76 characters, which are 57 octets.
_BASE64_LINE: Final = 76
# Takes many lines apart at once, which costs half of slicing one by one.
KEPT: Final = 16
KEPT_SIZE: Final = 1 << 18
_LINES: Final = Struct(f"{_BASE64_LINE}s" * 32)

# Tab and line feed are all that text needs; the rest is NUL, escapes and what clients hide.
_CONTROLS: Final = bytes(code for code in (*range(32), 127) if code not in b"\t\n")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
# RFC 2047 §5 (3): what may stand for itself in a phrase, which is less than in a subject.
_Q_SAFE: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!*+-/")
_Q: Final = tuple(
    chr(code) if code in _Q_SAFE else "_" if code == 0x20 else f"={code:02X}" for code in range(256)
)
# In a quoted string as they are, and no parser takes them for anything else.
SIMPLE_FILENAME: Final = re.compile(r"[A-Za-z0-9 !#$&'()+,.@^_`{}~=\[\]-]+")
_NOT_SIMPLE: Final = re.compile(r"[^A-Za-z0-9 !#$&'()+,.@^_`{}~=\[\]-]")
_SEGMENT: Final = 56


class Tokens(NamedTuple):
    """A field of words that must not be torn or encoded: ids, URLs, addresses."""

    name: str
    tokens: tuple[str, ...]


class Text(NamedTuple):
    """A field of free text on one line, as `clean_header_text` leaves it."""

    name: str
    value: str


class Mailbox(NamedTuple):
    """A field of one address with the name shown for it, which may be empty."""

    name: str
    phrase: str
    address: str


Field: TypeAlias = Tokens | Text | Mailbox


class Leaf(NamedTuple):
    """Content of one type. `content` is what a reader gets; text has CRLF line ends and
    ends with one."""

    content_type: str
    content: bytes
    encoding: Encoding
    disposition: Literal["inline", "attachment"] | None = None
    filename: str = ""
    content_id: str | None = None


class Multipart(NamedTuple):
    """Parts in an order that means something (RFC 2046 §5.1)."""

    subtype: Literal["mixed", "related", "alternative"]
    parts: "tuple[Entity, ...]"


Entity: TypeAlias = Leaf | Multipart


def text_octets(value: str) -> bytes:
    """Return body text in UTF-8 with CRLF line ends, the last line ended.

    Controls other than tab fall out; a lone surrogate becomes U+FFFD.
    """
    try:
        octets = value.encode()
    except UnicodeEncodeError:
        octets = _SURROGATE.sub("\ufffd", value).encode()
    octets = octets.replace(b"\r\n", b"\n").replace(b"\r", b"\n").translate(None, _CONTROLS)
    if not octets.endswith(b"\n"):
        octets += b"\n"
    return octets.replace(b"\n", b"\r\n")


def field(field: Field) -> str:
    """Return one header field, folded, with its line end."""
    if isinstance(field, Text):
        return f"{field.name}: {_text(field.name, field.value)}\r\n"
    if isinstance(field, Tokens):
        return f"{field.name}: {_folded(len(field.name), field.tokens)}\r\n"
    return f"{field.name}: {_mailbox(field)}\r\n"


def write(entity: Entity, seed: str) -> tuple[str, bytes]:
    """Return the header block of an entity, its last line ended, and its body.

    What is not ASCII, which would be a bug, becomes "?" and does not read back.
    `seed` makes boundaries differ between messages: nesting one in another must not confuse.
    """
    return _write(entity, hashlib.blake2b(seed.encode(), digest_size=8).hexdigest())


def _write(entity: Entity, seed: str) -> tuple[str, bytes]:
    if isinstance(entity, Leaf):
        return _leaf_head(entity), _encoded(entity)
    # RFC 2045 §6.7 and 6.8: neither encoding ever writes "=_". The letter keeps the boundary
    # of one level from being the beginning of another's.
    boundary = f"=_{entity.subtype[0]}{seed}"
    line = f"\r\n--{boundary}\r\n".encode("ascii")
    octets = [line[2:]]
    for part in entity.parts:
        head, body = _write(part, seed)
        octets += [head.encode("ascii", "replace"), b"\r\n", body, line]
    octets[-1] = f"\r\n--{boundary}--\r\n".encode("ascii")
    if entity.subtype == "related":
        # RFC 2387 §3.1 wants the root's type.
        root = _type(entity.parts[0])
        return (
            f'Content-Type: multipart/related; type="{root}";\r\n boundary="{boundary}"\r\n',
            b"".join(octets),
        )
    return f'Content-Type: multipart/{entity.subtype}; boundary="{boundary}"\r\n', b"".join(octets)


def _type(entity: Entity) -> str:
    if isinstance(entity, Multipart):
        return f"multipart/{entity.subtype}"
    return entity.content_type.partition(";")[0]


def _leaf_head(leaf: Leaf) -> str:
    head = f"Content-Type: {leaf.content_type}\r\nContent-Transfer-Encoding: {leaf.encoding}\r\n"
    if leaf.content_id is not None:
        head += f"Content-ID: <{leaf.content_id}>\r\n"
    if leaf.disposition is not None:
        parameters = "".join(f";\r\n {one}" for one in _filename(leaf.filename))
        head += f"Content-Disposition: {leaf.disposition}{parameters}\r\n"
    return head


def _encoded(leaf: Leaf) -> bytes:
    if leaf.encoding == "quoted-printable":
        # It takes its line ends from the first one it finds, hence CRLF at the end of all text.
        return binascii.b2a_qp(leaf.content, istext=True)
    if len(leaf.content) <= KEPT_SIZE:
        return _kept(leaf.content)
    return _base64(leaf.content)


def _base64(content: bytes) -> bytes:
    whole = binascii.b2a_base64(content, newline=False)
    at = len(whole) - len(whole) % _LINES.size
    lines = [*chain.from_iterable(_LINES.iter_unpack(memoryview(whole)[:at]))]
    lines += [whole[n : n + _BASE64_LINE] for n in range(at, len(whole), _BASE64_LINE)]
    return b"\r\n".join((*lines, b""))


# A campaign sends the same files to all: small ones are kept in their encoding.
@lru_cache(maxsize=KEPT)
def _kept(content: bytes) -> bytes:
    return _base64(content)


def fallback_filename(filename: str) -> str:
    """Return a name for readers that do not know RFC 2231."""
    plain = unicodedata.normalize("NFKD", filename)
    plain = "".join(char for char in plain if not unicodedata.combining(char))
    return " ".join(_NOT_SIMPLE.sub("_", plain).split()) or "_"


def _filename(filename: str) -> list[str]:
    """Return the parameters that name a file: RFC 2231's first, then the one for the rest.

    In this order parsers that stop at the first take the right one.
    """
    if not filename:
        return []
    if SIMPLE_FILENAME.fullmatch(filename):
        return [f'filename="{filename}"']
    segments = [""]
    for char in filename:
        # A character is never torn: some readers decode segment by segment.
        octets = quote(char, safe="")
        if len(segments[-1]) + len(octets) > _SEGMENT:
            segments.append("")
        segments[-1] += octets
    segments[0] = f"utf-8''{segments[0]}"
    fallback = f'filename="{fallback_filename(filename)[:60].rstrip()}"'
    if len(segments) == 1:
        return [f"filename*={segments[0]}", fallback]
    return [*(f"filename*{n}*={one}" for n, one in enumerate(segments)), fallback]


def _folded(name_length: int, tokens: tuple[str, ...]) -> str:
    line = " ".join(tokens)
    room = LINE - name_length - 2
    if len(line) <= room:
        return line
    lines: list[str] = []
    line = tokens[0]
    for token in tokens[1:]:
        if len(line) + 1 + len(token) > room:
            lines.append(line)
            line, room = token, LINE - 1
        else:
            line = f"{line} {token}"
    lines.append(line)
    return "\r\n ".join(lines)


def _text(name: str, value: str) -> str:
    # An ASCII value with "=?" in it is encoded too, so that it is shown as it is.
    if not value.isascii() or "=?" in value:
        return _words(value, LINE - len(name) - 2)
    if len(name) + 2 + len(value) <= LINE:
        return value
    return _folded(len(name), tuple(value.split(" ")))


def _mailbox(field: Mailbox) -> str:
    name, phrase, address = field
    if not phrase:
        return address
    if phrase.isascii() and "=?" not in phrase and len(phrase) <= 60:
        quoted = phrase.replace("\\", "\\\\").replace('"', '\\"')
        line = f'"{quoted}" <{address}>'
        return line if len(name) + 2 + len(line) <= LINE else f'"{quoted}"\r\n <{address}>'
    return f"{_words(phrase, LINE - len(name) - 2)}\r\n <{address}>"


def _words(value: str, room: int) -> str:
    """Return encoded-words (RFC 2047), one to a line, the shorter of Q and B.

    `room` is what the first line has left, at least 24. Each word decodes by itself (§5).
    """
    octets = [char.encode() for char in value]
    quoted = ["".join([_Q[code] for code in one]) for one in octets]
    is_quoted = sum(map(len, quoted)) <= -(-sum(map(len, octets)) // 3) * 4
    words: list[str] = []
    payload = min(room, _WORD) - _WORD_FRAME
    while octets:
        sizes = quoted if is_quoted else octets
        most = payload if is_quoted else payload // 4 * 3
        count = size = 0
        while count < len(sizes) and size + len(sizes[count]) <= most:
            size += len(sizes[count])
            count += 1
        if is_quoted:
            words.append(f"=?utf-8?q?{''.join(quoted[:count])}?=")
        else:
            base64 = binascii.b2a_base64(b"".join(octets[:count]), newline=False)
            words.append(f"=?utf-8?b?{base64.decode('ascii')}?=")
        del octets[:count], quoted[:count]
        payload = _WORD - _WORD_FRAME
    return "\r\n ".join(words)
