"""The tool `read_file`: text files below one folder, and nothing outside of it.

A path is resolved first, with its symbolic links, and must then lie below the folder. What is
opened is that resolved path, one part after the other and none of them through a link, each from
the directory opened before it: whoever swaps a part for a link in between gets an error, not
another file. (Links that stay inside work: a mounted ConfigMap consists of them.)
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from peregrine.tools.definition import (
    Arguments,
    ChangeClass,
    Definition,
    Effect,
    Output,
    Scope,
    ToolContext,
    ToolFailure,
    tool,
)

MAX_BYTES = 512 * 1024

_MAX_NAMES = 200
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Not to wait for whoever might write into a named pipe.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def read_file(folder: Path, *, tenant: str) -> Definition:
    """The tool, on the files below `folder`, for `tenant`, to whom they belong."""
    root = folder.resolve()

    @tool(
        name="read_file",
        description=(
            "Reads a text file of the shared folder, or lists the names in one of its directories. "
            "Paths are relative to the folder; '.' lists the folder itself."
        ),
        parameters={
            "path": {
                "type": "string",
                "description": "for example notes/plan.md, or . for a list",
                "minLength": 1,
                "maxLength": 1_000,
            }
        },
        effect=Effect.READ,
        change=ChangeClass.LIVE,
        scope=Scope.TENANT,
    )
    def read(arguments: Arguments, context: ToolContext) -> Output:
        if context.tenant != tenant:
            raise ToolFailure("There are no files for you here.", reason="FILES_NOT_OPEN")
        return _read(root, arguments["path"])

    return read


def _read(root: Path, path: str) -> Output:
    try:
        inside = (root / path).resolve(strict=True).relative_to(root)
        with _opened(root, inside) as descriptor:
            kind = os.fstat(descriptor)
            if stat.S_ISDIR(kind.st_mode):
                return _listed(descriptor)
            if not stat.S_ISREG(kind.st_mode):
                raise ToolFailure("That is not a file.", reason="FILE_NOT_FOUND")
            return Output(_text(descriptor, kind.st_size))
    except (OSError, ValueError, RuntimeError):
        # Whether something is there outside the folder is not told.
        raise ToolFailure(
            f"There is no file {path[:200]!r} in the folder.", reason="FILE_NOT_FOUND"
        ) from None


@contextmanager
def _opened(root: Path, inside: Path) -> Iterator[int]:
    descriptor = os.open(root, _DIRECTORY)
    try:
        for number, part in enumerate(inside.parts, 1):
            last = number == len(inside.parts)
            found = os.open(part, _FILE if last else _DIRECTORY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = found
        yield descriptor
    finally:
        os.close(descriptor)


def _listed(descriptor: int) -> Output:
    with os.scandir(descriptor) as entries:
        names = sorted(
            entry.name + ("/" if entry.is_dir(follow_symlinks=False) else "")
            for entry in entries
            if not entry.name.startswith(".")
        )
    shown = names[:_MAX_NAMES]
    more = f"\n… and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return Output("\n".join(shown) + more or "The directory is empty.", {"names": shown})


def _text(descriptor: int, size: int) -> str:
    if size > MAX_BYTES:
        raise ToolFailure(
            f"The file has {size} bytes; at most {MAX_BYTES} are read.", reason="FILE_TOO_LARGE"
        )
    # A file may grow after it was measured.
    with os.fdopen(os.dup(descriptor), "rb") as file:
        content = file.read(MAX_BYTES)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\x00"
    if "\x00" in text:
        raise ToolFailure("The file is not text.", reason="FILE_NOT_TEXT")
    return text
