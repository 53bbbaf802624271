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

class ContextStrategy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CONTEXT_STRATEGY_UNSPECIFIED: _ClassVar[ContextStrategy]
    CONTEXT_STRATEGY_RECENT: _ClassVar[ContextStrategy]
    CONTEXT_STRATEGY_SUMMARY: _ClassVar[ContextStrategy]

class CacheMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CACHE_MODE_UNSPECIFIED: _ClassVar[CacheMode]
    CACHE_MODE_OFF: _ClassVar[CacheMode]
    CACHE_MODE_EXACT: _ClassVar[CacheMode]

class DisconnectPolicy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DISCONNECT_POLICY_UNSPECIFIED: _ClassVar[DisconnectPolicy]
    DISCONNECT_POLICY_CONTINUE: _ClassVar[DisconnectPolicy]
    DISCONNECT_POLICY_CANCEL: _ClassVar[DisconnectPolicy]

class RunState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RUN_STATE_UNSPECIFIED: _ClassVar[RunState]
    RUN_STATE_RUNNING: _ClassVar[RunState]
    RUN_STATE_AWAITING_APPROVAL: _ClassVar[RunState]
    RUN_STATE_IN_DOUBT: _ClassVar[RunState]
    RUN_STATE_SUCCEEDED: _ClassVar[RunState]
    RUN_STATE_FAILED: _ClassVar[RunState]
    RUN_STATE_CANCELLED: _ClassVar[RunState]

class ToolCallStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TOOL_CALL_STATUS_UNSPECIFIED: _ClassVar[ToolCallStatus]
    TOOL_CALL_STATUS_SUCCEEDED: _ClassVar[ToolCallStatus]
    TOOL_CALL_STATUS_FAILED: _ClassVar[ToolCallStatus]
    TOOL_CALL_STATUS_REFUSED: _ClassVar[ToolCallStatus]

class StopReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STOP_REASON_UNSPECIFIED: _ClassVar[StopReason]
    STOP_REASON_END_TURN: _ClassVar[StopReason]
    STOP_REASON_TOOL_USE: _ClassVar[StopReason]
    STOP_REASON_MAX_TOKENS: _ClassVar[StopReason]
    STOP_REASON_STOP_SEQUENCE: _ClassVar[StopReason]
    STOP_REASON_REFUSAL: _ClassVar[StopReason]
    STOP_REASON_PAUSE: _ClassVar[StopReason]

class TakeoverReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TAKEOVER_REASON_UNSPECIFIED: _ClassVar[TakeoverReason]
    TAKEOVER_REASON_LEASE_EXPIRED: _ClassVar[TakeoverReason]
    TAKEOVER_REASON_HANDED_OVER: _ClassVar[TakeoverReason]

class SpanKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SPAN_KIND_UNSPECIFIED: _ClassVar[SpanKind]
    SPAN_KIND_NETWORK: _ClassVar[SpanKind]
    SPAN_KIND_QUEUE: _ClassVar[SpanKind]
    SPAN_KIND_CONTEXT: _ClassVar[SpanKind]
    SPAN_KIND_PROMPT_BUILD: _ClassVar[SpanKind]
    SPAN_KIND_CACHE: _ClassVar[SpanKind]
    SPAN_KIND_CONNECT: _ClassVar[SpanKind]
    SPAN_KIND_FIRST_TOKEN: _ClassVar[SpanKind]
    SPAN_KIND_DECODE: _ClassVar[SpanKind]
    SPAN_KIND_PARSE: _ClassVar[SpanKind]
    SPAN_KIND_TOOL: _ClassVar[SpanKind]
    SPAN_KIND_PERSIST: _ClassVar[SpanKind]
    SPAN_KIND_TAKEOVER: _ClassVar[SpanKind]

