"""Bodies of answers: read within bounds, unpacked, and turned into text.

At most 5 MiB after unpacking, and at most a hundred times what came over the wire: a body is
unpacked piece by piece with room for no more than is left, so that a small answer cannot become a
large one in memory. Only text and JSON are read; bytes that are none in their charset are replaced.
"""

import codecs
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

MAX_BYTES = 5 * 1024 * 1024
MAX_RATIO = 100

# Small answers may be as repetitive as they like.
_RATIO_FROM_BYTES = 256 * 1024
_TEXTUAL = frozenset(
    {
        "application/json",
        "application/ld+json",
        "application/x-ndjson",
        "application/xml",
        "application/xhtml+xml",
        "application/javascript",
        "application/yaml",
        "application/x-yaml",
        "application/x-www-form-urlencoded",
    }
)
# Codecs whose time grows with the text and no faster; Python knows others.
_CHARSETS = frozenset(
    "utf-8 ascii iso8859-1 iso8859-2 iso8859-5 iso8859-15 cp1250 cp1251 cp1252 koi8-r utf-16 "
    "utf-16-le utf-16-be shift_jis euc_jp euc_kr gb2312 gbk gb18030 big5".split()
)


class TooLarge(Exception):
    """The text says which bound, for a model."""


class Unreadable(Exception):
    """It is packed in a way that is not understood; the text is for a model."""


class Incomplete(Exception):
    """It ended before its end."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a body is, by its Content-Type; text when nothing is said."""

    media_type: str
    charset: str

    @property
    def is_text(self) -> bool:
        return (
            self.media_type.startswith("text/")
            or self.media_type in _TEXTUAL
            or self.media_type.endswith(("+json", "+xml"))
        )

    def decode(self, body: bytes) -> str:
        text = body.decode(self.charset, "replace")
        # PostgreSQL keeps no such character, and no model needs it.
        return text.replace("\x00", "\N{REPLACEMENT CHARACTER}")


def kind(content_type: str) -> Kind:
    """Reads the value of the header; unknown charsets are taken for UTF-8."""
    media_type, *parameters = (part.strip() for part in content_type.split(";"))
    said = (each[8:].strip("\"'") for each in parameters if each.lower().startswith("charset="))
    charset = "utf-8"
    try:
        charset = codecs.lookup(next(said, "utf-8")).name
    except (LookupError, ValueError):
        pass
    if charset not in _CHARSETS:
        charset = "utf-8"
    return Kind(media_type.lower() or "text/plain", charset)


async def read(parts: AsyncIterator[bytes], encoding: str) -> bytes:
    """A body, unpacked piece by piece, never more of it than is allowed.

    Raises:
      TooLarge, Unreadable, Incomplete
    """
    encoding = encoding.strip().lower()
    if encoding not in ("", "identity", "gzip", "x-gzip"):
        raise Unreadable("The answer is packed in an unknown way.")
    inflate = zlib.decompressobj(wbits=31) if "gzip" in encoding else None
    body = bytearray()
    packed = 0
    async for part in parts:
        packed += len(part)
        room = MAX_BYTES + 1 - len(body)
        try:
            body += inflate.decompress(part, room) if inflate else part[:room]
        except zlib.error:
            raise Unreadable("The answer is packed wrongly.") from None
        # What follows the end, or unpacks to nothing, could go on for ever.
        if inflate and inflate.unused_data:
            raise Unreadable("The answer is packed wrongly.")
        if max(len(body), packed) > MAX_BYTES:
            raise TooLarge(f"The answer is larger than {MAX_BYTES // 2**20} MiB.")
        if len(body) > _RATIO_FROM_BYTES and len(body) > packed * MAX_RATIO:
            raise TooLarge(f"The answer unpacks to more than {MAX_RATIO} times its size.")
    if inflate and packed and not inflate.eof:
        raise Incomplete
    return bytes(body)
