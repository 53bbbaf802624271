"""A tool worker in this process, on a real PostgreSQL, spoken to over gRPC."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from prometheus_client import CollectorRegistry

from peregrine.api.common.v1 import common_pb2
from peregrine.api.tools.v1 import tools_pb2, tools_pb2_grpc
from peregrine.kit.settings import Secret
from peregrine.tools import main
from tests.support import tools_module

TENANT, USER = "local", "local"


class Worker:
    """Calls of a worker. `metric` reads what it would show to Prometheus."""

    def __init__(self, stub: tools_pb2_grpc.ToolServiceStub, registry: CollectorRegistry) -> None:
        self.stub = stub
        self._registry = registry

    async def execute(
        self, tool: str, arguments: Any = None, *, timeout: float = 20, **fields: Any
    ) -> tools_pb2.ToolResult:
        """`arguments`: bytes as they are, anything else as JSON."""
        request = tools_pb2.ExecuteToolRequest(call=call(tool, arguments, **fields))
        return (await self.stub.ExecuteTool(request, timeout=timeout)).result

    def metric(self, name: str, tool: str) -> float:
        value = self._registry.get_sample_value(name, {"tool": tool, "pool": "default"})
        assert value is not None, f"{name} of {tool} is not there"
        return value

    def sample(self, name: str, labels: dict[str, str]) -> float | None:
        return self._registry.get_sample_value(name, labels)


def call(tool: str, arguments: Any = None, **fields: Any) -> tools_pb2.ToolCall:
    utf8 = arguments if isinstance(arguments, bytes) else json.dumps(arguments or {}).encode()
    return tools_pb2.ToolCall(tool=tool, arguments=common_pb2.Json(utf8=utf8), **fields)


def text(result: tools_pb2.ToolResult) -> str:
    assert len(result.content) == 1
    return result.content[0].text


@pytest.fixture
def settings(migrated_dsn: str) -> main.Settings:
    return main.Settings(
        auth_required=False,
        listen="127.0.0.1:0",
        postgres_dsn=Secret(migrated_dsn),
        postgres_pool_size=2,
        modules=("tests.support.tools_module",),
        knowledge_dir=Path(__file__).parents[3] / "examples" / "docs",
    )


@pytest.fixture
async def worker(
    settings: main.Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Worker]:
    monkeypatch.setenv(tools_module.EXECUTIONS_VARIABLE, str(tmp_path / "executions"))
    tools_module.unblocked.clear()
    tools_module.cancelled.clear()
    registry = CollectorRegistry()
    async with main.build(settings, metrics_registry=registry) as server, server:
        await server.serving()
        async with grpc.aio.insecure_channel(server.address) as channel:
            yield Worker(tools_pb2_grpc.ToolServiceStub(channel), registry)
    tools_module.unblocked.set()
