"""A service's process from start to exit: signals, exit codes, one clear line for each mistake."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from tests.component.kit.echo import EchoStub, echo_server

SECONDS = 20


class Process:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.lines: list[str] = []

    async def until(self, event: str) -> dict[str, Any]:
        """Reads on until the process logs `event`."""
        assert self._process.stderr is not None
        async with asyncio.timeout(SECONDS):
            while raw := await self._process.stderr.readline():
                line = raw.decode().rstrip("\n")
                self.lines.append(line)
                if line.startswith("{") and json.loads(line)["event"] == event:
                    parsed: dict[str, Any] = json.loads(line)
                    return parsed
        raise AssertionError(f"{event} never came: {self.lines}")

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    async def exit(self) -> int:
        assert self._process.stderr is not None
        async with asyncio.timeout(SECONDS):
            rest = await self._process.stderr.read()
            self.lines += rest.decode().splitlines()
            return await self._process.wait()

    @property
    def said(self) -> list[str]:
        """What was written for people, beside the JSON lines."""
        return [line for line in self.lines if not line.startswith("{")]

    @property
    def events(self) -> list[str]:
        return [json.loads(line)["event"] for line in self.lines if line.startswith("{")]


@asynccontextmanager
async def started(**environ: str) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", "tests.component.kit.echo_process"),
        env={
            **{key: value for key, value in os.environ.items() if key in ("PATH", "HOME")},
            "PEREGRINE_AUTH_REQUIRED": "false",
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            **environ,
        },
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield Process(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_call_in_flight_completes_after_the_signal_and_the_process_exits_0(
    number: int,
) -> None:
    async with started() as process:
        address = (await process.until("serving"))["address"]
        async with grpc.aio.insecure_channel(address) as channel:
            call = EchoStub(channel).Say(StringValue(value="wait"), timeout=SECONDS)
            await process.until("waiting")
            process.signal(number)
            assert (await call).value == "wait"
        assert await process.exit() == 0
    assert process.events[-4:] == ["waiting", "not_serving", "stopped", "closed"]
    assert process.said == []


async def test_a_call_that_outlives_the_drain_time_is_cut_and_the_exit_is_still_clean() -> None:
    async with started(PEREGRINE_DRAIN_SECONDS="0.2") as process:
        address = (await process.until("serving"))["address"]
        async with grpc.aio.insecure_channel(address) as channel:
            call = EchoStub(channel).Say(StringValue(value="hang"), timeout=SECONDS)
            await process.until("waiting")
            process.signal(signal.SIGTERM)
            with pytest.raises(grpc.aio.AioRpcError):
                await call
        assert await process.exit() == 0


async def test_a_second_signal_cuts_the_drain_short() -> None:
    async with started(PEREGRINE_DRAIN_SECONDS="600") as process:
        address = (await process.until("serving"))["address"]
        async with grpc.aio.insecure_channel(address) as channel:
            call = EchoStub(channel).Say(StringValue(value="hang"), timeout=SECONDS)
            await process.until("waiting")
            process.signal(signal.SIGTERM)
            await process.until("not_serving")
            process.signal(signal.SIGTERM)
            with pytest.raises(grpc.aio.AioRpcError):
                await call
        assert await process.exit() == 1
    assert process.events[-1] == "closed"


async def test_a_signal_during_a_start_that_hangs_ends_it() -> None:
    async with started(ECHO_BUILD="hang") as process:
        await process.until("building")
        process.signal(signal.SIGTERM)
        assert await process.exit() == 0


async def test_a_signal_before_the_backends_answered_stops_in_order() -> None:
    async with started(ECHO_READY="hang") as process:
        await process.until("not ready")
        process.signal(signal.SIGTERM)
        assert await process.exit() == 0
    assert process.events[-3:] == ["not_serving", "stopped", "closed"]


async def test_wrong_settings_are_all_said_and_the_exit_is_2() -> None:
    async with started(PEREGRINE_DRAIN_SECONDS="soon", PEREGRINE_METRICS_PORT="-1") as process:
        assert await process.exit() == 2
    assert len(process.said) == 2
    assert process.said[0].startswith("echo: PEREGRINE_METRICS_PORT: '-1' is below 0")
    assert process.said[1].startswith("echo: PEREGRINE_DRAIN_SECONDS: 'soon' is not a number")


async def test_a_port_in_use_is_one_clear_line_and_exit_2() -> None:
    async with echo_server() as server, started(PEREGRINE_LISTEN=server.address) as process:
        assert await process.exit() == 2
    assert process.said == [
        f"echo: cannot listen on {server.address} (address already in use): "
        "set PEREGRINE_LISTEN to a free address"
    ]
    assert process.events[-1] == "closed"


async def test_a_refused_start_is_one_clear_line_and_exit_2() -> None:
    async with started(ECHO_BUILD="refuse") as process:
        assert await process.exit() == 2
    assert process.said == ["echo: the role is too powerful"]


async def test_a_backend_that_is_away_is_one_clear_line_and_exit_1() -> None:
    async with started(ECHO_BUILD="away") as process:
        assert await process.exit() == 1
    assert process.said == ["echo: PostgreSQL cannot be reached (POSTGRES_UNAVAILABLE)"]


async def test_a_service_that_cannot_become_ready_exits_1_with_the_cause_in_the_log() -> None:
    async with started(ECHO_READY="fail") as process:
        assert await process.exit() == 1
    (line,) = [json.loads(line) for line in process.lines if "service_failed" in line]
    assert "broken" in line["exception"]
    assert "closed" in process.events


async def test_a_start_that_waits_for_its_database_can_still_be_stopped() -> None:
    async with started(ECHO_BUILD="away", PEREGRINE_START_WAIT_SECONDS="60") as process:
        waiting = await process.until("waiting_to_start")
        assert waiting["reason"] == "POSTGRES_UNAVAILABLE"
        process.signal(signal.SIGTERM)
        assert await process.exit() == 0
        assert process.said == []
