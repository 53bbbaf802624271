"""The policies of cache namespaces: the client of the cache service."""

from collections.abc import AsyncGenerator
from typing import ClassVar

from peregrine.api.cache.v1 import cache_pb2 as pb
from peregrine.api.cache.v1 import cache_pb2_grpc as pb_grpc
from peregrine.client._connection import ServiceClient, new_request_id, unary_methods
from peregrine.kit.channel import ChannelPool
from peregrine.kit.context import Identity


class CacheClient(ServiceClient):
    """Applies and reads the policies that say how long a namespace's entries live."""

    name: ClassVar[str] = "cache"

    def __init__(
        self,
        target: str = "127.0.0.1:50054",
        *,
        connections: int = 2,
        timeout: float = 30.0,
        identity: Identity | None = None,
    ) -> None:
        super().__init__(target, connections=connections, timeout=timeout, identity=identity)

    def _bind(self, pool: ChannelPool) -> None:
        self._cache = pb_grpc.CacheServiceStub(pool)

    def _idempotent(self) -> frozenset[str]:
        return unary_methods(pb.DESCRIPTOR.services_by_name["CacheService"])

    async def apply_policy(
        self,
        policy: pb.Policy,
        *,
        expected_version: int | None = None,
        request_id: str | None = None,
    ) -> pb.Policy:
        """Creates or replaces the policy of a namespace; in force everywhere within a second.

        Raises:
          InvalidArgument: POLICY_INVALID. Aborted: VERSION_STALE.
        """
        request = pb.ApplyPolicyRequest(policy=policy, request_id=request_id or new_request_id())
        if expected_version is not None:
            request.expected_version = expected_version
        response = await self._call(self._cache.ApplyPolicy, request)
        applied: pb.Policy = response.policy
        return applied

    async def get_policy(self, namespace: str) -> pb.Policy:
        """Raises NotFound / POLICY_NOT_FOUND."""
        request = pb.GetPolicyRequest(namespace=namespace)
        response = await self._call(self._cache.GetPolicy, request)
        policy: pb.Policy = response.policy
        return policy

    def list_policies(self, *, limit: int | None = None) -> AsyncGenerator[pb.Policy, None]:
        """Policies by namespace."""
        return self._list(self._cache.ListPolicies, pb.ListPoliciesRequest(), "policies", limit)
