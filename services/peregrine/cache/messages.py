"""Between the messages of the contract and the domain: every check of a request is here."""

import base64
import binascii
import re
from collections.abc import Iterable

from google.protobuf import duration_pb2, timestamp_pb2

from peregrine.api.cache.v1 import cache_pb2
from peregrine.api.common.v1 import common_pb2
from peregrine.cache import postgres_tier, redis_tier
from peregrine.cache.entry import Address
from peregrine.cache.feed import POLICY, Event
from peregrine.cache.fills import Fill, Stored
from peregrine.cache.frequencies import MAX_SOURCE_BYTES, Wanted
from peregrine.cache.freshness import MAX_TTL, State
from peregrine.cache.leases import LEASE_SECONDS
from peregrine.cache.tiers import Found
from peregrine.kit import marks
from peregrine.kit.context import Identity
from peregrine.kit.errors import InvalidArgument

MAX_TAGS = 32

_NAMESPACE = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_TAG = re.compile(r"[!-~]{1,128}")
_MAX_KEY_BYTES = 512
_MAX_REQUEST_ID = 128
_PAGE, _MAX_PAGE = 50, 200
_TIERS = {
    redis_tier.NAME: cache_pb2.TIER_REDIS,
    postgres_tier.NAME: cache_pb2.TIER_POSTGRES,
}


def address(key: cache_pb2.Key, who: Identity, field: str) -> Address:
    check_namespace(key.namespace, f"{field}.namespace")
    if not 1 <= len(key.key) <= _MAX_KEY_BYTES:
        raise invalid(f"{field}.key", f"is not of 1 to {_MAX_KEY_BYTES} bytes", "KEY_INVALID")
    user = "" if key.scope == common_pb2.SCOPE_TENANT else who.user
    return Address(who.tenant, user, key.namespace, key.key)


def check_namespace(namespace: str, field: str, reason: str = "KEY_INVALID") -> None:
    if not _NAMESPACE.fullmatch(namespace):
        raise invalid(field, "is not 1 to 128 of A-Z a-z 0-9 _ . : -", reason)


def fill(request: cache_pb2.SetRequest) -> Fill:
    if len(request.source) > MAX_SOURCE_BYTES:
        raise invalid("source", f"is larger than {MAX_SOURCE_BYTES} bytes", "SOURCE_TOO_LARGE")
    if request.fencing_token < 0:
        raise invalid("fencing_token", "is below 0", "LEASE_INVALID")
    return Fill(
        value=request.value,
        ttl=_ttl(request, "ttl"),
        first_ttl=_ttl(request, "first_ttl"),
        tags=_tags(request.tags),
        cost=max(seconds(request.cost), 0.0),
        fetch_time=request.fetch_time.ToNanoseconds() / 1e9
        if request.HasField("fetch_time")
        else 0.0,
        epoch=request.epoch if request.HasField("epoch") else None,
        token=request.fencing_token if request.HasField("fencing_token") else None,
        sensitive=request.sensitive,
        absent=request.absent,
        source=request.source,
    )


def target(
    request: cache_pb2.InvalidateRequest, who: Identity
) -> tuple[str, Address | None, str, str]:
    """Kind, key, namespace, tag; what it is not is None or empty."""
    if len(request.request_id) > _MAX_REQUEST_ID or "\0" in request.request_id:
        what = f"is longer than {_MAX_REQUEST_ID} characters or holds NUL"
        raise invalid("request_id", what, "REQUEST_ID_INVALID")
    match request.WhichOneof("target"):
        case "key":
            return marks.KEY, address(request.key, who, "key"), "", ""
        case "tag":
            _tags([request.tag])
            return marks.TAG, None, "", request.tag
        case "namespace":
            check_namespace(request.namespace, "namespace")
            return marks.GROUP, None, request.namespace, ""
    raise invalid("target", "is neither key, tag nor namespace", "TARGET_MISSING")


def wanted(request: cache_pb2.WarmRequest, who: Identity) -> list[Wanted]:
    found = []
    for number, key in enumerate(request.keys.keys):
        field = f"keys.keys[{number}]"
        if key.namespace not in ("", request.namespace):
            raise invalid(f"{field}.namespace", "is not that of the request", "KEY_INVALID")
        own = cache_pb2.Key(namespace=request.namespace, key=key.key, scope=key.scope)
        found.append(Wanted(address(own, who, field), b""))
    return found


