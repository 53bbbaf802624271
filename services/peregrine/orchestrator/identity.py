"""The servicer of identities and API keys: check what was asked, translate, ask the store."""

import datetime
import hashlib
import re

import grpc.aio

from peregrine.api.identity.v1 import identity_pb2 as pb
from peregrine.api.identity.v1 import identity_pb2_grpc as rpc
from peregrine.kit import context, errors, scopes
from peregrine.kit.context import Identity
from peregrine.kit.identity import Signer
from peregrine.orchestrator import credentials
from peregrine.orchestrator.keys import KeyStore, NewKey

Context = grpc.aio.ServicerContext[object, object]

_DEFAULT_PAGE = 50
_MAX_PAGE = 200
_MAX_NAME = 100
_KEY_ID = re.compile(r"[A-Za-z0-9]{1,64}")


class IdentityServicer(rpc.IdentityServiceServicer):
    def __init__(self, *, keys: KeyStore, signer: Signer | None) -> None:
        """`signer`: None where identity is off."""
        self._keys = keys
        self._signer = signer

    async def ExchangeCredential(
        self, request: pb.ExchangeCredentialRequest, _: Context
    ) -> pb.ExchangeCredentialResponse:
        who, allowed = context.identity(), context.allowed()
        response = pb.ExchangeCredentialResponse(
            for_tenant=who.tenant, for_user=who.user, scopes=sorted(allowed)
        )
        if self._signer is not None:
            token, ends = self._signer.sign(who, allowed)
            response.identity_token = token
            response.expire_time.FromSeconds(int(ends))
        return response

    async def CreateApiKey(
        self, request: pb.CreateApiKeyRequest, _: Context
    ) -> pb.CreateApiKeyResponse:
        who = context.identity()
        tenant = _tenant(request.for_tenant)
        owner, expire_time = _checked(request, tenant, who)
        key_id, secret = credentials.new_key()
        key, created = await self._keys.insert(
            NewKey(
                key_id=key_id,
                identity=owner,
                name=request.name.strip(),
                scopes=scopes.least(scopes.expand(request.scopes)),
                secret_digest=credentials.digest(credentials.written(key_id, secret)),
                expire_time=expire_time,
                created_by=f"{who.tenant}/{who.user}",
                request_id=request.request_id,
                request_digest=hashlib.sha256(
                    request.SerializeToString(deterministic=True)
                ).digest(),
            )
        )
        credential = credentials.written(key_id, secret) if created else ""
        return pb.CreateApiKeyResponse(key=key, credential=credential)

    async def ListApiKeys(
        self, request: pb.ListApiKeysRequest, _: Context
    ) -> pb.ListApiKeysResponse:
        if not 0 <= request.page_size <= _MAX_PAGE:
            raise errors.InvalidArgument(
                f"page_size: 1-{_MAX_PAGE}, or 0 for {_DEFAULT_PAGE}",
                reason="REQUEST_INVALID",
                violations=[("page_size", f"1-{_MAX_PAGE}, or 0 for {_DEFAULT_PAGE}")],
            )
        keys, token = await self._keys.page(
            _tenant(request.for_tenant), request.page_token, request.page_size or _DEFAULT_PAGE
        )
        return pb.ListApiKeysResponse(keys=keys, next_page_token=token)

    async def RevokeApiKey(
        self, request: pb.RevokeApiKeyRequest, _: Context
    ) -> pb.RevokeApiKeyResponse:
        tenant = _tenant(request.for_tenant)
        # Whoever pasted a whole key, or nothing, gets what another tenant's key gets.
        key_id = request.key_id if _KEY_ID.fullmatch(request.key_id) else "-"
        return pb.RevokeApiKeyResponse(key=await self._keys.revoke(tenant, key_id))


def _tenant(asked: str) -> str:
    """Whose keys are meant: the caller's own tenant, unless the caller may name any."""
    own = context.identity().tenant
    if asked in ("", own):
        return own
    if not context.allows(scopes.BOOTSTRAP):
        raise errors.PermissionDenied(
            "keys of another tenant are kept with the bootstrap key only",
            reason="TENANT_NOT_ALLOWED",
        )
    _named("for_tenant", asked, "local")
    return asked


def _named(field: str, tenant: str, user: str) -> Identity:
    try:
        return Identity(tenant, user)
    except ValueError:
        raise _invalid(
            field, "is not 1 to 63 of a-z 0-9 _ . @ -, beginning with a letter or a digit"
        ) from None


def _checked(
    request: pb.CreateApiKeyRequest, tenant: str, who: Identity
) -> tuple[Identity, datetime.datetime | None]:
    """Whose the key is to be, and when it ends."""
    if not 1 <= len(request.name.strip()) <= _MAX_NAME or not request.name.isprintable():
        raise _invalid("name", f"is not 1 to {_MAX_NAME} printable characters")
    if not request.scopes or not set(request.scopes) <= set(scopes.GRANTABLE):
        raise _invalid("scopes", f"is not one or more of {', '.join(scopes.GRANTABLE)}")
    if len(request.request_id) > 128 or "\0" in request.request_id:
        raise _invalid("request_id", "is longer than 128 characters")
    owner = _named("for_user", tenant, request.for_user or who.user)
    if not request.HasField("expire_time"):
        return owner, None
    try:
        expire_time = request.expire_time.ToDatetime(datetime.UTC)
    except (ValueError, OverflowError):
        raise _invalid("expire_time", "is not a time") from None
    if expire_time <= datetime.datetime.now(datetime.UTC):
        raise _invalid("expire_time", "is not in the future")
    return owner, expire_time


def _invalid(field: str, what: str) -> errors.InvalidArgument:
    return errors.InvalidArgument(
        f"{field} {what}", reason="KEY_INVALID", violations=[(field, what)]
    )
