"""Which RPCs of the contract are built: a servicer overrides them, the client calls them."""

import ast
import importlib
import inspect
from collections.abc import Iterable, Mapping
from types import ModuleType

from google.protobuf.descriptor import FileDescriptor

from tests.contract.repository import Module

# Where the servicers of each API are.
APIS: Mapping[str, str] = {
    "orchestrator": "orchestrator.service",
    "identity": "orchestrator.identity",
    "llm_gateway": "llm_gateway.service",
    "tools": "tools.service",
    "cache": "cache.service",
    "memory": "memory.service",
}


def rpcs(file: FileDescriptor) -> set[str]:
    """`Service/Rpc` of every RPC in the file."""
    return {
        f"{service.name}/{method.name}"
        for service in file.services_by_name.values()
        for method in service.methods
    }


# The part of the contract that is not there yet. Exact: the test fails for an RPC that is built and
# still listed, and for one that is neither. Empty at the end of the road.
NOT_BUILT_YET = frozenset(
    {
        "OrchestratorService/ApproveToolCall",
        "CoordinatorService/DistributeTasks",
        "CoordinatorService/GetPerformanceReport",
        "LlmService/GetUsage",
        "MemoryService/SearchMessages",
        "MemoryService/CompactConversation",
        "MemoryService/ExportConversation",
        "MemoryService/ImportConversation",
        "MemoryService/GetMemoryStats",
    }
)


def declared() -> set[str]:
    found: set[str] = set()
    for name in APIS:
        found |= rpcs(importlib.import_module(f"peregrine.api.{name}.v1.{name}_pb2").DESCRIPTOR)
    return found


def implemented() -> set[str]:
    """What the servicers override."""
    found: set[str] = set()
    for name, home in APIS.items():
        generated = importlib.import_module(f"peregrine.api.{name}.v1.{name}_pb2_grpc")
        service = importlib.import_module(f"peregrine.{home}")
        found |= overridden(service, generated)
    return found


def overridden(service: ModuleType, generated: ModuleType) -> set[str]:
    """`Service/Rpc` for each method of a generated servicer that a class of `service` overrides."""
    found = set()
    for _, base in inspect.getmembers(generated, inspect.isclass):
        if not base.__name__.endswith("Servicer"):
            continue
        for _, servicer in inspect.getmembers(service, inspect.isclass):
            if servicer is base or not issubclass(servicer, base):
                continue
            for name in (name for name in vars(base) if not name.startswith("_")):
                if getattr(servicer, name) is not getattr(base, name):
                    found.add(f"{base.__name__.removesuffix('Servicer')}/{name}")
    return found


def called(modules: Iterable[Module]) -> set[str]:
    """Names of RPCs that the client's source calls: `<stub>.Chat(...)`, also handed on uncalled."""
    return {
        node.attr
        for module in modules
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute) and node.attr[:1].isupper()
    }
