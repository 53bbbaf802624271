"""Every RPC is built, and wrapped by the client if it is for users; what is not yet is listed."""

import types

import pytest

from peregrine.api.cache.v1 import cache_pb2, cache_pb2_grpc
from peregrine.api.llm_gateway.v1 import llm_gateway_pb2
from tests.contract import completeness
from tests.contract.repository import module, product

# Services ask each other these, over the stubs; an application has no use for them.
BETWEEN_SERVICES = frozenset(
    {
        *completeness.rpcs(llm_gateway_pb2.DESCRIPTOR),
        "MemoryService/BeginTurn",
        "MemoryService/AppendMessages",
        "MemoryService/LoadContext",
        "ToolService/ExecuteTools",
        "CacheService/Get",
        "CacheService/BatchGet",
        "CacheService/GetOrLease",
        "CacheService/Set",
        "CacheService/ReleaseLease",
        "CacheService/WatchInvalidations",
    }
)
# Exact, and empty at the end of the road, as above.
NOT_WRAPPED_YET = frozenset(
    {
        "CoordinatorService/DistributeTasks",
        "CoordinatorService/GetPerformanceReport",
        "MemoryService/CompactConversation",
        "MemoryService/DeleteUser",
        "MemoryService/ExportConversation",
        "MemoryService/GetMemoryStats",
        "MemoryService/ImportConversation",
        "MemoryService/SearchMessages",
    }
)


def test_every_rpc_is_built_or_listed_as_not_built_yet() -> None:
    declared, built = completeness.declared(), completeness.implemented()
    assert declared >= completeness.NOT_BUILT_YET
    assert sorted(declared - built) == sorted(completeness.NOT_BUILT_YET)


def test_every_rpc_is_wrapped_by_the_client_or_listed_as_not_wrapped_yet() -> None:
    assert BETWEEN_SERVICES <= completeness.declared()
    calls = completeness.called(one for one in product() if one.unit == "client")
    unwrapped = {rpc for rpc in completeness.declared() if rpc.partition("/")[2] not in calls}
    assert sorted(unwrapped - BETWEEN_SERVICES) == sorted(NOT_WRAPPED_YET)


@pytest.mark.parametrize("inherits_it", [False, True])
def test_an_rpc_counts_as_built_only_when_a_servicer_overrides_it(inherits_it: bool) -> None:
    class Servicer(cache_pb2_grpc.CacheServiceServicer):
        async def Get(self, request: object, context: object) -> cache_pb2.GetResponse:
            return cache_pb2.GetResponse()

    class Inheriting(Servicer):
        pass

    service = types.ModuleType("service")
    vars(service)["Servicer"] = Inheriting if inherits_it else Servicer
    assert completeness.overridden(service, cache_pb2_grpc) == {"CacheService/Get"}


def test_a_generated_servicer_builds_nothing() -> None:
    service = types.ModuleType("service")
    vars(service)["CacheServiceServicer"] = cache_pb2_grpc.CacheServiceServicer
    assert completeness.overridden(service, cache_pb2_grpc) == set()


def test_an_rpc_counts_as_wrapped_only_when_the_client_names_it_as_an_attribute() -> None:
    source = "class C:\n    def chat(self): return self._stub.Chat(request)  # not StartRun"
    assert completeness.called([module("peregrine.client.c", source)]) == {"Chat"}
