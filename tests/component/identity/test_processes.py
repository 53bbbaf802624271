"""A service as a process: what it refuses to start with, in one line, before anything else."""

import asyncio
import os
import sys

import pytest

from tests.support.identity import KEYS_TEXT
from tests.support.stack import SERVICES

INNER = ("orchestrator", "llm-gateway", "tools", "cache", "memory")
NEEDED = {
    "PEREGRINE_POSTGRES_DSN": "postgresql://nobody@127.0.0.1:1/none",
    "PEREGRINE_REDIS_URL": "redis://127.0.0.1:1/0",
    "PEREGRINE_CACHE_REDIS_URL": "redis://127.0.0.1:1/0",
    "PEREGRINE_ANTHROPIC_BASE_URL": "http://127.0.0.1:1",
}


async def ended(service: str, **environ: str) -> tuple[int, str]:
    """How it exits, and what it says."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "peregrine", service),
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(SERVICES), **NEEDED, **environ},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(60):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, said.decode()


@pytest.mark.parametrize("service", [*INNER, "edge"])
async def test_with_identity_off_nothing_but_this_machine_is_served(service: str) -> None:
    code, said = await ended(service, PEREGRINE_AUTH_REQUIRED="false", PEREGRINE_LISTEN="0.0.0.0:0")
    assert (code, said) == (
        2,
        f"{service}: PEREGRINE_AUTH_REQUIRED: is off, so 0.0.0.0:0 is not listened on; switch it "
        "on, or set PEREGRINE_LISTEN to a loopback address or a Unix socket\n",
    )


@pytest.mark.parametrize("service", INNER)
async def test_identity_is_on_by_default_and_wants_its_keys(service: str) -> None:
    code, said = await ended(service)
    assert code == 2
    assert said.startswith(f"{service}: PEREGRINE_SECRET_IDENTITY_KEYS: is not set; give it")
    assert said.count("\n") == 1


async def test_keys_that_cannot_be_used_are_named_and_not_shown() -> None:
    code, said = await ended("memory", PEREGRINE_SECRET_IDENTITY_KEYS=KEYS_TEXT[:20])
    assert code == 2
    assert "PEREGRINE_SECRET_IDENTITY_KEYS: the key in line 1 has fewer than 32 bytes" in said
    assert KEYS_TEXT[5:20] not in said and said.count("\n") == 1
