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

class CostClass(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    COST_CLASS_UNSPECIFIED: _ClassVar[CostClass]
    COST_CLASS_DEFAULT: _ClassVar[CostClass]
    COST_CLASS_EXPENSIVE: _ClassVar[CostClass]
    COST_CLASS_FREQUENT: _ClassVar[CostClass]

class ChangeClass(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CHANGE_CLASS_UNSPECIFIED: _ClassVar[ChangeClass]
    CHANGE_CLASS_PURE: _ClassVar[ChangeClass]
    CHANGE_CLASS_SLOW: _ClassVar[ChangeClass]
    CHANGE_CLASS_LIVE: _ClassVar[ChangeClass]
    CHANGE_CLASS_NEVER: _ClassVar[ChangeClass]

class ToolStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TOOL_STATUS_UNSPECIFIED: _ClassVar[ToolStatus]
    TOOL_STATUS_SUCCEEDED: _ClassVar[ToolStatus]
    TOOL_STATUS_FAILED: _ClassVar[ToolStatus]
    TOOL_STATUS_IN_DOUBT: _ClassVar[ToolStatus]

class CacheTier(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CACHE_TIER_UNSPECIFIED: _ClassVar[CacheTier]
    CACHE_TIER_NONE: _ClassVar[CacheTier]
    CACHE_TIER_NEAR: _ClassVar[CacheTier]
    CACHE_TIER_REDIS: _ClassVar[CacheTier]
    CACHE_TIER_POSTGRES: _ClassVar[CacheTier]
COST_CLASS_UNSPECIFIED: CostClass
COST_CLASS_DEFAULT: CostClass
COST_CLASS_EXPENSIVE: CostClass
COST_CLASS_FREQUENT: CostClass
CHANGE_CLASS_UNSPECIFIED: ChangeClass
CHANGE_CLASS_PURE: ChangeClass
CHANGE_CLASS_SLOW: ChangeClass
CHANGE_CLASS_LIVE: ChangeClass
CHANGE_CLASS_NEVER: ChangeClass
TOOL_STATUS_UNSPECIFIED: ToolStatus
TOOL_STATUS_SUCCEEDED: ToolStatus
TOOL_STATUS_FAILED: ToolStatus
TOOL_STATUS_IN_DOUBT: ToolStatus
CACHE_TIER_UNSPECIFIED: CacheTier
CACHE_TIER_NONE: CacheTier
CACHE_TIER_NEAR: CacheTier
CACHE_TIER_REDIS: CacheTier
CACHE_TIER_POSTGRES: CacheTier

class Tool(_message.Message):
    __slots__ = ("name", "description", "input_schema", "effect", "idempotent", "invalidates", "cost_class", "change_class", "scope", "timeout", "max_concurrency", "retries", "cache_ttl", "uncacheable_arguments", "tags", "builtin", "http", "mcp", "python")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    INPUT_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    EFFECT_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENT_FIELD_NUMBER: _ClassVar[int]
    INVALIDATES_FIELD_NUMBER: _ClassVar[int]
    COST_CLASS_FIELD_NUMBER: _ClassVar[int]
    CHANGE_CLASS_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    MAX_CONCURRENCY_FIELD_NUMBER: _ClassVar[int]
    RETRIES_FIELD_NUMBER: _ClassVar[int]
    CACHE_TTL_FIELD_NUMBER: _ClassVar[int]
    UNCACHEABLE_ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    BUILTIN_FIELD_NUMBER: _ClassVar[int]
    HTTP_FIELD_NUMBER: _ClassVar[int]
    MCP_FIELD_NUMBER: _ClassVar[int]
    PYTHON_FIELD_NUMBER: _ClassVar[int]
    name: str
    description: str
    input_schema: _common_pb2.Json
    effect: _common_pb2.Effect
    idempotent: bool
    invalidates: _containers.RepeatedScalarFieldContainer[str]
    cost_class: CostClass
    change_class: ChangeClass
    scope: _common_pb2.Scope
    timeout: _duration_pb2.Duration
    max_concurrency: int
    retries: int
    cache_ttl: _duration_pb2.Duration
    uncacheable_arguments: _containers.RepeatedScalarFieldContainer[str]
    tags: _containers.RepeatedScalarFieldContainer[str]
    builtin: BuiltinBackend
    http: HttpBackend
    mcp: McpBackend
    python: PythonBackend
    def __init__(self, name: _Optional[str] = ..., description: _Optional[str] = ..., input_schema: _Optional[_Union[_common_pb2.Json, _Mapping]] = ..., effect: _Optional[_Union[_common_pb2.Effect, str]] = ..., idempotent: _Optional[bool] = ..., invalidates: _Optional[_Iterable[str]] = ..., cost_class: _Optional[_Union[CostClass, str]] = ..., change_class: _Optional[_Union[ChangeClass, str]] = ..., scope: _Optional[_Union[_common_pb2.Scope, str]] = ..., timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., max_concurrency: _Optional[int] = ..., retries: _Optional[int] = ..., cache_ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., uncacheable_arguments: _Optional[_Iterable[str]] = ..., tags: _Optional[_Iterable[str]] = ..., builtin: _Optional[_Union[BuiltinBackend, _Mapping]] = ..., http: _Optional[_Union[HttpBackend, _Mapping]] = ..., mcp: _Optional[_Union[McpBackend, _Mapping]] = ..., python: _Optional[_Union[PythonBackend, _Mapping]] = ...) -> None: ...

class BuiltinBackend(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class HttpBackend(_message.Message):
    __slots__ = ("method", "url", "headers", "body", "secret_headers")
    class HeadersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class SecretHeadersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    METHOD_FIELD_NUMBER: _ClassVar[int]
    URL_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    SECRET_HEADERS_FIELD_NUMBER: _ClassVar[int]
    method: str
    url: str
    headers: _containers.ScalarMap[str, str]
    body: _common_pb2.Json
    secret_headers: _containers.ScalarMap[str, str]
    def __init__(self, method: _Optional[str] = ..., url: _Optional[str] = ..., headers: _Optional[_Mapping[str, str]] = ..., body: _Optional[_Union[_common_pb2.Json, _Mapping]] = ..., secret_headers: _Optional[_Mapping[str, str]] = ...) -> None: ...

class McpBackend(_message.Message):
    __slots__ = ("url", "command", "tool", "secret_headers", "secret_environment", "environment", "approved_digests")
    class SecretHeadersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class SecretEnvironmentEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class EnvironmentEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    URL_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    TOOL_FIELD_NUMBER: _ClassVar[int]
    SECRET_HEADERS_FIELD_NUMBER: _ClassVar[int]
    SECRET_ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    APPROVED_DIGESTS_FIELD_NUMBER: _ClassVar[int]
    url: str
    command: _containers.RepeatedScalarFieldContainer[str]
    tool: str
    secret_headers: _containers.ScalarMap[str, str]
    secret_environment: _containers.ScalarMap[str, str]
    environment: _containers.ScalarMap[str, str]
    approved_digests: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, url: _Optional[str] = ..., command: _Optional[_Iterable[str]] = ..., tool: _Optional[str] = ..., secret_headers: _Optional[_Mapping[str, str]] = ..., secret_environment: _Optional[_Mapping[str, str]] = ..., environment: _Optional[_Mapping[str, str]] = ..., approved_digests: _Optional[_Iterable[str]] = ...) -> None: ...

class PythonBackend(_message.Message):
    __slots__ = ("function",)
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    function: str
    def __init__(self, function: _Optional[str] = ...) -> None: ...

class RegisteredTool(_message.Message):
    __slots__ = ("tool", "version", "builtin", "disabled_reason", "create_time", "update_time", "server", "changed")
    TOOL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BUILTIN_FIELD_NUMBER: _ClassVar[int]
    DISABLED_REASON_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    UPDATE_TIME_FIELD_NUMBER: _ClassVar[int]
    SERVER_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    tool: Tool
    version: int
    builtin: bool
    disabled_reason: str
    create_time: _timestamp_pb2.Timestamp
    update_time: _timestamp_pb2.Timestamp
    server: str
    changed: ChangedTool
    def __init__(self, tool: _Optional[_Union[Tool, _Mapping]] = ..., version: _Optional[int] = ..., builtin: _Optional[bool] = ..., disabled_reason: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., update_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., server: _Optional[str] = ..., changed: _Optional[_Union[ChangedTool, _Mapping]] = ...) -> None: ...

class ChangedTool(_message.Message):
    __slots__ = ("digest", "description", "input_schema", "effect")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    INPUT_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    EFFECT_FIELD_NUMBER: _ClassVar[int]
    digest: str
    description: str
    input_schema: _common_pb2.Json
    effect: _common_pb2.Effect
    def __init__(self, digest: _Optional[str] = ..., description: _Optional[str] = ..., input_schema: _Optional[_Union[_common_pb2.Json, _Mapping]] = ..., effect: _Optional[_Union[_common_pb2.Effect, str]] = ...) -> None: ...

class ToolCall(_message.Message):
    __slots__ = ("call_id", "tool", "arguments", "priority", "timeout", "idempotency_key", "agent_id")
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    TOOL_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    AGENT_ID_FIELD_NUMBER: _ClassVar[int]
    call_id: str
    tool: str
    arguments: _common_pb2.Json
    priority: int
    timeout: _duration_pb2.Duration
    idempotency_key: str
    agent_id: str
    def __init__(self, call_id: _Optional[str] = ..., tool: _Optional[str] = ..., arguments: _Optional[_Union[_common_pb2.Json, _Mapping]] = ..., priority: _Optional[int] = ..., timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., idempotency_key: _Optional[str] = ..., agent_id: _Optional[str] = ...) -> None: ...

class ToolResult(_message.Message):
    __slots__ = ("call_id", "tool", "status", "content", "structured_content", "error", "execution_time", "queue_time", "cache_tier", "age", "stale", "replayed")
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    TOOL_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    STRUCTURED_CONTENT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    EXECUTION_TIME_FIELD_NUMBER: _ClassVar[int]
    QUEUE_TIME_FIELD_NUMBER: _ClassVar[int]
    CACHE_TIER_FIELD_NUMBER: _ClassVar[int]
    AGE_FIELD_NUMBER: _ClassVar[int]
    STALE_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    call_id: str
    tool: str
    status: ToolStatus
    content: _containers.RepeatedCompositeFieldContainer[_common_pb2.ContentBlock]
    structured_content: _common_pb2.Json
    error: _common_pb2.Error
    execution_time: _duration_pb2.Duration
    queue_time: _duration_pb2.Duration
    cache_tier: CacheTier
    age: _duration_pb2.Duration
    stale: bool
    replayed: bool
    def __init__(self, call_id: _Optional[str] = ..., tool: _Optional[str] = ..., status: _Optional[_Union[ToolStatus, str]] = ..., content: _Optional[_Iterable[_Union[_common_pb2.ContentBlock, _Mapping]]] = ..., structured_content: _Optional[_Union[_common_pb2.Json, _Mapping]] = ..., error: _Optional[_Union[_common_pb2.Error, _Mapping]] = ..., execution_time: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., queue_time: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., cache_tier: _Optional[_Union[CacheTier, str]] = ..., age: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., stale: _Optional[bool] = ..., replayed: _Optional[bool] = ...) -> None: ...

class ExecuteToolRequest(_message.Message):
    __slots__ = ("call",)
    CALL_FIELD_NUMBER: _ClassVar[int]
    call: ToolCall
    def __init__(self, call: _Optional[_Union[ToolCall, _Mapping]] = ...) -> None: ...

class ExecuteToolResponse(_message.Message):
    __slots__ = ("result",)
    RESULT_FIELD_NUMBER: _ClassVar[int]
    result: ToolResult
    def __init__(self, result: _Optional[_Union[ToolResult, _Mapping]] = ...) -> None: ...

class ExecuteToolsRequest(_message.Message):
    __slots__ = ("calls",)
    CALLS_FIELD_NUMBER: _ClassVar[int]
    calls: _containers.RepeatedCompositeFieldContainer[ToolCall]
    def __init__(self, calls: _Optional[_Iterable[_Union[ToolCall, _Mapping]]] = ...) -> None: ...

class ExecuteToolsResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[ToolResult]
    def __init__(self, results: _Optional[_Iterable[_Union[ToolResult, _Mapping]]] = ...) -> None: ...

class ListToolsRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "names", "connect")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    CONNECT_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    names: _containers.RepeatedScalarFieldContainer[str]
    connect: bool
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., names: _Optional[_Iterable[str]] = ..., connect: _Optional[bool] = ...) -> None: ...

class ListToolsResponse(_message.Message):
    __slots__ = ("tools", "next_page_token")
    TOOLS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tools: _containers.RepeatedCompositeFieldContainer[RegisteredTool]
    next_page_token: str
    def __init__(self, tools: _Optional[_Iterable[_Union[RegisteredTool, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ApplyToolRequest(_message.Message):
    __slots__ = ("tool", "request_id", "expected_version")
    TOOL_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_VERSION_FIELD_NUMBER: _ClassVar[int]
    tool: Tool
    request_id: str
    expected_version: int
    def __init__(self, tool: _Optional[_Union[Tool, _Mapping]] = ..., request_id: _Optional[str] = ..., expected_version: _Optional[int] = ...) -> None: ...

class ApplyToolResponse(_message.Message):
    __slots__ = ("tool",)
    TOOL_FIELD_NUMBER: _ClassVar[int]
    tool: RegisteredTool
    def __init__(self, tool: _Optional[_Union[RegisteredTool, _Mapping]] = ...) -> None: ...

class DeleteToolRequest(_message.Message):
    __slots__ = ("name", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    request_id: str
    def __init__(self, name: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class DeleteToolResponse(_message.Message):
    __slots__ = ("deleted",)
    DELETED_FIELD_NUMBER: _ClassVar[int]
    deleted: bool
    def __init__(self, deleted: _Optional[bool] = ...) -> None: ...

class InvalidateToolResultsRequest(_message.Message):
    __slots__ = ("tool", "arguments", "request_id")
    TOOL_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    tool: str
    arguments: _common_pb2.Json
    request_id: str
    def __init__(self, tool: _Optional[str] = ..., arguments: _Optional[_Union[_common_pb2.Json, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class InvalidateToolResultsResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetExecutionStatsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetExecutionStatsResponse(_message.Message):
    __slots__ = ("registered_tools", "max_concurrency", "in_flight", "queued", "tools")
    REGISTERED_TOOLS_FIELD_NUMBER: _ClassVar[int]
    MAX_CONCURRENCY_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    TOOLS_FIELD_NUMBER: _ClassVar[int]
    registered_tools: int
    max_concurrency: int
    in_flight: int
    queued: int
    tools: _containers.RepeatedCompositeFieldContainer[ToolStats]
    def __init__(self, registered_tools: _Optional[int] = ..., max_concurrency: _Optional[int] = ..., in_flight: _Optional[int] = ..., queued: _Optional[int] = ..., tools: _Optional[_Iterable[_Union[ToolStats, _Mapping]]] = ...) -> None: ...

class ToolStats(_message.Message):
    __slots__ = ("tool", "calls", "errors", "cache_hits", "execution_time_p50", "execution_time_p95", "queue_time_p95", "queue_time_p50", "in_flight", "queued", "circuit_open")
    TOOL_FIELD_NUMBER: _ClassVar[int]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    CACHE_HITS_FIELD_NUMBER: _ClassVar[int]
    EXECUTION_TIME_P50_FIELD_NUMBER: _ClassVar[int]
    EXECUTION_TIME_P95_FIELD_NUMBER: _ClassVar[int]
    QUEUE_TIME_P95_FIELD_NUMBER: _ClassVar[int]
    QUEUE_TIME_P50_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    CIRCUIT_OPEN_FIELD_NUMBER: _ClassVar[int]
    tool: str
    calls: int
    errors: int
    cache_hits: int
    execution_time_p50: _duration_pb2.Duration
    execution_time_p95: _duration_pb2.Duration
    queue_time_p95: _duration_pb2.Duration
    queue_time_p50: _duration_pb2.Duration
    in_flight: int
    queued: int
    circuit_open: bool
    def __init__(self, tool: _Optional[str] = ..., calls: _Optional[int] = ..., errors: _Optional[int] = ..., cache_hits: _Optional[int] = ..., execution_time_p50: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., execution_time_p95: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., queue_time_p95: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., queue_time_p50: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., in_flight: _Optional[int] = ..., queued: _Optional[int] = ..., circuit_open: _Optional[bool] = ...) -> None: ...
