"""The edge before real services: what it promises holds with nothing faked but the model."""

import asyncio
import random
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from peregrine.edge.server import EdgeServer
from tests.support import stack
from tests.support.edge import edge, parse
from tests.support.stack import Stack

QUESTION = "What is 25 * 17, what time is it in UTC, and what do our docs say about refunds?"


@pytest.fixture
async def peregrine(migrated_dsn: str, redis_url: str) -> AsyncIterator[Stack]:
    async with stack.in_process(dsn=migrated_dsn, redis_url=redis_url, orchestrators=2) as running:
        yield running


@pytest.fixture
async def edges(peregrine: Stack) -> AsyncIterator[list[EdgeServer]]:
    asks = {"PEREGRINE_AUTH_REQUIRED": "true"} if peregrine.credential else {}
    memory = peregrine.environ["PEREGRINE_MEMORY_TARGET"]
    async with AsyncExitStack() as open_:
        yield [
            await open_.enter_async_context(edge(orchestrator=each.address, memory=memory, **asks))
            for each in peregrine.orchestrators
        ]


async def test_a_live_answer_is_cut_and_resumed_at_any_position_through_either_edge(
    edges: list[EdgeServer], peregrine: Stack
) -> None:
    """100 readers of live runs, each cut somewhere, each gone on elsewhere to the end."""
    body = {"agent": stack.AGENT, "message": QUESTION}
    choose = random.Random(20)
    async with AsyncExitStack() as open_:
        doors = [
            await open_.enter_async_context(
                httpx.AsyncClient(base_url=each.url, timeout=20, headers=peregrine.headers)
            )
            for each in edges
        ]

        async def cut_and_resume(path: str, after: int) -> bytes:
            """What two readers see together: one that leaves after `after`, one that goes on."""
            seen = b""
            async with choose.choice(doors).stream("GET", path) as response:
                async for chunk in response.aiter_bytes():
                    seen += chunk
                    if len(parse(seen)) >= after:
                        break
            events = parse(seen)[:after]
            kept = seen[: events[-1].end] if events else b""
            resume = {"Last-Event-ID": str(events[-1].id if events else 0)}
            rest = await choose.choice(doors).get(path, headers=resume)
            return kept + rest.content

        for _ in range(4):
            started = await doors[0].post("/v1/runs", json=body)
            path = f"/v1/runs/{started.json()['run_id']}/events"
            readers = [cut_and_resume(path, choose.randint(0, 30)) for _ in range(25)]
            results = await asyncio.gather(*readers)
            whole = (await doors[1].get(path)).content
            assert [each.id for each in parse(whole)] == [
                str(number + 1) for number in range(len(parse(whole)))
            ]
            assert parse(whole)[-1].event == "run_finished"
            assert b"425" in whole
            assert set(results) == {whole}


@pytest.mark.timeout(180)
async def test_nothing_that_is_sent_makes_it_fail(
    edges: list[EdgeServer], peregrine: Stack, tmp_path: Path
) -> None:
    """Schemathesis makes requests from the document, right ones and wrong ones."""
    checks = (
        "not_a_server_error,status_code_conformance,content_type_conformance,"
        "response_schema_conformance,negative_data_rejection,unsupported_method,"
        "allow_header_conformance"
    )
    program = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "schemathesis.cli", "run", f"{edges[0].url}/openapi.json"),
        *("--phases", "examples,coverage,fuzzing", "--max-examples", "15", "--seed", "11"),
        *("--checks", checks, "--continue-on-failure", "--request-timeout", "20"),
        *("--max-time", "25", "--warnings", "off"),
        *(part for item in peregrine.headers.items() for part in ("--header", ": ".join(item))),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=tmp_path,
    )
    try:
        async with asyncio.timeout(150):
            said, _ = await program.communicate()
    finally:
        if program.returncode is None:
            program.kill()
            await program.wait()
    assert program.returncode == 0, said.decode()[-8000:]
