"""Tools and their results as the messages of the contract."""

from collections.abc import Mapping

import grpc
import orjson
from google.protobuf import duration_pb2

from peregrine.api.common.v1 import common_pb2
from peregrine.api.tools.v1 import tools_pb2
from peregrine.tools.calls import Call, Outcome
from peregrine.tools.definition import ChangeClass, CostClass, Definition, Effect, Scope
from peregrine.tools.registry import Registered

_EFFECTS = {
    Effect.PURE: common_pb2.EFFECT_PURE,
    Effect.READ: common_pb2.EFFECT_READ,
    Effect.WRITE: common_pb2.EFFECT_WRITE,
}
_COSTS = {
    CostClass.DEFAULT: tools_pb2.COST_CLASS_DEFAULT,
    CostClass.EXPENSIVE: tools_pb2.COST_CLASS_EXPENSIVE,
    CostClass.FREQUENT: tools_pb2.COST_CLASS_FREQUENT,
}
_CHANGES = {
    ChangeClass.PURE: tools_pb2.CHANGE_CLASS_PURE,
    ChangeClass.SLOW: tools_pb2.CHANGE_CLASS_SLOW,
    ChangeClass.LIVE: tools_pb2.CHANGE_CLASS_LIVE,
    ChangeClass.NEVER: tools_pb2.CHANGE_CLASS_NEVER,
}
_CACHE_TIERS = {
    "": tools_pb2.CACHE_TIER_NONE,
    "near": tools_pb2.CACHE_TIER_NEAR,
    "redis": tools_pb2.CACHE_TIER_REDIS,
    "postgres": tools_pb2.CACHE_TIER_POSTGRES,
}
_SCOPES = {Scope.TENANT: common_pb2.SCOPE_TENANT, Scope.USER: common_pb2.SCOPE_USER}
# The canonical codes of our own reasons; a tool's own are FAILED_PRECONDITION.
_CODES: Mapping[str, grpc.StatusCode] = {
    "TOOL_NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "ARGUMENTS_INVALID": grpc.StatusCode.INVALID_ARGUMENT,
    "TOOL_TIMEOUT": grpc.StatusCode.DEADLINE_EXCEEDED,
    "TOOLS_OVERLOADED": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "TOOL_FAILED": grpc.StatusCode.INTERNAL,
    "TOOL_OUTCOME_UNKNOWN": grpc.StatusCode.UNKNOWN,
    "TOOL_CANCELLED": grpc.StatusCode.CANCELLED,
    "TOOL_UNAVAILABLE": grpc.StatusCode.UNAVAILABLE,
    "LEDGER_UNAVAILABLE": grpc.StatusCode.UNAVAILABLE,
    "IDEMPOTENCY_KEY_REUSED": grpc.StatusCode.ALREADY_EXISTS,
}


def registered_tool(tool: Registered) -> tools_pb2.RegisteredTool:
    if tool.listing is not None:
        return tool.listing
    definition = tool.definition
    message = described(definition)
    if tool.origin:
        message.python.function = tool.origin
    else:
        message.builtin.name = definition.name
    return tools_pb2.RegisteredTool(
        tool=message, version=definition.version, builtin=not tool.origin
    )


def over(definition: Definition, declared: tools_pb2.Tool) -> tools_pb2.Tool:
    """What a declaration over a written tool comes to, listed with what it left open."""
    message = described(definition)
    if declared.HasField("builtin"):
        message.builtin.name = declared.builtin.name or declared.name
    else:
        message.python.CopyFrom(declared.python)
    return message


def described(definition: Definition) -> tools_pb2.Tool:
    message = tools_pb2.Tool(
        name=definition.name,
        description=definition.description,
        input_schema=common_pb2.Json(utf8=orjson.dumps(definition.input_schema)),
        effect=_EFFECTS[definition.effect],
        idempotent=definition.idempotent,
        cost_class=_COSTS[definition.cost],
        change_class=_CHANGES[definition.change],
        scope=_SCOPES[definition.scope],
        timeout=duration(definition.timeout),
        max_concurrency=definition.max_concurrency,
        retries=definition.retries,
        tags=definition.tags,
        invalidates=definition.invalidates,
        uncacheable_arguments=sorted(definition.uncacheable),
    )
    if definition.ttl is not None:
        message.cache_ttl.CopyFrom(duration(definition.ttl))
    return message


def result(outcome: Outcome) -> tools_pb2.ToolResult:
    message = tools_pb2.ToolResult(
        call_id=outcome.call.call_id,
        tool=outcome.call.tool,
        status=tools_pb2.TOOL_STATUS_SUCCEEDED,
        content=[common_pb2.ContentBlock(text=outcome.text)],
        execution_time=duration(outcome.execution_seconds),
        queue_time=duration(outcome.queue_seconds),
        cache_tier=_CACHE_TIERS[outcome.cache_tier],
        stale=outcome.stale,
        replayed=outcome.replayed,
    )
    if outcome.cache_tier:
        message.age.CopyFrom(duration(outcome.age))
    if outcome.data:
        message.structured_content.utf8 = outcome.data
    if outcome.reason:
        message.status = (
            tools_pb2.TOOL_STATUS_IN_DOUBT if outcome.in_doubt else tools_pb2.TOOL_STATUS_FAILED
        )
        code = _CODES.get(outcome.reason, grpc.StatusCode.FAILED_PRECONDITION)
        message.error.code = code.value[0]
        message.error.reason = outcome.reason
        message.error.message = outcome.text
        if outcome.retry_after is not None:
            message.error.retry_delay.CopyFrom(duration(outcome.retry_after))
    return message


def outcome(call: Call, message: tools_pb2.ToolResult) -> Outcome:
    """What was recorded of an earlier call, as the outcome of this one."""
    return Outcome(
        call=call,
        text=message.content[0].text,
        data=message.structured_content.utf8,
        reason=message.error.reason,
        in_doubt=message.status == tools_pb2.TOOL_STATUS_IN_DOUBT,
        execution_seconds=message.execution_time.ToNanoseconds() / 1e9,
        replayed=True,
    )


def tool_stats(tool: Registered) -> tools_pb2.ToolStats:
    stats = tool.stats
    return tools_pb2.ToolStats(
        tool=tool.definition.name,
        calls=stats.calls,
        errors=stats.errors,
        cache_hits=stats.cache_hits,
        execution_time_p50=duration(stats.execution_quantile(0.5)),
        execution_time_p95=duration(stats.execution_quantile(0.95)),
        queue_time_p95=duration(stats.queue_quantile(0.95)),
        queue_time_p50=duration(stats.queue_quantile(0.5)),
        in_flight=tool.lane.in_flight,
        queued=tool.lane.queued,
        circuit_open=tool.circuit.open,
    )


def duration(seconds: float) -> duration_pb2.Duration:
    """Of a time that is not negative."""
    whole, nanos = divmod(round(seconds * 1e9), 1_000_000_000)
    return duration_pb2.Duration(seconds=whole, nanos=nanos)