def page(request: cache_pb2.ListPoliciesRequest) -> tuple[int, str]:
    """Size, and the namespace to go on after."""
    if request.page_size < 0:
        raise invalid("page_size", "is below 0", "PAGE_SIZE_INVALID")
    after = ""
    if request.page_token:
        try:
            after = base64.urlsafe_b64decode(request.page_token.encode()).decode()
        except (binascii.Error, UnicodeError):
            after = "\0"
        if not _NAMESPACE.fullmatch(after):
            raise invalid("page_token", "is not one that was given", "PAGE_TOKEN_INVALID")
    return min(request.page_size or _PAGE, _MAX_PAGE), after


def page_token(namespace: str) -> str:
    return base64.urlsafe_b64encode(namespace.encode()).decode()


def write_found(
    response: cache_pb2.GetResponse | cache_pb2.GetOrLeaseResponse, found: Found, now: float
) -> None:
    for what, reason in found.away:
        response.degradations.add(what=what, reason=reason)
    entry = found.entry
    if entry is None:
        return
    # Written in place: messages of their own would each be copied into this one.
    message = response.entry
    message.value = entry.value
    _write(message.fetch_time, entry.fetch_time)
    _write(message.ttl, found.ttl)
    _write(message.age, max(now - entry.fetch_time, 0.0))
    _write(message.cost, entry.cost)
    if entry.tags:
        message.tags.extend(entry.tags)
    message.tier = _TIERS[found.tier]
    message.version = entry.version
    message.epoch = entry.epoch
    if found.state is not State.FRESH:
        message.stale = True
    if entry.absent:
        message.absent = True


def stored(what: Stored) -> cache_pb2.SetResponse:
    response = cache_pb2.SetResponse(
        stored=not what.reason, reason=what.reason, version=what.version
    )
    if not what.reason:
        _write(response.ttl, what.ttl)
    return response


def write_lease(lease: cache_pb2.Lease, token: int, epoch: int) -> None:
    lease.fencing_token = token
    lease.epoch = epoch
    _write(lease.duration, LEASE_SECONDS)


def events(
    sequence: int, found: Iterable[Event], who: Identity
) -> cache_pb2.WatchInvalidationsResponse:
    """What a user of the tenant is told; a heartbeat says how far it goes."""
    response = cache_pb2.WatchInvalidationsResponse()
    for event in found:
        message = response.events.add(sequence=event.sequence)
        _write(message.create_time, event.create_time)
        match event.kind:
            case marks.TAG:
                message.tag = event.target.decode()
            case marks.GROUP:
                message.namespace = event.namespace
            case str(kind) if kind == POLICY:
                message.policy.ParseFromString(event.target)
            case _ if event.user in ("", who.user):
                message.key.namespace = event.namespace
                message.key.key = event.target
                message.key.scope = common_pb2.SCOPE_USER if event.user else common_pb2.SCOPE_TENANT
            case _:
                message.entry_digest = marks.key_digest(event.user, event.namespace, event.target)
    if not response.events or response.events[-1].sequence < sequence:
        response.events.add(sequence=sequence).heartbeat.SetInParent()
    return response


def invalid(field: str, what: str, reason: str) -> InvalidArgument:
    return InvalidArgument(f"{field} {what}", reason=reason, violations=[(field, what)])


def seconds(duration: duration_pb2.Duration) -> float:
    return duration.seconds + duration.nanos / 1e9


def _ttl(request: cache_pb2.SetRequest, field: str) -> float:
    if not request.HasField(field):
        return 0.0
    ttl = seconds(getattr(request, field))
    if not 0 < ttl <= MAX_TTL:
        raise invalid(field, "is not above 0 and at most 30 days", "TTL_INVALID")
    return ttl


def _tags(tags: Iterable[str]) -> tuple[str, ...]:
    found = tuple(tags)
    if len(found) > MAX_TAGS:
        raise invalid("tags", f"has more than {MAX_TAGS}", "TAGS_INVALID")
    for number, tag in enumerate(found):
        if not _TAG.fullmatch(tag):
            raise invalid(
                f"tags[{number}]", "is not 1 to 128 visible ASCII characters", "TAGS_INVALID"
            )
    return found


def _write(message: duration_pb2.Duration | timestamp_pb2.Timestamp, value: float) -> None:
    message.SetInParent()
    message.seconds, message.nanos = divmod(round(value * 1e6) * 1_000, 1_000_000_000)
