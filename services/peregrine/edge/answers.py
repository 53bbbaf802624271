"""Answers of bytes that are known: JSON and files, compressed where that is worth it.

JSON is the form of `peregrine.client.jsonl`. What is above 1 KiB is gzipped for readers that take
it. Files have an ETag of their content; under a name that holds the content's hash they may be kept
for a year, under any other they are asked for again and mostly answered with 304.
"""

import gzip
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from google.protobuf.message import Message
from starlette.requests import Request
from starlette.responses import Response

from peregrine.client import jsonl

COMPRESS_ABOVE = 1024

_LEVEL = 5
_FOREVER = "public, max-age=31536000, immutable"
_TYPES = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
}
_PAGE_HEADERS = {
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
}


def json_answer(
    request: Request,
    value: Message | Mapping[str, Any],
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A message, or what is plain already, as JSON."""
    text = jsonl.line(value) if isinstance(value, Message) else jsonl.dumps(value)
    body = text.encode()
    extra = {"Cache-Control": "no-store", **(headers or {})}
    if len(body) > COMPRESS_ABOVE:
        extra["Vary"] = "Accept-Encoding"
        if _takes_gzip(request):
            body = gzip.compress(body, _LEVEL, mtime=0)
            extra["Content-Encoding"] = "gzip"
    return Response(body, status_code=status, media_type="application/json", headers=extra)


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A file as it is served, read and compressed once. `version` may stand in its address."""

    body: bytes
    zipped: bytes | None
    media_type: str
    version: str
    tag: str
    headers: Mapping[str, str]

    def answer(self, request: Request) -> Response:
        zipped = self.zipped if _takes_gzip(request) else None
        tag = f'"{self.tag}"' if zipped is None else f'"{self.tag}-gz"'
        named = request.query_params.get("v") == self.version
        headers = {
            **self.headers,
            "ETag": tag,
            "Cache-Control": _FOREVER if named else "no-cache",
            "Vary": "Accept-Encoding",
        }
        if tag in _tags(request.headers.get("if-none-match", "")):
            return Response(status_code=304, headers=headers)
        if zipped is not None:
            headers["Content-Encoding"] = "gzip"
        body = self.body if zipped is None else zipped
        return Response(body, media_type=self.media_type, headers=headers)


def page_files() -> dict[str, Served]:
    """The page by path. Its parts name each other by what the whole page holds, so that a browser
    keeps them for good and never mixes two versions."""
    folder = resources.files("peregrine.edge") / "page"
    bodies = {
        each.name: each.read_bytes()
        for each in sorted(folder.iterdir(), key=lambda each: each.name)
        if _kind(each.name) in _TYPES
    }
    version = _hash(b"\0".join(bodies.values()))
    return {
        "/" if name == "index.html" else f"/{name}": _served(name, body, bodies, version)
        for name, body in bodies.items()
    }


def _served(name: str, body: bytes, names: Iterable[str], version: str) -> Served:
    if _kind(name) in ("html", "js"):
        for each in names:
            for quoted in (f'"/{each}"', f'"./{each}"'):
                body = body.replace(quoted.encode(), f'{quoted[:-1]}?v={version}"'.encode())
    return Served(
        body=body,
        zipped=gzip.compress(body, 9, mtime=0) if len(body) > COMPRESS_ABOVE else None,
        media_type=_TYPES[_kind(name)],
        version=version,
        tag=_hash(body),
        headers=_PAGE_HEADERS if _kind(name) == "html" else {},
    )


def _kind(name: str) -> str:
    return name.rpartition(".")[2]


def _hash(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()[:16]


def _takes_gzip(request: Request) -> bool:
    for part in request.headers.get("accept-encoding", "").lower().split(","):
        name, _, parameters = part.partition(";")
        if name.strip() in ("gzip", "*"):
            return parameters.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


def _tags(header: str) -> set[str]:
    return {tag.strip().removeprefix("W/") for tag in header.split(",")}
