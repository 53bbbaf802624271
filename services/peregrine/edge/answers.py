"""Answers of bytes that are known: JSON and files, compressed where that is worth it.

JSON is the form of `peregrine.client.jsonl`. What is above 1 KiB is gzipped for readers that take
it. Files have an ETag of their content; under a name that holds the content's hash they may be kept
for a year, under any other they are asked for again and mostly answered with 304.
"""

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
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
_CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for "
    "'script'; trusted-types 'none'"
)


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


@dataclass(frozen=True, slots=True)
class File:
    """A file that is served, read and compressed once."""

    body: bytes
    media_type: str
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def version(self) -> str:
        return hashlib.sha256(self.body).hexdigest()[:16]

    def served(self) -> "Served":
        zipped = gzip.compress(self.body, 9, mtime=0)
        worth_it = len(self.body) > COMPRESS_ABOVE
        return Served(self, self.version, zipped if worth_it else None)


@dataclass(frozen=True, slots=True)
class Served:
    file: File
    version: str
    zipped: bytes | None

    def answer(self, request: Request) -> Response:
        zipped = self.zipped if _takes_gzip(request) else None
        tag = f'"{self.version}-gz"' if zipped is not None else f'"{self.version}"'
        fresh = request.query_params.get("v") == self.version
        headers = {
            **self.file.headers,
            "ETag": tag,
            "Cache-Control": _FOREVER if fresh else "no-cache",
            "Vary": "Accept-Encoding",
        }
        if tag in _tags(request.headers.get("if-none-match", "")):
            return Response(status_code=304, headers=headers)
        if zipped is not None:
            headers["Content-Encoding"] = "gzip"
        return Response(
            zipped if zipped is not None else self.file.body,
            media_type=self.file.media_type,
            headers=headers,
        )


def page_files() -> dict[str, Served]:
    """The page by path. It names its parts by their content, so that they can be kept for good."""
    folder = resources.files("peregrine.edge") / "page"
    files = {
        each.name: File(each.read_bytes(), _TYPES[each.name.rpartition(".")[2]])
        for each in folder.iterdir()
        if each.name.rpartition(".")[2] in _TYPES
    }
    index = files.pop("index.html").body.decode()
    for name, each in files.items():
        index = index.replace(f'"/{name}"', f'"/{name}?v={each.version}"')
    page = File(
        index.encode(),
        _TYPES["html"],
        {"Content-Security-Policy": _CONTENT_SECURITY_POLICY, "X-Frame-Options": "DENY"},
    )
    return {"/": page.served()} | {f"/{name}": each.served() for name, each in files.items()}


def _takes_gzip(request: Request) -> bool:
    for part in request.headers.get("accept-encoding", "").lower().split(","):
        name, _, parameters = part.partition(";")
        if name.strip() in ("gzip", "*"):
            return parameters.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


def _tags(header: str) -> set[str]:
    return {tag.strip().removeprefix("W/") for tag in header.split(",")}