class Approval(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    APPROVAL_UNSPECIFIED: _ClassVar[Approval]
    APPROVAL_APPROVE: _ClassVar[Approval]
    APPROVAL_REFUSE: _ClassVar[Approval]
    APPROVAL_SETTLE: _ClassVar[Approval]
CONTEXT_STRATEGY_UNSPECIFIED: ContextStrategy
CONTEXT_STRATEGY_RECENT: ContextStrategy
CONTEXT_STRATEGY_SUMMARY: ContextStrategy
CACHE_MODE_UNSPECIFIED: CacheMode
CACHE_MODE_OFF: CacheMode
CACHE_MODE_EXACT: CacheMode
DISCONNECT_POLICY_UNSPECIFIED: DisconnectPolicy
DISCONNECT_POLICY_CONTINUE: DisconnectPolicy
DISCONNECT_POLICY_CANCEL: DisconnectPolicy
RUN_STATE_UNSPECIFIED: RunState
RUN_STATE_RUNNING: RunState
RUN_STATE_AWAITING_APPROVAL: RunState
RUN_STATE_IN_DOUBT: RunState
RUN_STATE_SUCCEEDED: RunState
RUN_STATE_FAILED: RunState
RUN_STATE_CANCELLED: RunState
TOOL_CALL_STATUS_UNSPECIFIED: ToolCallStatus
TOOL_CALL_STATUS_SUCCEEDED: ToolCallStatus
TOOL_CALL_STATUS_FAILED: ToolCallStatus
TOOL_CALL_STATUS_REFUSED: ToolCallStatus
STOP_REASON_UNSPECIFIED: StopReason
STOP_REASON_END_TURN: StopReason
STOP_REASON_TOOL_USE: StopReason
STOP_REASON_MAX_TOKENS: StopReason
STOP_REASON_STOP_SEQUENCE: StopReason
STOP_REASON_REFUSAL: StopReason
STOP_REASON_PAUSE: StopReason
TAKEOVER_REASON_UNSPECIFIED: TakeoverReason
TAKEOVER_REASON_LEASE_EXPIRED: TakeoverReason
TAKEOVER_REASON_HANDED_OVER: TakeoverReason
SPAN_KIND_UNSPECIFIED: SpanKind
SPAN_KIND_NETWORK: SpanKind
SPAN_KIND_QUEUE: SpanKind
SPAN_KIND_CONTEXT: SpanKind
SPAN_KIND_PROMPT_BUILD: SpanKind
SPAN_KIND_CACHE: SpanKind
SPAN_KIND_CONNECT: SpanKind
SPAN_KIND_FIRST_TOKEN: SpanKind
SPAN_KIND_DECODE: SpanKind
SPAN_KIND_PARSE: SpanKind
SPAN_KIND_TOOL: SpanKind
SPAN_KIND_PERSIST: SpanKind
SPAN_KIND_TAKEOVER: SpanKind
APPROVAL_UNSPECIFIED: Approval
APPROVAL_APPROVE: Approval
APPROVAL_REFUSE: Approval
APPROVAL_SETTLE: Approval

class Agent(_message.Message):
    __slots__ = ("name", "spec", "version", "create_time", "update_time")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    UPDATE_TIME_FIELD_NUMBER: _ClassVar[int]
    name: str
    spec: AgentSpec
    version: int
    create_time: _timestamp_pb2.Timestamp
    update_time: _timestamp_pb2.Timestamp
    def __init__(self, name: _Optional[str] = ..., spec: _Optional[_Union[AgentSpec, _Mapping]] = ..., version: _Optional[int] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., update_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class AgentSpec(_message.Message):
    __slots__ = ("model", "fallback_models", "system_prompt", "tools", "capabilities", "limits", "context", "cache", "optimizations", "approvals", "temperature", "description")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    FALLBACK_MODELS_FIELD_NUMBER: _ClassVar[int]
    SYSTEM_PROMPT_FIELD_NUMBER: _ClassVar[int]
    TOOLS_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    CACHE_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZATIONS_FIELD_NUMBER: _ClassVar[int]
    APPROVALS_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    model: str
    fallback_models: _containers.RepeatedScalarFieldContainer[str]
    system_prompt: str
    tools: _containers.RepeatedScalarFieldContainer[str]
    capabilities: _containers.RepeatedScalarFieldContainer[str]
    limits: AgentLimits
    context: ContextOptions
    cache: CacheMode
    optimizations: Optimizations
    approvals: _containers.RepeatedScalarFieldContainer[str]
    temperature: float
    description: str
    def __init__(self, model: _Optional[str] = ..., fallback_models: _Optional[_Iterable[str]] = ..., system_prompt: _Optional[str] = ..., tools: _Optional[_Iterable[str]] = ..., capabilities: _Optional[_Iterable[str]] = ..., limits: _Optional[_Union[AgentLimits, _Mapping]] = ..., context: _Optional[_Union[ContextOptions, _Mapping]] = ..., cache: _Optional[_Union[CacheMode, str]] = ..., optimizations: _Optional[_Union[Optimizations, _Mapping]] = ..., approvals: _Optional[_Iterable[str]] = ..., temperature: _Optional[float] = ..., description: _Optional[str] = ...) -> None: ...

class AgentLimits(_message.Message):
    __slots__ = ("max_steps", "max_output_tokens", "max_total_tokens", "max_cost_micros", "max_duration")
    MAX_STEPS_FIELD_NUMBER: _ClassVar[int]
    MAX_OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_TOTAL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_COST_MICROS_FIELD_NUMBER: _ClassVar[int]
    MAX_DURATION_FIELD_NUMBER: _ClassVar[int]
    max_steps: int
    max_output_tokens: int
    max_total_tokens: int
    max_cost_micros: int
    max_duration: _duration_pb2.Duration
    def __init__(self, max_steps: _Optional[int] = ..., max_output_tokens: _Optional[int] = ..., max_total_tokens: _Optional[int] = ..., max_cost_micros: _Optional[int] = ..., max_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class ContextOptions(_message.Message):
    __slots__ = ("strategy", "max_messages", "token_budget")
    STRATEGY_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGES_FIELD_NUMBER: _ClassVar[int]
    TOKEN_BUDGET_FIELD_NUMBER: _ClassVar[int]
    strategy: ContextStrategy
    max_messages: int
    token_budget: int
    def __init__(self, strategy: _Optional[_Union[ContextStrategy, str]] = ..., max_messages: _Optional[int] = ..., token_budget: _Optional[int] = ...) -> None: ...

class Optimizations(_message.Message):
    __slots__ = ("cache_responses", "parallel_tools", "eager_tools", "streaming", "compression", "prompt_caching", "trimming", "lazy_tools")
    CACHE_RESPONSES_FIELD_NUMBER: _ClassVar[int]
    PARALLEL_TOOLS_FIELD_NUMBER: _ClassVar[int]
    EAGER_TOOLS_FIELD_NUMBER: _ClassVar[int]
    STREAMING_FIELD_NUMBER: _ClassVar[int]
    COMPRESSION_FIELD_NUMBER: _ClassVar[int]
    PROMPT_CACHING_FIELD_NUMBER: _ClassVar[int]
    TRIMMING_FIELD_NUMBER: _ClassVar[int]
    LAZY_TOOLS_FIELD_NUMBER: _ClassVar[int]
    cache_responses: bool
    parallel_tools: bool
    eager_tools: bool
    streaming: bool
    compression: bool
    prompt_caching: bool
    trimming: bool
    lazy_tools: bool
    def __init__(self, cache_responses: _Optional[bool] = ..., parallel_tools: _Optional[bool] = ..., eager_tools: _Optional[bool] = ..., streaming: _Optional[bool] = ..., compression: _Optional[bool] = ..., prompt_caching: _Optional[bool] = ..., trimming: _Optional[bool] = ..., lazy_tools: _Optional[bool] = ...) -> None: ...

class ApplyAgentRequest(_message.Message):
    __slots__ = ("agent", "request_id", "expected_version")
    AGENT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_VERSION_FIELD_NUMBER: _ClassVar[int]
    agent: Agent
    request_id: str
    expected_version: int
    def __init__(self, agent: _Optional[_Union[Agent, _Mapping]] = ..., request_id: _Optional[str] = ..., expected_version: _Optional[int] = ...) -> None: ...

class ApplyAgentResponse(_message.Message):
    __slots__ = ("agent",)
    AGENT_FIELD_NUMBER: _ClassVar[int]
    agent: Agent
    def __init__(self, agent: _Optional[_Union[Agent, _Mapping]] = ...) -> None: ...

class GetAgentRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetAgentResponse(_message.Message):
    __slots__ = ("agent",)
    AGENT_FIELD_NUMBER: _ClassVar[int]
    agent: Agent
    def __init__(self, agent: _Optional[_Union[Agent, _Mapping]] = ...) -> None: ...

class ListAgentsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListAgentsResponse(_message.Message):
    __slots__ = ("agents", "next_page_token")
    AGENTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    agents: _containers.RepeatedCompositeFieldContainer[Agent]
    next_page_token: str
    def __init__(self, agents: _Optional[_Iterable[_Union[Agent, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class DeleteAgentRequest(_message.Message):
    __slots__ = ("name", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    request_id: str
    def __init__(self, name: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class DeleteAgentResponse(_message.Message):
    __slots__ = ("deleted",)
    DELETED_FIELD_NUMBER: _ClassVar[int]
    deleted: bool
    def __init__(self, deleted: _Optional[bool] = ...) -> None: ...

class RunInput(_message.Message):
    __slots__ = ("agent", "message", "conversation_id", "request_id", "disconnect_policy", "timeout", "optimizations", "allow_unremembered", "labels")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    AGENT_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    CONVERSATION_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    DISCONNECT_POLICY_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZATIONS_FIELD_NUMBER: _ClassVar[int]
    ALLOW_UNREMEMBERED_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    agent: str
    message: str
    conversation_id: str
    request_id: str
    disconnect_policy: DisconnectPolicy
    timeout: _duration_pb2.Duration
    optimizations: Optimizations
    allow_unremembered: bool
    labels: _containers.ScalarMap[str, str]
    def __init__(self, agent: _Optional[str] = ..., message: _Optional[str] = ..., conversation_id: _Optional[str] = ..., request_id: _Optional[str] = ..., disconnect_policy: _Optional[_Union[DisconnectPolicy, str]] = ..., timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., optimizations: _Optional[_Union[Optimizations, _Mapping]] = ..., allow_unremembered: _Optional[bool] = ..., labels: _Optional[_Mapping[str, str]] = ...) -> None: ...

class Run(_message.Message):
    __slots__ = ("run_id", "agent", "conversation_id", "state", "create_time", "finish_time", "last_sequence", "error", "usage", "labels", "takeovers")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    CONVERSATION_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    FINISH_TIME_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    TAKEOVERS_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    agent: str
    conversation_id: str
    state: RunState
    create_time: _timestamp_pb2.Timestamp
    finish_time: _timestamp_pb2.Timestamp
    last_sequence: int
    error: _common_pb2.Error
    usage: _common_pb2.Usage
    labels: _containers.ScalarMap[str, str]
    takeovers: int
    def __init__(self, run_id: _Optional[str] = ..., agent: _Optional[str] = ..., conversation_id: _Optional[str] = ..., state: _Optional[_Union[RunState, str]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., finish_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., last_sequence: _Optional[int] = ..., error: _Optional[_Union[_common_pb2.Error, _Mapping]] = ..., usage: _Optional[_Union[_common_pb2.Usage, _Mapping]] = ..., labels: _Optional[_Mapping[str, str]] = ..., takeovers: _Optional[int] = ...) -> None: ...

class RunEvent(_message.Message):
    __slots__ = ("sequence", "create_time", "epoch", "run_started", "context_loaded", "step_started", "text_delta", "thinking_delta", "tool_call_started", "tool_call_finished", "step_finished", "run_taken_over", "generation_restarted", "log_truncated", "model_retrying", "run_waiting", "run_finished")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    RUN_STARTED_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_LOADED_FIELD_NUMBER: _ClassVar[int]
    STEP_STARTED_FIELD_NUMBER: _ClassVar[int]
    TEXT_DELTA_FIELD_NUMBER: _ClassVar[int]
    THINKING_DELTA_FIELD_NUMBER: _ClassVar[int]
    TOOL_CALL_STARTED_FIELD_NUMBER: _ClassVar[int]
    TOOL_CALL_FINISHED_FIELD_NUMBER: _ClassVar[int]
    STEP_FINISHED_FIELD_NUMBER: _ClassVar[int]
    RUN_TAKEN_OVER_FIELD_NUMBER: _ClassVar[int]
    GENERATION_RESTARTED_FIELD_NUMBER: _ClassVar[int]
    LOG_TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    MODEL_RETRYING_FIELD_NUMBER: _ClassVar[int]
    RUN_WAITING_FIELD_NUMBER: _ClassVar[int]
    RUN_FINISHED_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    create_time: _timestamp_pb2.Timestamp
    epoch: int
    run_started: RunStarted
    context_loaded: ContextLoaded
    step_started: StepStarted
    text_delta: TextDelta
    thinking_delta: ThinkingDelta
    tool_call_started: ToolCallStarted
    tool_call_finished: ToolCallFinished
    step_finished: StepFinished
    run_taken_over: RunTakenOver
    generation_restarted: GenerationRestarted
    log_truncated: LogTruncated
    model_retrying: ModelRetrying
    run_waiting: RunWaiting
    run_finished: RunFinished
    def __init__(self, sequence: _Optional[int] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., epoch: _Optional[int] = ..., run_started: _Optional[_Union[RunStarted, _Mapping]] = ..., context_loaded: _Optional[_Union[ContextLoaded, _Mapping]] = ..., step_started: _Optional[_Union[StepStarted, _Mapping]] = ..., text_delta: _Optional[_Union[TextDelta, _Mapping]] = ..., thinking_delta: _Optional[_Union[ThinkingDelta, _Mapping]] = ..., tool_call_started: _Optional[_Union[ToolCallStarted, _Mapping]] = ..., tool_call_finished: _Optional[_Union[ToolCallFinished, _Mapping]] = ..., step_finished: _Optional[_Union[StepFinished, _Mapping]] = ..., run_taken_over: _Optional[_Union[RunTakenOver, _Mapping]] = ..., generation_restarted: _Optional[_Union[GenerationRestarted, _Mapping]] = ..., log_truncated: _Optional[_Union[LogTruncated, _Mapping]] = ..., model_retrying: _Optional[_Union[ModelRetrying, _Mapping]] = ..., run_waiting: _Optional[_Union[RunWaiting, _Mapping]] = ..., run_finished: _Optional[_Union[RunFinished, _Mapping]] = ...) -> None: ...

class RunStarted(_message.Message):
    __slots__ = ("run_id", "agent", "agent_version", "conversation_id")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    AGENT_VERSION_FIELD_NUMBER: _ClassVar[int]
    CONVERSATION_ID_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    agent: str
    agent_version: int
    conversation_id: str
    def __init__(self, run_id: _Optional[str] = ..., agent: _Optional[str] = ..., agent_version: _Optional[int] = ..., conversation_id: _Optional[str] = ...) -> None: ...

class ContextLoaded(_message.Message):
    __slots__ = ("tokens", "messages", "omitted_messages", "degradations")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    OMITTED_MESSAGES_FIELD_NUMBER: _ClassVar[int]
    DEGRADATIONS_FIELD_NUMBER: _ClassVar[int]
    tokens: int
    messages: int
    omitted_messages: int
    degradations: _containers.RepeatedCompositeFieldContainer[_common_pb2.Degradation]
    def __init__(self, tokens: _Optional[int] = ..., messages: _Optional[int] = ..., omitted_messages: _Optional[int] = ..., degradations: _Optional[_Iterable[_Union[_common_pb2.Degradation, _Mapping]]] = ...) -> None: ...

class StepStarted(_message.Message):
    __slots__ = ("step", "model", "simulated")
    STEP_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SIMULATED_FIELD_NUMBER: _ClassVar[int]
    step: int
    model: str
    simulated: bool
    def __init__(self, step: _Optional[int] = ..., model: _Optional[str] = ..., simulated: _Optional[bool] = ...) -> None: ...

class TextDelta(_message.Message):
    __slots__ = ("step", "text")
    STEP_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    step: int
    text: str
    def __init__(self, step: _Optional[int] = ..., text: _Optional[str] = ...) -> None: ...

class ThinkingDelta(_message.Message):
    __slots__ = ("step", "text")
    STEP_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    step: int
    text: str
    def __init__(self, step: _Optional[int] = ..., text: _Optional[str] = ...) -> None: ...

class ToolCallStarted(_message.Message):
    __slots__ = ("step", "call_id", "tool", "arguments", "effect", "eager")
    STEP_FIELD_NUMBER: _ClassVar[int]
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    TOOL_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    EFFECT_FIELD_NUMBER: _ClassVar[int]
    EAGER_FIELD_NUMBER: _ClassVar[int]
    step: int
    call_id: str
    tool: str
    arguments: _common_pb2.Json
    effect: _common_pb2.Effect
    eager: bool
    def __init__(self, step: _Optional[int] = ..., call_id: _Optional[str] = ..., tool: _Optional[str] = ..., arguments: _Optional[_Union[_common_pb2.Json, _Mapping]] = ..., effect: _Optional[_Union[_common_pb2.Effect, str]] = ..., eager: _Optional[bool] = ...) -> None: ...

class ToolCallFinished(_message.Message):
    __slots__ = ("step", "call_id", "tool", "status", "content", "error", "execution_time", "cached", "reused")
    STEP_FIELD_NUMBER: _ClassVar[int]
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    TOOL_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    EXECUTION_TIME_FIELD_NUMBER: _ClassVar[int]
    CACHED_FIELD_NUMBER: _ClassVar[int]
    REUSED_FIELD_NUMBER: _ClassVar[int]
    step: int
    call_id: str
    tool: str
    status: ToolCallStatus
    content: _containers.RepeatedCompositeFieldContainer[_common_pb2.ContentBlock]
    error: _common_pb2.Error
    execution_time: _duration_pb2.Duration
    cached: bool
    reused: bool
    def __init__(self, step: _Optional[int] = ..., call_id: _Optional[str] = ..., tool: _Optional[str] = ..., status: _Optional[_Union[ToolCallStatus, str]] = ..., content: _Optional[_Iterable[_Union[_common_pb2.ContentBlock, _Mapping]]] = ..., error: _Optional[_Union[_common_pb2.Error, _Mapping]] = ..., execution_time: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., cached: _Optional[bool] = ..., reused: _Optional[bool] = ...) -> None: ...

class StepFinished(_message.Message):
    __slots__ = ("step", "stop_reason", "usage", "content", "cached")
    STEP_FIELD_NUMBER: _ClassVar[int]
    STOP_REASON_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    CACHED_FIELD_NUMBER: _ClassVar[int]
    step: int
    stop_reason: StopReason
    usage: _common_pb2.Usage
    content: _containers.RepeatedCompositeFieldContainer[_common_pb2.ContentBlock]
    cached: bool
    def __init__(self, step: _Optional[int] = ..., stop_reason: _Optional[_Union[StopReason, str]] = ..., usage: _Optional[_Union[_common_pb2.Usage, _Mapping]] = ..., content: _Optional[_Iterable[_Union[_common_pb2.ContentBlock, _Mapping]]] = ..., cached: _Optional[bool] = ...) -> None: ...

class RunTakenOver(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: TakeoverReason
    def __init__(self, reason: _Optional[_Union[TakeoverReason, str]] = ...) -> None: ...

class GenerationRestarted(_message.Message):
    __slots__ = ("step", "discard_from", "reason")
    STEP_FIELD_NUMBER: _ClassVar[int]
    DISCARD_FROM_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    step: int
    discard_from: int
    reason: str
    def __init__(self, step: _Optional[int] = ..., discard_from: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class LogTruncated(_message.Message):
    __slots__ = ("to",)
    TO_FIELD_NUMBER: _ClassVar[int]
    to: int
    def __init__(self, to: _Optional[int] = ...) -> None: ...

class ModelRetrying(_message.Message):
    __slots__ = ("step", "error", "delay", "model")
    STEP_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    DELAY_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    step: int
    error: _common_pb2.Error
    delay: _duration_pb2.Duration
    model: str
    def __init__(self, step: _Optional[int] = ..., error: _Optional[_Union[_common_pb2.Error, _Mapping]] = ..., delay: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., model: _Optional[str] = ...) -> None: ...

class RunWaiting(_message.Message):
    __slots__ = ("state", "call_id", "tool")
    STATE_FIELD_NUMBER: _ClassVar[int]
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    TOOL_FIELD_NUMBER: _ClassVar[int]
    state: RunState
    call_id: str
    tool: str
    def __init__(self, state: _Optional[_Union[RunState, str]] = ..., call_id: _Optional[str] = ..., tool: _Optional[str] = ...) -> None: ...

class RunFinished(_message.Message):
    __slots__ = ("state", "error", "text", "usage", "steps", "waterfall", "degradations", "truncated")
    STATE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    WATERFALL_FIELD_NUMBER: _ClassVar[int]
    DEGRADATIONS_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    state: RunState
    error: _common_pb2.Error
    text: str
    usage: _common_pb2.Usage
    steps: int
    waterfall: Waterfall
    degradations: _containers.RepeatedCompositeFieldContainer[_common_pb2.Degradation]
    truncated: bool
    def __init__(self, state: _Optional[_Union[RunState, str]] = ..., error: _Optional[_Union[_common_pb2.Error, _Mapping]] = ..., text: _Optional[str] = ..., usage: _Optional[_Union[_common_pb2.Usage, _Mapping]] = ..., steps: _Optional[int] = ..., waterfall: _Optional[_Union[Waterfall, _Mapping]] = ..., degradations: _Optional[_Iterable[_Union[_common_pb2.Degradation, _Mapping]]] = ..., truncated: _Optional[bool] = ...) -> None: ...

class Waterfall(_message.Message):
    __slots__ = ("spans", "wall_ms", "critical_path_ms")
    SPANS_FIELD_NUMBER: _ClassVar[int]
    WALL_MS_FIELD_NUMBER: _ClassVar[int]
    CRITICAL_PATH_MS_FIELD_NUMBER: _ClassVar[int]
    spans: _containers.RepeatedCompositeFieldContainer[WaterfallSpan]
    wall_ms: float
    critical_path_ms: float
    def __init__(self, spans: _Optional[_Iterable[_Union[WaterfallSpan, _Mapping]]] = ..., wall_ms: _Optional[float] = ..., critical_path_ms: _Optional[float] = ...) -> None: ...

class WaterfallSpan(_message.Message):
    __slots__ = ("kind", "name", "step", "start_ms", "duration_ms", "critical_ms")
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    START_MS_FIELD_NUMBER: _ClassVar[int]
    DURATION_MS_FIELD_NUMBER: _ClassVar[int]
    CRITICAL_MS_FIELD_NUMBER: _ClassVar[int]
    kind: SpanKind
    name: str
    step: int
    start_ms: float
    duration_ms: float
    critical_ms: float
    def __init__(self, kind: _Optional[_Union[SpanKind, str]] = ..., name: _Optional[str] = ..., step: _Optional[int] = ..., start_ms: _Optional[float] = ..., duration_ms: _Optional[float] = ..., critical_ms: _Optional[float] = ...) -> None: ...

class ChatRequest(_message.Message):
    __slots__ = ("input",)
    INPUT_FIELD_NUMBER: _ClassVar[int]
    input: RunInput
    def __init__(self, input: _Optional[_Union[RunInput, _Mapping]] = ...) -> None: ...

class ChatResponse(_message.Message):
    __slots__ = ("events",)
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[RunEvent]
    def __init__(self, events: _Optional[_Iterable[_Union[RunEvent, _Mapping]]] = ...) -> None: ...

class StartRunRequest(_message.Message):
    __slots__ = ("input",)
    INPUT_FIELD_NUMBER: _ClassVar[int]
    input: RunInput
    def __init__(self, input: _Optional[_Union[RunInput, _Mapping]] = ...) -> None: ...

class StartRunResponse(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: Run
    def __init__(self, run: _Optional[_Union[Run, _Mapping]] = ...) -> None: ...

class WatchRunRequest(_message.Message):
    __slots__ = ("run_id", "after_sequence", "after_epoch")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    AFTER_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    AFTER_EPOCH_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    after_sequence: int
    after_epoch: int
    def __init__(self, run_id: _Optional[str] = ..., after_sequence: _Optional[int] = ..., after_epoch: _Optional[int] = ...) -> None: ...

class WatchRunResponse(_message.Message):
    __slots__ = ("events",)
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[RunEvent]
    def __init__(self, events: _Optional[_Iterable[_Union[RunEvent, _Mapping]]] = ...) -> None: ...

class GetRunRequest(_message.Message):
    __slots__ = ("run_id",)
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    def __init__(self, run_id: _Optional[str] = ...) -> None: ...

class GetRunResponse(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: Run
    def __init__(self, run: _Optional[_Union[Run, _Mapping]] = ...) -> None: ...

class ListRunsRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "conversation_id", "agent", "states")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    CONVERSATION_ID_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    conversation_id: str
    agent: str
    states: _containers.RepeatedScalarFieldContainer[RunState]
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., conversation_id: _Optional[str] = ..., agent: _Optional[str] = ..., states: _Optional[_Iterable[_Union[RunState, str]]] = ...) -> None: ...

class ListRunsResponse(_message.Message):
    __slots__ = ("runs", "next_page_token")
    RUNS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    runs: _containers.RepeatedCompositeFieldContainer[Run]
    next_page_token: str
    def __init__(self, runs: _Optional[_Iterable[_Union[Run, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class CancelRunRequest(_message.Message):
    __slots__ = ("run_id",)
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    def __init__(self, run_id: _Optional[str] = ...) -> None: ...

class CancelRunResponse(_message.Message):
    __slots__ = ("state",)
    STATE_FIELD_NUMBER: _ClassVar[int]
    state: RunState
    def __init__(self, state: _Optional[_Union[RunState, str]] = ...) -> None: ...

class ApproveToolCallRequest(_message.Message):
    __slots__ = ("run_id", "call_id", "approval", "comment", "content", "request_id")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    APPROVAL_FIELD_NUMBER: _ClassVar[int]
    COMMENT_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    call_id: str
    approval: Approval
    comment: str
    content: _containers.RepeatedCompositeFieldContainer[_common_pb2.ContentBlock]
    request_id: str
    def __init__(self, run_id: _Optional[str] = ..., call_id: _Optional[str] = ..., approval: _Optional[_Union[Approval, str]] = ..., comment: _Optional[str] = ..., content: _Optional[_Iterable[_Union[_common_pb2.ContentBlock, _Mapping]]] = ..., request_id: _Optional[str] = ...) -> None: ...

class ApproveToolCallResponse(_message.Message):
    __slots__ = ("state",)
    STATE_FIELD_NUMBER: _ClassVar[int]
    state: RunState
    def __init__(self, state: _Optional[_Union[RunState, str]] = ...) -> None: ...

class Task(_message.Message):
    __slots__ = ("task_id", "message", "required_capabilities", "depends_on", "priority")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    REQUIRED_CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    DEPENDS_ON_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    message: str
    required_capabilities: _containers.RepeatedScalarFieldContainer[str]
    depends_on: _containers.RepeatedScalarFieldContainer[str]
    priority: int
    def __init__(self, task_id: _Optional[str] = ..., message: _Optional[str] = ..., required_capabilities: _Optional[_Iterable[str]] = ..., depends_on: _Optional[_Iterable[str]] = ..., priority: _Optional[int] = ...) -> None: ...

class DistributeTasksRequest(_message.Message):
    __slots__ = ("tasks", "agents", "max_parallel", "request_id")
    TASKS_FIELD_NUMBER: _ClassVar[int]
    AGENTS_FIELD_NUMBER: _ClassVar[int]
    MAX_PARALLEL_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    tasks: _containers.RepeatedCompositeFieldContainer[Task]
    agents: _containers.RepeatedScalarFieldContainer[str]
    max_parallel: int
    request_id: str
    def __init__(self, tasks: _Optional[_Iterable[_Union[Task, _Mapping]]] = ..., agents: _Optional[_Iterable[str]] = ..., max_parallel: _Optional[int] = ..., request_id: _Optional[str] = ...) -> None: ...

class DistributeTasksResponse(_message.Message):
    __slots__ = ("events",)
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[TaskEvent]
    def __init__(self, events: _Optional[_Iterable[_Union[TaskEvent, _Mapping]]] = ...) -> None: ...

class TaskEvent(_message.Message):
    __slots__ = ("sequence", "create_time", "task_id", "assigned", "progress", "finished", "all_finished")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    ASSIGNED_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    ALL_FINISHED_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    create_time: _timestamp_pb2.Timestamp
    task_id: str
    assigned: TaskAssigned
    progress: TaskProgress
    finished: TaskFinished
    all_finished: TasksFinished
    def __init__(self, sequence: _Optional[int] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., task_id: _Optional[str] = ..., assigned: _Optional[_Union[TaskAssigned, _Mapping]] = ..., progress: _Optional[_Union[TaskProgress, _Mapping]] = ..., finished: _Optional[_Union[TaskFinished, _Mapping]] = ..., all_finished: _Optional[_Union[TasksFinished, _Mapping]] = ...) -> None: ...

class TaskAssigned(_message.Message):
    __slots__ = ("agent", "run_id")
    AGENT_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    agent: str
    run_id: str
    def __init__(self, agent: _Optional[str] = ..., run_id: _Optional[str] = ...) -> None: ...

class TaskProgress(_message.Message):
    __slots__ = ("event",)
    EVENT_FIELD_NUMBER: _ClassVar[int]
    event: RunEvent
    def __init__(self, event: _Optional[_Union[RunEvent, _Mapping]] = ...) -> None: ...

class TaskFinished(_message.Message):
    __slots__ = ("state", "text", "error")
    STATE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    state: RunState
    text: str
    error: _common_pb2.Error
    def __init__(self, state: _Optional[_Union[RunState, str]] = ..., text: _Optional[str] = ..., error: _Optional[_Union[_common_pb2.Error, _Mapping]] = ...) -> None: ...

class TasksFinished(_message.Message):
    __slots__ = ("succeeded", "failed")
    SUCCEEDED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    succeeded: int
    failed: int
    def __init__(self, succeeded: _Optional[int] = ..., failed: _Optional[int] = ...) -> None: ...

class GetPerformanceReportRequest(_message.Message):
    __slots__ = ("agent", "start_time", "end_time")
    AGENT_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    agent: str
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    def __init__(self, agent: _Optional[str] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class GetPerformanceReportResponse(_message.Message):
    __slots__ = ("agents",)
    AGENTS_FIELD_NUMBER: _ClassVar[int]
    agents: _containers.RepeatedCompositeFieldContainer[AgentPerformance]
    def __init__(self, agents: _Optional[_Iterable[_Union[AgentPerformance, _Mapping]]] = ...) -> None: ...

class AgentPerformance(_message.Message):
    __slots__ = ("agent", "runs", "succeeded", "failed", "cancelled", "response_time_mean", "response_time_p50", "response_time_p95", "first_token_time_p50", "first_token_time_p95", "usage", "tools", "critical_path", "recommendations")
    AGENT_FIELD_NUMBER: _ClassVar[int]
    RUNS_FIELD_NUMBER: _ClassVar[int]
    SUCCEEDED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    CANCELLED_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_TIME_MEAN_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_TIME_P50_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_TIME_P95_FIELD_NUMBER: _ClassVar[int]
    FIRST_TOKEN_TIME_P50_FIELD_NUMBER: _ClassVar[int]
    FIRST_TOKEN_TIME_P95_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    TOOLS_FIELD_NUMBER: _ClassVar[int]
    CRITICAL_PATH_FIELD_NUMBER: _ClassVar[int]
    RECOMMENDATIONS_FIELD_NUMBER: _ClassVar[int]
    agent: str
    runs: int
    succeeded: int
    failed: int
    cancelled: int
    response_time_mean: _duration_pb2.Duration
    response_time_p50: _duration_pb2.Duration
    response_time_p95: _duration_pb2.Duration
    first_token_time_p50: _duration_pb2.Duration
    first_token_time_p95: _duration_pb2.Duration
    usage: _common_pb2.Usage
    tools: _containers.RepeatedCompositeFieldContainer[ToolPerformance]
    critical_path: _containers.RepeatedCompositeFieldContainer[PathShare]
    recommendations: _containers.RepeatedCompositeFieldContainer[Recommendation]
    def __init__(self, agent: _Optional[str] = ..., runs: _Optional[int] = ..., succeeded: _Optional[int] = ..., failed: _Optional[int] = ..., cancelled: _Optional[int] = ..., response_time_mean: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., response_time_p50: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., response_time_p95: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., first_token_time_p50: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., first_token_time_p95: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., usage: _Optional[_Union[_common_pb2.Usage, _Mapping]] = ..., tools: _Optional[_Iterable[_Union[ToolPerformance, _Mapping]]] = ..., critical_path: _Optional[_Iterable[_Union[PathShare, _Mapping]]] = ..., recommendations: _Optional[_Iterable[_Union[Recommendation, _Mapping]]] = ...) -> None: ...

class ToolPerformance(_message.Message):
    __slots__ = ("tool", "calls", "errors", "cache_hits", "execution_time_p50", "execution_time_p95")
    TOOL_FIELD_NUMBER: _ClassVar[int]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    CACHE_HITS_FIELD_NUMBER: _ClassVar[int]
    EXECUTION_TIME_P50_FIELD_NUMBER: _ClassVar[int]
    EXECUTION_TIME_P95_FIELD_NUMBER: _ClassVar[int]
    tool: str
    calls: int
    errors: int
    cache_hits: int
    execution_time_p50: _duration_pb2.Duration
    execution_time_p95: _duration_pb2.Duration
    def __init__(self, tool: _Optional[str] = ..., calls: _Optional[int] = ..., errors: _Optional[int] = ..., cache_hits: _Optional[int] = ..., execution_time_p50: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., execution_time_p95: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class PathShare(_message.Message):
    __slots__ = ("kind", "milliseconds")
    KIND_FIELD_NUMBER: _ClassVar[int]
    MILLISECONDS_FIELD_NUMBER: _ClassVar[int]
    kind: SpanKind
    milliseconds: float
    def __init__(self, kind: _Optional[_Union[SpanKind, str]] = ..., milliseconds: _Optional[float] = ...) -> None: ...

class Recommendation(_message.Message):
    __slots__ = ("reason", "message", "saving")
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    SAVING_FIELD_NUMBER: _ClassVar[int]
    reason: str
    message: str
    saving: _duration_pb2.Duration
    def __init__(self, reason: _Optional[str] = ..., message: _Optional[str] = ..., saving: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...
