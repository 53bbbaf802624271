"""The simulator as a process: starts, ends on a signal, explains what is wrong."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
import pytest


@contextmanager
def started(**variables: str) -> Iterator[subprocess.Popen[str]]:
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("PEREGRINE_")},
        "PEREGRINE_LISTEN": "127.0.0.1:0",
        "PEREGRINE_SIMULATOR_CONTROL_LISTEN": "127.0.0.1:0",
        **variables,
    }
    with subprocess.Popen(
        [sys.executable, "-m", "peregrine.simulator"],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_a_signal_and_exits_with_0(number: signal.Signals) -> None:
    with started() as process:
        assert process.stderr is not None
        line = json.loads(process.stderr.readline())
        assert line["event"] == "simulator_started"
        health = httpx2.get(f"{line['control_url']}/health", timeout=10)
        assert health.json() == {"status": "serving"}
        process.send_signal(number)
        assert process.wait(10) == 0
        assert process.stderr.read() == ""


def test_a_port_in_use_is_said_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with started(PEREGRINE_LISTEN=address) as process:
            _, problem = process.communicate(timeout=20)
    assert process.returncode == 1
    assert problem.count("\n") == 1
    assert problem.startswith(f"simulator: cannot listen on {address} (PEREGRINE_LISTEN)")
    assert "in use" in problem


def test_wrong_settings_are_all_named() -> None:
    wrong = {"PEREGRINE_SIMULATOR_SEED": "x", "PEREGRINE_SIMULATOR_JITTER": "2"}
    with started(**wrong) as process:
        _, problem = process.communicate(timeout=20)
    assert process.returncode == 2
    assert all(variable in problem for variable in wrong)
