"""What a worker executed since it started, by tool: counts, and times of the last executions."""

from collections import deque
from collections.abc import Collection

_KEPT = 512


class ToolStats:
    """Of one tool. Quantiles are of the last 512 executions, in seconds; 0 without any."""

    __slots__ = ("_execution", "_queue", "cache_hits", "calls", "errors")

    def __init__(self) -> None:
        self.calls = 0
        self.errors = 0
        self.cache_hits = 0
        self._execution: deque[float] = deque(maxlen=_KEPT)
        self._queue: deque[float] = deque(maxlen=_KEPT)

    def executed(self, *, queue_seconds: float, execution_seconds: float) -> None:
        self._queue.append(queue_seconds)
        self._execution.append(execution_seconds)

    def execution_quantile(self, share: float) -> float:
        return _quantile(self._execution, share)

    def queue_quantile(self, share: float) -> float:
        return _quantile(self._queue, share)


def _quantile(values: Collection[float], share: float) -> float:
    """The smallest value that `share` of all do not exceed (nearest rank)."""
    if not values:
        return 0.0
    ordered = sorted(values)
    rank = -(-len(ordered) * share // 1)
    return ordered[max(int(rank), 1) - 1]
