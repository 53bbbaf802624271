"""Markdown files cut into passages that can be found and quoted on their own.

A passage is what stands under one heading, with the headings above it as its place in the document
("Refunds > How long it takes"). What is longer than about a screen is cut between paragraphs, so
that a found passage can be shown to a model whole. Headings inside fenced code are text.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MAX_PASSAGE_CHARACTERS = 1_600
MAX_FILE_BYTES = 2 * 1024 * 1024

# Part of each digest: a changed way of cutting makes every document new.
_CUT = b"peregrine passages 1\n"
_HEADING = re.compile(r"(#{1,6})\s+(.+?)\s*#*\s*")
_FENCE = re.compile(r"\s{0,3}(```+|~~~+)")
_SUFFIXES = frozenset({".md", ".markdown"})


@dataclass(frozen=True, slots=True)
class Passage:
    """`heading`: the headings above it, outermost first, joined by " > "."""

    heading: str
    body: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """`source`: the file's path inside its folder."""

    source: str
    title: str
    digest: bytes
    passages: tuple[Passage, ...]


def read_folder(folder: Path) -> list[Document]:
    """Every Markdown file below `folder`, by path. Blocks.

    Hidden files, files over 2 MiB and files that are not UTF-8 are left out.
    """
    documents = []
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.suffix.lower() not in _SUFFIXES or not path.is_file():
            continue
        if any(part.startswith(".") for part in inside.parts):
            continue
        if path.stat().st_size > MAX_FILE_BYTES:
            continue
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError:
            continue
        documents.append(parse(inside.as_posix(), text))
    return documents


def parse(source: str, text: str) -> Document:
    text = text.replace("\x00", " ")
    sections = list(_sections(text))
    title = next((heading for heading, _ in sections if heading), "").partition(" > ")[0]
    return Document(
        source=source,
        title=title or source,
        digest=hashlib.sha256(_CUT + text.encode()).digest(),
        passages=tuple(
            Passage(heading or source, part) for heading, body in sections for part in _cut(body)
        ),
    )


def _sections(text: str) -> Iterator[tuple[str, str]]:
    above: list[tuple[int, str]] = []
    lines: list[str] = []
    fence = ""
    for line in text.splitlines():
        mark = _FENCE.match(line)
        if mark and not fence:
            fence = mark[1]
        elif mark and mark[1].startswith(fence):
            fence = ""
        heading = None if fence or mark else _HEADING.fullmatch(line)
        if heading is None:
            lines.append(line)
            continue
        yield " > ".join(words for _, words in above), "\n".join(lines)
        lines = []
        level = len(heading[1])
        above = [(depth, words) for depth, words in above if depth < level]
        above.append((level, heading[2]))
    yield " > ".join(words for _, words in above), "\n".join(lines)


def _cut(body: str) -> Iterator[str]:
    part = ""
    for paragraph in re.split(r"\n\s*\n", body):
        paragraph = paragraph.strip("\n").rstrip()
        if not paragraph.strip():
            continue
        if part and len(part) + len(paragraph) + 2 > MAX_PASSAGE_CHARACTERS:
            yield part
            part = ""
        while len(paragraph) > MAX_PASSAGE_CHARACTERS:
            end = paragraph.rfind(" ", MAX_PASSAGE_CHARACTERS // 2, MAX_PASSAGE_CHARACTERS)
            end = end if end > 0 else MAX_PASSAGE_CHARACTERS
            yield paragraph[:end].rstrip()
            paragraph = paragraph[end:].lstrip()
        part = f"{part}\n\n{paragraph}" if part else paragraph
    if part:
        yield part
