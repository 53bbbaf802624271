"""A call of a tool and how it ended, as everything inside a worker speaks of them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """`arguments` is JSON as it came. `timeout` (seconds) only shortens the tool's own."""

    tool: str
    call_id: str = ""
    arguments: bytes = b""
    priority: int = 0
    timeout: float | None = None
    idempotency_key: str = ""
    agent_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a call ended. `reason` is empty when it succeeded; then `text` is the result.

    `in_doubt`: a change that may have happened or not. `retry_after`: seconds until it is worth
    trying again, where that is known. `cache_tier`: where a kept result was found, "near", "redis"
    or "postgres"; then `execution_seconds` is the time of the execution it is from, `age` seconds
    ago. `replayed`: the first outcome of a change that was asked for again.
    """

    call: Call
    text: str
    data: bytes = b""
    reason: str = ""
    in_doubt: bool = False
    retry_after: float | None = None
    queue_seconds: float = 0.0
    execution_seconds: float = 0.0
    cache_tier: str = ""
    age: float = 0.0
    stale: bool = False
    replayed: bool = False
