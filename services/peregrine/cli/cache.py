"""The cache from outside: what it did, what is not true any more, what to load ahead of need."""

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from peregrine.api.cache.v1 import cache_pb2 as pb
from peregrine.cli import session
from peregrine.cli.tables import Column, show
from peregrine.client import CacheClient, jsonl

# What the service takes at once.
_BATCH = 10_000
# How long one request may take: less than the proof of who asks is good for.
_BATCH_SECONDS = 200
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


async def stats(namespace: str, *, as_json: bool) -> int:
    async with session.cache() as client:
        found = await client.get_stats(namespace)
    if as_json:
        for each in found:
            typer.echo(jsonl.line(each))
        return 0
    columns = (
        Column("NAMESPACE"),
        Column("HIT RATE", right=True),
        Column("ASKED", right=True),
        Column("NEAR", rank=2, right=True),
        Column("REDIS", rank=2, right=True),
        Column("POSTGRES", rank=2, right=True),
        Column("MISSES", rank=1, right=True),
        Column("SIZE", rank=3, right=True),
        Column("EVICTED", rank=4, right=True),
    )
    rows = [
        (
            each.namespace,
            f"{each.hit_rate:.1%}" if each.total else "-",
            f"{each.total:,}",
            f"{each.near_hits:,}",
            f"{each.redis_hits:,}",
            f"{each.postgres_hits:,}",
            f"{each.misses:,}",
            _size(each.bytes),
            f"{each.evictions:,}",
        )
        for each in found
    ]
    empty = f"nobody has asked for anything in {namespace}" if namespace else "nothing was asked"
    show(session.console(), columns, rows, empty=empty)
    return 0


async def invalidate(
    *, tags: list[str], namespace: str, keys: list[str] | None, mine: bool, as_json: bool
) -> int:
    if bool(tags) == bool(namespace):
        session.fail("give either --tag, or --namespace (with --key for one entry)", session.USAGE)
    if keys and tags:
        session.fail("--key goes with --namespace", session.USAGE)
    if mine and not keys:
        session.fail("--mine goes with --key", session.USAGE)
    async with session.cache() as client:
        for tag in tags:
            _untrue("tag", tag, await client.invalidate(tag=tag), as_json=as_json)
        if namespace and not keys:
            position = await client.invalidate(namespace=namespace)
            _untrue("namespace", namespace, position, as_json=as_json)
        for text in keys or ():
            key = client.key(namespace, text.encode(), shared=not mine)
            position = await client.invalidate(key=key)
            _untrue("key", f"{namespace}/{text}", position, as_json=as_json)
    return 0


def _untrue(kind: str, name: str, sequence: int, *, as_json: bool) -> None:
    if as_json:
        typer.echo(jsonl.dumps({"kind": kind, "name": name, "sequence": sequence}))
    else:
        typer.echo(f"{kind}/{name} invalidated")


async def warm(
    namespace: str,
    *,
    keys: list[str] | None,
    file: Path | None,
    most_frequent: int,
    rate: int,
    mine: bool,
    as_json: bool,
) -> int:
    if bool(keys) + (file is not None) + bool(most_frequent) != 1:
        session.fail("give one of --keys, --file and --most-frequent", session.USAGE)
    wanted = None
    if not most_frequent:
        wanted = _lines(file) if file is not None else [each.encode() for each in keys or ()]
        if not wanted:
            session.fail(f"there is no key in {file}", session.USAGE)
    end = pb.WarmResponse()
    async with session.cache() as client:
        with _bar(namespace, shown=not as_json) as moved:
            async for end in _warming(client, namespace, wanted, most_frequent, rate, mine=mine):
                moved(end)
                if as_json:
                    typer.echo(jsonl.line(end))
    if not as_json:
        if not end.total:
            typer.echo(f"{namespace}: nothing was asked for in the last day")
        else:
            said = f"{namespace}: {end.loaded:,} loaded, {end.present:,} were there"
            typer.echo(f"{said}, {end.failed:,} could not be loaded")
    return session.FAILED if end.failed else 0


async def _warming(
    client: CacheClient,
    namespace: str,
    wanted: list[bytes] | None,
    most_frequent: int,
    rate: int,
    *,
    mine: bool,
) -> AsyncIterator[pb.WarmResponse]:
    """Progress over all keys, however many requests they take."""
    if wanted is None:
        async for each in client.warm_entries(
            namespace, most_frequent=most_frequent, max_rate=rate
        ):
            yield each
        return
    before = pb.WarmResponse()
    size = min(_BATCH, rate * _BATCH_SECONDS)
    for start in range(0, len(wanted), size):
        batch = wanted[start : start + size]
        now = before
        async for each in client.warm_entries(
            namespace, keys=batch, shared=not mine, max_rate=rate
        ):
            now = pb.WarmResponse(
                loaded=before.loaded + each.loaded,
                failed=before.failed + each.failed,
                present=before.present + each.present,
                total=len(wanted),
            )
            yield now
        before = now


@contextmanager
def _bar(namespace: str, *, shown: bool) -> Iterator[Callable[[pb.WarmResponse], None]]:
    """On a terminal, how far it is; beside the output, which may go elsewhere."""
    console = Console(file=sys.stderr)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not shown or not console.is_terminal or console.is_dumb_terminal,
    ) as progress:
        task = progress.add_task(namespace, total=None)

        def moved(now: pb.WarmResponse) -> None:
            done = now.loaded + now.present + now.failed
            progress.update(task, total=now.total, completed=done)

        yield moved


def _lines(file: Path) -> list[bytes]:
    try:
        data = sys.stdin.read().encode() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        session.fail(f"cannot read {file}: {error.strerror}", session.USAGE)
    return [line for line in data.splitlines() if line]


def _size(count: float) -> str:
    """Bytes, in the unit that leaves at most four digits."""
    for unit in _UNITS:
        if count < 1024 or unit == _UNITS[-1]:
            break
        count /= 1024
    return f"{count:.0f} {unit}" if count >= 10 or unit == "B" else f"{count:.1f} {unit}"
