"""What fails where nobody waits for it, counted.

A task in the background has no caller to tell. At its top it logs what failed and goes on, or ends;
and it counts that here, so that somebody can be woken when it goes on failing.
"""

from prometheus_client import CollectorRegistry, Counter


class Failures:
    """Made once in a process, by whoever wires it."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._total = Counter(
            "peregrine_background_failures_total",
            "Failures of work in the background, for which no call waited; by task",
            ["task"],
            registry=registry,
        )

    def of(self, task: str) -> Counter:
        """The counter of one task, at 0 from now on."""
        return self._total.labels(task)
