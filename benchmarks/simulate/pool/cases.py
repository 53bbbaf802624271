"""What is played: each scenario with those who size the pool in it, for one seed."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from benchmarks.simulate.pool import figures, hpa, workload, world
from benchmarks.simulate.pool.contestants import AGGRESSIVE, Hpa, Oracle, Peregrine
from benchmarks.simulate.pool.figures import Figures
from benchmarks.simulate.pool.prometheus import Fault, Kind
from benchmarks.simulate.pool.workload import STEP_AT, STEP_END, Trace
from benchmarks.simulate.pool.world import CONCURRENCY, Contestant, Scenario
from peregrine_operator import sizing

WARM_UP = 600.0
BALANCED, LATENCY = "Peregrine balanced", "Peregrine latency"
LOAD_70, LOAD_80 = "HPA load 70 %", "HPA load 80 %"
TUNED = "HPA load 80 %, +900 %/15 s"
RATE_TUNED = "HPA rate 80 %, +900 %/15 s"
BUSY_70, RATE_70 = "HPA busy 70 %", "HPA rate 70 %"
KEDA, ORACLE = "KEDA, null is 0", "oracle"

# The moment at which somebody looks first is no property of the load: who is compared by late
# calls is played with several, spread over their period, and the mean counts.
PHASES = 5

FAULT_AT, FAULT_END = 300.0, 2100.0
"""Half an hour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One scenario and seed. `full`: with those who are only shown in tables."""

    scenario: str
    seed: int
    full: bool = False
    plot: bool = False


Played = dict[str, list[Figures]]
"""By contestant, one for each phase."""


def need(rate: float, service: float = workload.MEAN_SERVICE) -> int:
    return sizing.replicas(rate * service, concurrency=CONCURRENCY)


def contestant(name: str, phase: int = 0, trace: Trace = workload.STEP) -> Contestant:
    made: Contestant
    match name:
        case "Peregrine balanced":
            made = Peregrine("balanced")
        case "Peregrine latency":
            made = Peregrine("latency")
        case "oracle":
            made = Oracle(trace)
        case "KEDA, null is 0":
            made = Hpa(name=name, metric="load", utilisation=0.7, null_is_zero=True)
        case _:
            kind, percent = name.split()[1:3]
            made = Hpa(
                name=name,
                metric=kind,  # type: ignore[arg-type]  # the names are written above
                utilisation=int(percent) / 100,
                behavior=AGGRESSIVE if "+900" in name else hpa.DEFAULT,
            )
    made.offset = made.period * phase / PHASES
    return made


def play(case: Case) -> Played:
    return SCENARIOS[case.scenario](case)


def _play(
    case: Case,
    scenario: Scenario,
    names: Iterable[str],
    read: Callable[[world.Record], Figures],
    phases: int = 1,
) -> Played:
    calls = workload.draw(scenario.trace, case.seed)
    return {
        name: [
            read(world.run(scenario, contestant(name, phase, scenario.trace), case.seed, calls))
            for phase in range(1 if name == ORACLE else phases)
        ]
        for name in names
    }


def _step(case: Case) -> Played:
    scenario = Scenario(name="step", trace=workload.STEP, start=need(16))
    found = _play(
        case,
        scenario,
        (BALANCED, LATENCY, LOAD_70, TUNED),
        lambda record: figures.figures(
            record,
            window=(STEP_AT, STEP_END),
            step=(STEP_AT, STEP_END, need(160)),
            plot=case.plot,
        ),
        phases=PHASES,
    )
    if case.full:
        found |= _play(
            case,
            scenario,
            (LOAD_80, BUSY_70, RATE_70, RATE_TUNED, ORACLE),
            lambda record: figures.figures(
                record,
                window=(STEP_AT, STEP_END),
                step=(STEP_AT, STEP_END, need(160)),
                plot=case.plot,
            ),
        )
    return found


def _steady(trace: Trace, start: int, names: tuple[str, ...]) -> Callable[[Case], Played]:
    def play_it(case: Case) -> Played:
        shown = (LOAD_70, BUSY_70, RATE_70, ORACLE) if case.full else ()
        return _play(
            case,
            Scenario(name=trace.name, trace=trace, start=start),
            (*names, *(name for name in (LATENCY,) if case.full and name not in names), *shown),
            lambda record: figures.figures(
                record,
                window=(WARM_UP, trace.seconds),
                counted=(WARM_UP, trace.seconds),
                plot=case.plot,
            ),
        )

    return play_it


def _bad_data(kind: Kind, part: float, *others: str) -> Callable[[Case], Played]:
    def play_it(case: Case) -> Played:
        fault = Fault(kind=kind, start=FAULT_AT, end=FAULT_END, part=part)
        # Four more than needed tempt it to lower; it may when data has been good for a minute.
        return _play(
            case,
            Scenario(name="busy", trace=workload.BUSY, start=need(160) + 4, faults=(fault,)),
            (BALANCED, *(others if case.full else ())),
            lambda record: figures.figures(
                record, window=(FAULT_AT, fault.over + 60.0), plot=case.plot
            ),
        )

    return play_it


_HOUR = 3600.0


def _odd(scenario: Scenario) -> Callable[[Case], Played]:
    """Shown, not judged: what nobody promised."""

    def play_it(case: Case) -> Played:
        return _play(
            case,
            scenario,
            (BALANCED, LATENCY, TUNED),
            lambda record: figures.figures(
                record, window=(WARM_UP, scenario.trace.seconds), plot=case.plot
            ),
        )

    return play_it


def _level(name: str, rate: float = 100.0, seconds: float = _HOUR / 2, **how: object) -> Scenario:
    trace = Trace(name=name, seconds=seconds, rate=lambda _: rate)
    return Scenario(name=name, trace=trace, start=need(rate), **how)  # type: ignore[arg-type]


def _shaped(name: str, rate: workload.Rate, start: float) -> Scenario:
    trace = Trace(name=name, seconds=_HOUR / 2, rate=rate)
    return Scenario(name=name, trace=trace, start=need(start))


def _slower(name: str) -> Scenario:
    scenario = _level(name, rate=40.0)
    service = lambda now: workload.MEAN_SERVICE * (4.0 if now >= 900 else 1.0)  # noqa: E731
    return replace(scenario, trace=replace(scenario.trace, service=service))


ODD = {
    "half of the workers crash": _level("half of the workers crash", crashes=((900.0, 0.5),)),
    "3 of 10 workers five times slower": _level("3 of 10 workers five times slower", slow=0.3),
    "2 slots a worker, 4 declared": _level("2 slots a worker, 4 declared", slots=2),
    "calls take four times as long": _slower("calls take four times as long"),
    "heavy tail (Pareto 1.5)": replace(
        _level("heavy tail (Pareto 1.5)"),
        trace=Trace(name="heavy tail", seconds=_HOUR / 2, rate=lambda _: 100.0, tail=1.5),
    ),
    "a spike of a minute": _shaped(
        "a spike of a minute", lambda now: 200.0 if 900 <= now < 960 else 40.0, 40.0
    ),
    "a slow rise": _shaped("a slow rise", lambda now: 20.0 + now / 10, 20.0),
    "no caller counts its calls": replace(
        _shaped("no caller counts", lambda now: 160.0 if now >= 900 else 16.0, 16.0), callers=0
    ),
    "nodes for 20 pods only": _level("nodes for 20 pods only", rate=160.0, capacity=20),
}

BAD_DATA: dict[str, tuple[Kind, float, tuple[str, ...]]] = {
    "Prometheus down": ("down", 1.0, (LOAD_70,)),
    "Prometheus empty": ("empty", 1.0, (KEDA,)),
    "Prometheus stale": ("stale", 1.0, (LOAD_70,)),
    "NaN": ("nan", 1.0, (KEDA,)),
    "Prometheus flapping": ("flapping", 1.0, (LOAD_70, KEDA)),
    "60 % of targets missing": ("missing", 0.6, (LOAD_70, BUSY_70)),
    "30 % of targets missing": ("missing", 0.3, (LOAD_70, BUSY_70)),
}

SCENARIOS: dict[str, Callable[[Case], Played]] = {
    "step": _step,
    "constant": _steady(workload.CONSTANT, need(100), (BALANCED, LATENCY)),
    "square": _steady(workload.SQUARE, need(40), (BALANCED,)),
    "sine": _steady(workload.SINE, need(20), (BALANCED,)),
    **{name: _bad_data(kind, part, *others) for name, (kind, part, others) in BAD_DATA.items()},
    **{name: _odd(scenario) for name, scenario in ODD.items()},
}
