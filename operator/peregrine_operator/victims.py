"""Which workers go when a pool shrinks, and how the ReplicaSet is told.

A ReplicaSet deletes pods that are not ready first, then those of the lowest deletion cost, then the
newest. Victims are chosen by what the workers themselves say runs on them at this moment, and get a
cost below all others; workers at work get one above. It is a hint, and others may write it too (the
annotation is best effort by its definition), so every worker drains safely whether it was chosen or
not. Only costs that change are written, and only just before the scale is. A second annotation says
which costs are ours, so that those of the survivors are taken away again (a cost that has grown
stale would choose the next victim) and what others wrote stays.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

ANNOTATION = "controller.kubernetes.io/pod-deletion-cost"
OURS = "peregrine.dev/pod-deletion-cost"
"""The cost that we wrote; where it differs from the other, somebody else wrote since."""
STALE_AFTER = 120.0
"""Seconds after the last scale-in; while a pool shrinks step by step, each step says anew."""
VICTIM = -1000
_BUSY = 10
_MOST = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A pod of the pool that is not terminating."""

    name: str
    ready: bool
    started: float
    """Unix seconds."""
    inflight: int | None
    """Executions, asked of the worker itself; None: it did not answer."""
    cost: int = 0
    """What the annotation says now."""


def annotations(cost: int | None) -> dict[str, str | None]:
    """What says this cost on a pod, or takes it away."""
    text = None if cost is None else str(cost)
    return {ANNOTATION: text, OURS: text}


def choose(workers: Iterable[Worker], count: int) -> list[Worker]:
    """`count` workers to lose: not ready, then least at work, then newest.

    A worker that did not answer counts as the busiest: nobody knows what it does.
    """
    ordered = sorted(
        workers,
        key=lambda worker: (
            worker.ready,
            float("inf") if worker.inflight is None else worker.inflight,
            -worker.started,
            worker.name,
        ),
    )
    return ordered[: max(count, 0)]


def costs(workers: Sequence[Worker], victims: Iterable[Worker], *, now: float) -> Mapping[str, int]:
    """The costs to write, by pod, victims first; what stands there already is not written again."""
    chosen = {victim.name for victim in victims}
    wanted: dict[str, int] = {}
    for worker in workers:
        if worker.name in chosen:
            cost = VICTIM
        elif worker.inflight != 0:
            cost = min(_BUSY + max(int(now - worker.started), 0), _MOST)
        else:
            cost = 0
        # The cost of a busy worker grows with its age; that it is busy is all that matters.
        if cost != worker.cost and not (cost > 0 and worker.cost > 0):
            wanted[worker.name] = cost
    return dict(sorted(wanted.items(), key=lambda item: item[1]))
