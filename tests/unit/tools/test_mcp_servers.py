"""MCP servers: what breaks while nobody waits is counted, and ends nothing else."""

import pytest
from prometheus_client import CollectorRegistry

from peregrine.api.tools.v1 import tools_pb2
from peregrine.kit.background import Failures
from peregrine.kit.settings import Secret
from peregrine.tools.mcp_servers import Server, Servers


class Stubborn(Server):
    """Cannot be closed."""

    async def close(self) -> None:
        raise RuntimeError("a mistake of ours")


async def keep(*_: object) -> None:
    raise AssertionError("nothing was listed")


async def test_a_server_that_cannot_be_closed_is_counted_and_gone() -> None:
    registry = CollectorRegistry()
    failures = Failures(registry).of("mcp_servers")
    servers = Servers(changed=lambda server: None, failures=failures)
    tool = tools_pb2.Tool(name="docs", mcp=tools_pb2.McpBackend())
    stubborn = Stubborn(
        tenant="acme",
        registered=tools_pb2.RegisteredTool(tool=tool, version=1),
        pool=None,
        secret=lambda name, reference: Secret(""),
        keep=keep,
        failures=failures,
    )
    servers.put(stubborn)
    servers.drop("acme", "docs")
    await servers.close()
    counted = {"task": "mcp_servers"}
    assert registry.get_sample_value("peregrine_background_failures_total", counted) == 1


pytestmark = pytest.mark.timeout(30)
