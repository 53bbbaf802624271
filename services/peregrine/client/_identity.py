"""Credentials and API keys: the client of the identity service, which every orchestrator serves."""

import datetime
from collections.abc import AsyncGenerator, Iterable
from typing import ClassVar

import grpc.aio

from peregrine.api.identity.v1 import identity_pb2 as pb
from peregrine.api.identity.v1 import identity_pb2_grpc as pb_grpc
from peregrine.client._connection import ServiceClient, Tls, new_request_id, unary_methods
from peregrine.kit.channel import ChannelPool
from peregrine.kit.errors import from_rpc_error


class IdentityClient(ServiceClient):
    """Exchanges credentials for identities; makes, lists and revokes API keys."""

    name: ClassVar[str] = "orchestrator"
    takes_keys: ClassVar[bool] = True

    def __init__(
        self,
        target: str = "127.0.0.1:50051",
        *,
        connections: int = 1,
        timeout: float = 30.0,
        api_key: str | None = None,
        tls: Tls | bool | None = None,
    ) -> None:
        super().__init__(target, connections=connections, timeout=timeout, api_key=api_key, tls=tls)

    def _bind(self, pool: ChannelPool) -> None:
        self._identity_service = pb_grpc.IdentityServiceStub(pool)

    def _idempotent(self) -> frozenset[str]:
        return unary_methods(pb.DESCRIPTOR.services_by_name["IdentityService"])

    async def exchange_credential(self, credential: str = "") -> pb.ExchangeCredentialResponse:
        """Who a credential (by default the client's own) is, and the signed identity for it.

        Raises:
          Unauthenticated: CREDENTIALS_INVALID. Unavailable: it cannot be told at the moment.
        """
        metadata = (("authorization", f"Bearer {credential}"),) if credential else None
        request = pb.ExchangeCredentialRequest()
        try:
            response: pb.ExchangeCredentialResponse
            response = await self._identity_service.ExchangeCredential(request, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        return response

    async def create_api_key(
        self,
        name: str,
        *,
        scopes: Iterable[str],
        for_tenant: str = "",
        for_user: str = "",
        expire_time: datetime.datetime | None = None,
        request_id: str | None = None,
    ) -> pb.CreateApiKeyResponse:
        """Makes a key. Its `credential` is in this answer and nowhere else.

        Args:
          scopes: among read, run, admin.
          for_tenant: another than the caller's with the bootstrap key only.
          for_user: by default the caller.

        Raises:
          InvalidArgument: KEY_INVALID. PermissionDenied: SCOPE_MISSING or TENANT_NOT_ALLOWED.
        """
        request = pb.CreateApiKeyRequest(
            name=name,
            scopes=list(scopes),
            for_tenant=for_tenant,
            for_user=for_user,
            request_id=request_id or new_request_id(),
        )
        if expire_time is not None:
            request.expire_time.FromDatetime(expire_time)
        response: pb.CreateApiKeyResponse = await self._call(
            self._identity_service.CreateApiKey, request
        )
        return response

    def list_api_keys(
        self, *, for_tenant: str = "", limit: int | None = None
    ) -> AsyncGenerator[pb.ApiKey, None]:
        """The keys of a tenant, newest first, revoked and expired ones too."""
        request = pb.ListApiKeysRequest(for_tenant=for_tenant)
        return self._list(self._identity_service.ListApiKeys, request, "keys", limit)

    async def revoke_api_key(self, key_id: str, *, for_tenant: str = "") -> pb.ApiKey:
        """Ends a key, for good. Raises NotFound: KEY_NOT_FOUND."""
        request = pb.RevokeApiKeyRequest(key_id=key_id, for_tenant=for_tenant)
        response = await self._call(self._identity_service.RevokeApiKey, request)
        key: pb.ApiKey = response.key
        return key
