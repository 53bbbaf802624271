"""The operator as a process among others: one works, others stand by; probes; a restart."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from peregrine_operator.handlers import Watches
from peregrine_operator.kubernetes import ApiAway, ApiError, Key, Kubernetes
from peregrine_operator.metrics import Metrics
from peregrine_operator.view import Object, read
from tests.component.operator.conftest import Start, agent
from tests.component.operator.fakes import Agents
from tests.support.eventually import eventually
from tests.support.kubernetes import ApiServer
from tests.support.ports import free_port
from tests.support.stack import REPOSITORY

HELPER = Key("Agent", "one", "helper")


async def probe(port: int, path: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{port}{path}") as response:
            return response.status, await response.text()


async def test_one_works_and_another_stands_by_until_the_first_is_gone(
    api: ApiServer, agents: Agents, start: Start
) -> None:
    async with start() as first:
        await eventually(lambda: first.health.leading)
        async with start() as second:
            await api.apply(agent())
            await eventually(lambda: api.ready(HELPER)[0] == "True")
            assert not second.health.leading
            assert await probe(second.port, "/readyz") == (200, "standing by")
            assert await probe(first.port, "/readyz") == (200, "working")
            await first.stop()
            await eventually(lambda: second.health.leading)
            await api.apply(agent("another"))
            await eventually(lambda: api.ready(Key("Agent", "one", "another"))[0] == "True")
    assert agents.applied == ["helper", "another"]


async def test_probes_say_what_is_wrong(start: Start) -> None:
    async with start() as operator:
        assert (await probe(operator.port, "/healthz"))[0] == 200
        operator.health.clock = lambda: operator.health.beats["events"] + 31.0
        status, why = await probe(operator.port, "/healthz")
        assert status == 503
        assert "has not turned" in why


async def test_it_waits_for_the_crds(api: ApiServer, agents: Agents, start: Start) -> None:
    known = dict(api.resources)
    for resource in list(api.resources):
        if resource.group == "peregrine.dev":
            del api.resources[resource]
    async with start() as operator:
        await eventually(lambda: operator.health.leading)
        for resource, info in known.items():
            api.resources[resource] = info
        await api.apply(agent())
        await eventually(lambda: api.ready(HELPER)[0] == "True")


async def test_a_token_that_is_no_longer_taken_is_read_again(api: ApiServer) -> None:
    logins = 0

    def login() -> object:
        nonlocal logins
        logins += 1
        api.refusing = 401 if logins == 1 else 0
        return api.login()

    metrics = Metrics(CollectorRegistry())
    async with Kubernetes(login=login, metrics=metrics) as kubernetes:  # type: ignore[arg-type]
        items, _ = await kubernetes.list("Agent", None)
    assert (items, logins) == ([], 2)


async def test_an_api_server_that_does_not_answer_is_away(api: ApiServer) -> None:
    metrics = Metrics(CollectorRegistry())
    async with Kubernetes(login=api.login, metrics=metrics) as kubernetes:
        api.refusing = 500
        with pytest.raises(ApiAway):
            await kubernetes.list("Agent", None)
        api.refusing = 403
        with pytest.raises(ApiError) as caught:
            await kubernetes.list("Agent", None)
        assert not isinstance(caught.value, ApiAway)


def test_a_change_that_only_a_list_showed_makes_the_watches_silent() -> None:
    now = 0.0
    watches = Watches(
        namespaces=(),
        changed=lambda event, one: None,
        metrics=Metrics(CollectorRegistry()),
        login=lambda: None,  # type: ignore[arg-type,return-value]
        clock=lambda: now,
    )
    watches.listed(_agent("4"))
    now = 44.0
    assert watches.silent == ""
    now = 46.0
    assert watches.silent == "Agent one/helper"
    watches.reset()
    assert watches.silent == ""
    watches.listed(_agent("5"))
    watches.forget(HELPER)
    now = 100.0
    assert watches.silent == ""


def _agent(version: str) -> Object:
    metadata = {"name": "helper", "namespace": "one", "resourceVersion": version}
    return read("Agent", {"metadata": metadata})


async def test_the_process_ends_in_order_on_sigterm(api: ApiServer, tmp_path: Path) -> None:
    config = tmp_path / "kubeconfig"
    config.write_text(
        f"""\
apiVersion: v1
kind: Config
current-context: one
contexts: [{{name: one, context: {{cluster: one, user: one, namespace: peregrine}}}}]
clusters: [{{name: one, cluster: {{server: "{api.url}"}}}}]
users: [{{name: one, user: {{token: test}}}}]
"""
    )
    port = free_port()
    environ = {
        **os.environ,
        "KUBECONFIG": str(config),
        "PYTHONPATH": os.pathsep.join((str(REPOSITORY / "services"), str(REPOSITORY / "operator"))),
        "PEREGRINE_AUTH_REQUIRED": "false",
        "PEREGRINE_OPERATOR_HEALTH_PORT": str(port),
    }
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "peregrine_operator"),
        env=environ,
        stderr=asyncio.subprocess.PIPE,
    )
    try:

        async def working() -> bool:
            try:
                return await probe(port, "/readyz") == (200, "working")
            except aiohttp.ClientError:
                return False

        await eventually(working, timeout=30)
        program.send_signal(signal.SIGTERM)
        _, said = await asyncio.wait_for(program.communicate(), 20)
    finally:
        if program.returncode is None:
            program.kill()
            await program.wait()
    assert program.returncode == 0, said.decode()
    assert '"event":"stopped"' in said.decode()


async def test_missing_settings_are_named_all_at_once() -> None:
    environ = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join((str(REPOSITORY / "services"), str(REPOSITORY / "operator"))),
        "PEREGRINE_OPERATOR_WORKERS": "none",
    }
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "peregrine_operator"), env=environ, stderr=asyncio.subprocess.PIPE
    )
    _, said = await asyncio.wait_for(program.communicate(), 30)
    assert program.returncode == 2
    assert "PEREGRINE_OPERATOR_WORKERS" in said.decode()
