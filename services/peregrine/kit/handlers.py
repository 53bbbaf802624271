"""How an interceptor wraps a handler of grpc.aio, once per method instead of once per call.

Every RPC kind is brought to one shape, `async def (request, context)`: an async generator becomes a
coroutine that writes what the generator yields. So a wrapper is one function for all kinds, two
wrappers around a stream cost nothing per message, and the generator is closed in the task that ran
it (grpc.aio leaves that to the garbage collector when a call is cancelled while it writes).
"""

import inspect
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeAlias

import grpc
import grpc.aio

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Behavior: TypeAlias = Callable[[Any, Context], Awaitable[Any]]
Continuation: TypeAlias = Callable[[grpc.HandlerCallDetails], Awaitable[Any]]

# Written by grpc's own packages and called by probes and tools: no identity, no rich errors.
_INFRASTRUCTURE = ("/grpc.health.", "/grpc.reflection.", "/grpc.channelz.")

_KINDS: dict[tuple[bool, bool], tuple[str, Callable[..., Any]]] = {
    (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
    (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
    (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
    (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
}


class NotBuilt(Exception):
    """The method is in the contract, and this server has no handler of its own for it."""


class Wrapped:
    """The wrapped handlers of one server, by method."""

    def __init__(self, wrap: Callable[[str, Behavior], Behavior]) -> None:
        self._wrap = wrap
        self._handlers: dict[str, Any] = {}

    # A handler is Any here: grpc declares RpcMethodHandler without the attributes that it has.
    def get(self, method: str, handler: Any) -> Any:
        """The wrapped form of `handler`; None (no such method) and infrastructure stay as is."""
        known = self._handlers.get(method)
        if known is not None:
            return known
        if handler is None or method.startswith(_INFRASTRUCTURE):
            return handler
        name, make = _KINDS[handler.request_streaming, handler.response_streaming]
        behavior = self._wrap(method, _coroutine(getattr(handler, name)))
        wrapped = make(behavior, handler.request_deserializer, handler.response_serializer)
        self._handlers[method] = wrapped
        return wrapped


def _coroutine(behavior: Callable[[Any, Context], Any]) -> Behavior:
    if inspect.iscoroutinefunction(behavior):
        return behavior
    if not inspect.isasyncgenfunction(behavior):
        # Handlers here are async, so this is the generated stub of a method that nobody built.
        return _unimplemented

    async def write_all(request: Any, context: Context) -> None:
        async with aclosing(behavior(request, context)) as messages:
            async for message in messages:
                await context.write(message)

    return write_all


async def _unimplemented(request: Any, context: Context) -> None:
    raise NotBuilt
