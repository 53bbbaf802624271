"""Who goes when a pool shrinks: not ready, then idle, then newest; and only costs that change."""

from peregrine_operator import victims
from peregrine_operator.victims import VICTIM, Worker


def worker(name: str, *, ready: bool = True, inflight: int | None = 0, **more: float) -> Worker:
    return Worker(
        name=name,
        ready=ready,
        inflight=inflight,
        started=more.get("started", 0.0),
        cost=int(more.get("cost", 0)),
    )


def test_not_ready_goes_before_idle_before_busy_and_new_before_old() -> None:
    workers = [
        worker("busy", inflight=3),
        worker("old", started=1.0),
        worker("silent", inflight=None),
        worker("new", started=9.0),
        worker("starting", ready=False, inflight=None),
    ]
    order = [one.name for one in victims.choose(workers, 5)]
    assert order == ["starting", "new", "old", "busy", "silent"]


def test_the_order_in_which_pods_are_listed_is_irrelevant() -> None:
    workers = [worker(name) for name in "cab"]
    assert victims.choose(workers, 2) == victims.choose(workers[::-1], 2)


def test_nobody_goes_when_nobody_has_to() -> None:
    assert victims.choose([worker("a")], 0) == []
    assert victims.choose([worker("a")], -1) == []


def test_victims_cost_least_and_the_busy_cost_by_age() -> None:
    workers = [worker("a"), worker("b", inflight=2, started=40.0), worker("c", inflight=None)]
    chosen = victims.choose(workers, 1)
    assert victims.costs(workers, chosen, now=100.0) == {"a": VICTIM, "b": 70, "c": 110}


def test_costs_that_stand_are_not_written_again() -> None:
    workers = [
        worker("a", cost=VICTIM),
        worker("b", inflight=2, cost=15),
        worker("was busy", cost=15),
        worker("was chosen", inflight=1, cost=VICTIM),
    ]
    assert victims.costs(workers, [workers[0]], now=100.0) == {"was busy": 0, "was chosen": 110}
