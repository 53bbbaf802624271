"""`examples/cached.py` is run as it stands, and the page that explains it says what it says."""

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from peregrine.cache import main
from peregrine.kit.settings import Secret

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "examples" / "cached.py"
PAGE = ROOT / "docs" / "caching.md"


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


async def output(*arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(EXAMPLE),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PYTHONPATH": str(ROOT / "services"), "PYTHONUTF8": "1", "PYTHONWARNINGS": "error"},
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), 60)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert (process.returncode, err.decode()) == (0, "")
    return out.decode()


@pytest.fixture
async def target(migrated_dsn: str, redis_url: str) -> AsyncIterator[str]:
    settings = main.Settings(
        auth_required=False,
        listen="127.0.0.1:0",
        postgres_dsn=Secret(migrated_dsn),
        cache_redis_url=Secret(redis_url),
        redis_timeout_seconds=1.0,
        postgres_timeout_seconds=1.0,
    )
    async with main.build(settings) as server, server:
        await server.serving()
        yield server.address


async def test_the_example_runs_and_the_page_shows_what_it_prints(target: str) -> None:
    printed = await output(target)
    (shown,) = blocks("text")
    assert printed == shown
    # Once more, against what the first run left.
    assert await output(target) == shown


async def test_the_page_quotes_the_example(target: str) -> None:
    source = EXAMPLE.read_text()
    quoted = [each for each in blocks("python") if "@cached(cache" in each]
    assert quoted
    for each in quoted:
        assert each in source
