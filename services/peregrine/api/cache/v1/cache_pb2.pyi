import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from peregrine.api.common.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Tier(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TIER_UNSPECIFIED: _ClassVar[Tier]
    TIER_NONE: _ClassVar[Tier]
    TIER_NEAR: _ClassVar[Tier]
    TIER_REDIS: _ClassVar[Tier]
    TIER_POSTGRES: _ClassVar[Tier]

class PolicyMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    POLICY_MODE_UNSPECIFIED: _ClassVar[PolicyMode]
    POLICY_MODE_OBSERVE: _ClassVar[PolicyMode]
    POLICY_MODE_ACTIVE: _ClassVar[PolicyMode]
TIER_UNSPECIFIED: Tier
TIER_NONE: Tier
TIER_NEAR: Tier
TIER_REDIS: Tier
TIER_POSTGRES: Tier
POLICY_MODE_UNSPECIFIED: PolicyMode
POLICY_MODE_OBSERVE: PolicyMode
POLICY_MODE_ACTIVE: PolicyMode

class Key(_message.Message):
    __slots__ = ("namespace", "key", "scope")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    key: bytes
    scope: _common_pb2.Scope
    def __init__(self, namespace: _Optional[str] = ..., key: _Optional[bytes] = ..., scope: _Optional[_Union[_common_pb2.Scope, str]] = ...) -> None: ...

class Entry(_message.Message):
    __slots__ = ("value", "fetch_time", "ttl", "age", "stale", "cost", "tags", "tier", "version", "absent", "epoch")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    FETCH_TIME_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    AGE_FIELD_NUMBER: _ClassVar[int]
    STALE_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ABSENT_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    value: bytes
    fetch_time: _timestamp_pb2.Timestamp
    ttl: _duration_pb2.Duration
    age: _duration_pb2.Duration
    stale: bool
    cost: _duration_pb2.Duration
    tags: _containers.RepeatedScalarFieldContainer[str]
    tier: Tier
    version: int
    absent: bool
    epoch: int
    def __init__(self, value: _Optional[bytes] = ..., fetch_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., age: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., stale: _Optional[bool] = ..., cost: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., tags: _Optional[_Iterable[str]] = ..., tier: _Optional[_Union[Tier, str]] = ..., version: _Optional[int] = ..., absent: _Optional[bool] = ..., epoch: _Optional[int] = ...) -> None: ...

class NearReport(_message.Message):
    __slots__ = ("hits", "evictions")
    HITS_FIELD_NUMBER: _ClassVar[int]
    EVICTIONS_FIELD_NUMBER: _ClassVar[int]
    hits: int
    evictions: int
    def __init__(self, hits: _Optional[int] = ..., evictions: _Optional[int] = ...) -> None: ...

class GetRequest(_message.Message):
    __slots__ = ("key", "allow_stale", "computing_failed", "near")
    KEY_FIELD_NUMBER: _ClassVar[int]
    ALLOW_STALE_FIELD_NUMBER: _ClassVar[int]
    COMPUTING_FAILED_FIELD_NUMBER: _ClassVar[int]
    NEAR_FIELD_NUMBER: _ClassVar[int]
    key: Key
    allow_stale: bool
    computing_failed: bool
    near: NearReport
    def __init__(self, key: _Optional[_Union[Key, _Mapping]] = ..., allow_stale: _Optional[bool] = ..., computing_failed: _Optional[bool] = ..., near: _Optional[_Union[NearReport, _Mapping]] = ...) -> None: ...

class GetResponse(_message.Message):
    __slots__ = ("entry", "degradations", "epoch")
    ENTRY_FIELD_NUMBER: _ClassVar[int]
    DEGRADATIONS_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    entry: Entry
    degradations: _containers.RepeatedCompositeFieldContainer[_common_pb2.Degradation]
    epoch: int
    def __init__(self, entry: _Optional[_Union[Entry, _Mapping]] = ..., degradations: _Optional[_Iterable[_Union[_common_pb2.Degradation, _Mapping]]] = ..., epoch: _Optional[int] = ...) -> None: ...

class BatchGetRequest(_message.Message):
    __slots__ = ("keys",)
    KEYS_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedCompositeFieldContainer[Key]
    def __init__(self, keys: _Optional[_Iterable[_Union[Key, _Mapping]]] = ...) -> None: ...

class BatchGetResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[GetResponse]
    def __init__(self, results: _Optional[_Iterable[_Union[GetResponse, _Mapping]]] = ...) -> None: ...

class GetOrLeaseRequest(_message.Message):
    __slots__ = ("key", "allow_stale", "fencing_token", "near")
    KEY_FIELD_NUMBER: _ClassVar[int]
    ALLOW_STALE_FIELD_NUMBER: _ClassVar[int]
    FENCING_TOKEN_FIELD_NUMBER: _ClassVar[int]
    NEAR_FIELD_NUMBER: _ClassVar[int]
    key: Key
    allow_stale: bool
    fencing_token: int
    near: NearReport
    def __init__(self, key: _Optional[_Union[Key, _Mapping]] = ..., allow_stale: _Optional[bool] = ..., fencing_token: _Optional[int] = ..., near: _Optional[_Union[NearReport, _Mapping]] = ...) -> None: ...

class Lease(_message.Message):
    __slots__ = ("fencing_token", "duration", "epoch")
    FENCING_TOKEN_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    fencing_token: int
    duration: _duration_pb2.Duration
    epoch: int
    def __init__(self, fencing_token: _Optional[int] = ..., duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., epoch: _Optional[int] = ...) -> None: ...

class GetOrLeaseResponse(_message.Message):
    __slots__ = ("entry", "lease", "degradations", "refresh")
    ENTRY_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    DEGRADATIONS_FIELD_NUMBER: _ClassVar[int]
    REFRESH_FIELD_NUMBER: _ClassVar[int]
    entry: Entry
    lease: Lease
    degradations: _containers.RepeatedCompositeFieldContainer[_common_pb2.Degradation]
    refresh: Lease
    def __init__(self, entry: _Optional[_Union[Entry, _Mapping]] = ..., lease: _Optional[_Union[Lease, _Mapping]] = ..., degradations: _Optional[_Iterable[_Union[_common_pb2.Degradation, _Mapping]]] = ..., refresh: _Optional[_Union[Lease, _Mapping]] = ...) -> None: ...

class SetRequest(_message.Message):
    __slots__ = ("key", "value", "ttl", "tags", "cost", "fetch_time", "fencing_token", "epoch", "sensitive", "first_ttl", "absent", "source")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    FETCH_TIME_FIELD_NUMBER: _ClassVar[int]
    FENCING_TOKEN_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SENSITIVE_FIELD_NUMBER: _ClassVar[int]
    FIRST_TTL_FIELD_NUMBER: _ClassVar[int]
    ABSENT_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    key: Key
    value: bytes
    ttl: _duration_pb2.Duration
    tags: _containers.RepeatedScalarFieldContainer[str]
    cost: _duration_pb2.Duration
    fetch_time: _timestamp_pb2.Timestamp
    fencing_token: int
    epoch: int
    sensitive: bool
    first_ttl: _duration_pb2.Duration
    absent: bool
    source: bytes
    def __init__(self, key: _Optional[_Union[Key, _Mapping]] = ..., value: _Optional[bytes] = ..., ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., tags: _Optional[_Iterable[str]] = ..., cost: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., fetch_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., fencing_token: _Optional[int] = ..., epoch: _Optional[int] = ..., sensitive: _Optional[bool] = ..., first_ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., absent: _Optional[bool] = ..., source: _Optional[bytes] = ...) -> None: ...

class SetResponse(_message.Message):
    __slots__ = ("stored", "reason", "version", "ttl")
    STORED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    stored: bool
    reason: str
    version: int
    ttl: _duration_pb2.Duration
    def __init__(self, stored: _Optional[bool] = ..., reason: _Optional[str] = ..., version: _Optional[int] = ..., ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class ReleaseLeaseRequest(_message.Message):
    __slots__ = ("key", "fencing_token")
    KEY_FIELD_NUMBER: _ClassVar[int]
    FENCING_TOKEN_FIELD_NUMBER: _ClassVar[int]
    key: Key
    fencing_token: int
    def __init__(self, key: _Optional[_Union[Key, _Mapping]] = ..., fencing_token: _Optional[int] = ...) -> None: ...

class ReleaseLeaseResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DeleteRequest(_message.Message):
    __slots__ = ("key",)
    KEY_FIELD_NUMBER: _ClassVar[int]
    key: Key
    def __init__(self, key: _Optional[_Union[Key, _Mapping]] = ...) -> None: ...

class DeleteResponse(_message.Message):
    __slots__ = ("deleted",)
    DELETED_FIELD_NUMBER: _ClassVar[int]
    deleted: bool
    def __init__(self, deleted: _Optional[bool] = ...) -> None: ...

class InvalidateRequest(_message.Message):
    __slots__ = ("key", "tag", "namespace", "request_id")
    KEY_FIELD_NUMBER: _ClassVar[int]
    TAG_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    key: Key
    tag: str
    namespace: str
    request_id: str
    def __init__(self, key: _Optional[_Union[Key, _Mapping]] = ..., tag: _Optional[str] = ..., namespace: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class InvalidateResponse(_message.Message):
    __slots__ = ("sequence",)
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    def __init__(self, sequence: _Optional[int] = ...) -> None: ...

class WatchInvalidationsRequest(_message.Message):
    __slots__ = ("after_sequence", "from_now")
    AFTER_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    FROM_NOW_FIELD_NUMBER: _ClassVar[int]
    after_sequence: int
    from_now: bool
    def __init__(self, after_sequence: _Optional[int] = ..., from_now: _Optional[bool] = ...) -> None: ...

class WatchInvalidationsResponse(_message.Message):
    __slots__ = ("events",)
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[InvalidationEvent]
    def __init__(self, events: _Optional[_Iterable[_Union[InvalidationEvent, _Mapping]]] = ...) -> None: ...

class InvalidationEvent(_message.Message):
    __slots__ = ("sequence", "create_time", "key", "tag", "namespace", "heartbeat", "policy", "entry_digest")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    TAG_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    ENTRY_DIGEST_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    create_time: _timestamp_pb2.Timestamp
    key: Key
    tag: str
    namespace: str
    heartbeat: Heartbeat
    policy: Policy
    entry_digest: bytes
    def __init__(self, sequence: _Optional[int] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., key: _Optional[_Union[Key, _Mapping]] = ..., tag: _Optional[str] = ..., namespace: _Optional[str] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., policy: _Optional[_Union[Policy, _Mapping]] = ..., entry_digest: _Optional[bytes] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WarmRequest(_message.Message):
    __slots__ = ("namespace", "keys", "most_frequent", "max_rate")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    MOST_FREQUENT_FIELD_NUMBER: _ClassVar[int]
    MAX_RATE_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    keys: KeyList
    most_frequent: int
    max_rate: int
    def __init__(self, namespace: _Optional[str] = ..., keys: _Optional[_Union[KeyList, _Mapping]] = ..., most_frequent: _Optional[int] = ..., max_rate: _Optional[int] = ...) -> None: ...

class KeyList(_message.Message):
    __slots__ = ("keys",)
    KEYS_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedCompositeFieldContainer[Key]
    def __init__(self, keys: _Optional[_Iterable[_Union[Key, _Mapping]]] = ...) -> None: ...

class WarmResponse(_message.Message):
    __slots__ = ("loaded", "failed", "total", "present")
    LOADED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    PRESENT_FIELD_NUMBER: _ClassVar[int]
    loaded: int
    failed: int
    total: int
    present: int
    def __init__(self, loaded: _Optional[int] = ..., failed: _Optional[int] = ..., total: _Optional[int] = ..., present: _Optional[int] = ...) -> None: ...

class GetStatsRequest(_message.Message):
    __slots__ = ("namespace",)
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    def __init__(self, namespace: _Optional[str] = ...) -> None: ...

class GetStatsResponse(_message.Message):
    __slots__ = ("namespaces",)
    NAMESPACES_FIELD_NUMBER: _ClassVar[int]
    namespaces: _containers.RepeatedCompositeFieldContainer[NamespaceStats]
    def __init__(self, namespaces: _Optional[_Iterable[_Union[NamespaceStats, _Mapping]]] = ...) -> None: ...

class NamespaceStats(_message.Message):
    __slots__ = ("namespace", "near_hits", "redis_hits", "postgres_hits", "misses", "total", "hit_rate", "bytes", "evictions")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NEAR_HITS_FIELD_NUMBER: _ClassVar[int]
    REDIS_HITS_FIELD_NUMBER: _ClassVar[int]
    POSTGRES_HITS_FIELD_NUMBER: _ClassVar[int]
    MISSES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    HIT_RATE_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    EVICTIONS_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    near_hits: int
    redis_hits: int
    postgres_hits: int
    misses: int
    total: int
    hit_rate: float
    bytes: int
    evictions: int
    def __init__(self, namespace: _Optional[str] = ..., near_hits: _Optional[int] = ..., redis_hits: _Optional[int] = ..., postgres_hits: _Optional[int] = ..., misses: _Optional[int] = ..., total: _Optional[int] = ..., hit_rate: _Optional[float] = ..., bytes: _Optional[int] = ..., evictions: _Optional[int] = ...) -> None: ...

class Policy(_message.Message):
    __slots__ = ("namespace", "ttl", "min_ttl", "max_ttl", "max_stale_fraction", "stale_while_revalidate", "stale_if_error", "mode", "warm_at_start", "never", "version")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    MIN_TTL_FIELD_NUMBER: _ClassVar[int]
    MAX_TTL_FIELD_NUMBER: _ClassVar[int]
    MAX_STALE_FRACTION_FIELD_NUMBER: _ClassVar[int]
    STALE_WHILE_REVALIDATE_FIELD_NUMBER: _ClassVar[int]
    STALE_IF_ERROR_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    WARM_AT_START_FIELD_NUMBER: _ClassVar[int]
    NEVER_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    ttl: _duration_pb2.Duration
    min_ttl: _duration_pb2.Duration
    max_ttl: _duration_pb2.Duration
    max_stale_fraction: float
    stale_while_revalidate: _duration_pb2.Duration
    stale_if_error: _duration_pb2.Duration
    mode: PolicyMode
    warm_at_start: bool
    never: bool
    version: int
    def __init__(self, namespace: _Optional[str] = ..., ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., min_ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., max_ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., max_stale_fraction: _Optional[float] = ..., stale_while_revalidate: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., stale_if_error: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., mode: _Optional[_Union[PolicyMode, str]] = ..., warm_at_start: _Optional[bool] = ..., never: _Optional[bool] = ..., version: _Optional[int] = ...) -> None: ...

class ApplyPolicyRequest(_message.Message):
    __slots__ = ("policy", "request_id", "expected_version")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_VERSION_FIELD_NUMBER: _ClassVar[int]
    policy: Policy
    request_id: str
    expected_version: int
    def __init__(self, policy: _Optional[_Union[Policy, _Mapping]] = ..., request_id: _Optional[str] = ..., expected_version: _Optional[int] = ...) -> None: ...

class ApplyPolicyResponse(_message.Message):
    __slots__ = ("policy",)
    POLICY_FIELD_NUMBER: _ClassVar[int]
    policy: Policy
    def __init__(self, policy: _Optional[_Union[Policy, _Mapping]] = ...) -> None: ...

class GetPolicyRequest(_message.Message):
    __slots__ = ("namespace",)
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    def __init__(self, namespace: _Optional[str] = ...) -> None: ...

class GetPolicyResponse(_message.Message):
    __slots__ = ("policy",)
    POLICY_FIELD_NUMBER: _ClassVar[int]
    policy: Policy
    def __init__(self, policy: _Optional[_Union[Policy, _Mapping]] = ...) -> None: ...

class ListPoliciesRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListPoliciesResponse(_message.Message):
    __slots__ = ("policies", "next_page_token")
    POLICIES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    policies: _containers.RepeatedCompositeFieldContainer[Policy]
    next_page_token: str
    def __init__(self, policies: _Optional[_Iterable[_Union[Policy, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...
