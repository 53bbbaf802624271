"""What the README shows runs as it stands there."""

import asyncio
import os
import re
import sys
from pathlib import Path

from peregrine.local.supervisor import QUESTION
from tests.support.stack import REPOSITORY, SERVICES, in_process

ADDRESS = "127.0.0.1:50051"


def code_blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def test_the_readme_asks_what_make_run_suggests() -> None:
    shell = code_blocks((REPOSITORY / "README.md").read_text(encoding="utf-8"), "sh")
    assert f'.venv/bin/peregrine chat "{QUESTION}"\n' in shell


async def test_the_grpc_client_of_the_readme_gets_an_answer(
    migrated_dsn: str, redis_url: str, tmp_path: Path
) -> None:
    [program] = code_blocks((REPOSITORY / "README.md").read_text(encoding="utf-8"), "python")
    assert ADDRESS in program
    async with in_process(dsn=migrated_dsn, redis_url=redis_url, identity=False) as stack:
        script = tmp_path / "client.py"
        script.write_text(program.replace(ADDRESS, stack.first.address), encoding="utf-8")
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-W",
            "error",
            str(script),
            env={**os.environ, "PYTHONPATH": str(SERVICES)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(60):
                said, complaints = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert complaints == b""
    assert process.returncode == 0
    assert "425" in said.decode()
