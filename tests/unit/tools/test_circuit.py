"""The circuit of a tool: when it opens, whom it lets through, when it closes."""

from peregrine.tools.circuit import Circuit


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def made() -> tuple[Circuit, Clock]:
    clock = Clock()
    return Circuit(clock), clock


def opened() -> tuple[Circuit, Clock]:
    circuit, clock = made()
    for _ in range(5):
        circuit.failed(timeout=True)
    assert circuit.open
    return circuit, clock


def test_half_of_twenty_failures_open_it() -> None:
    circuit, _ = made()
    for _ in range(10):
        circuit.succeeded()
        circuit.failed(timeout=False)
    assert circuit.open


def test_fewer_than_twenty_or_less_than_half_do_not() -> None:
    circuit, _ = made()
    for _ in range(19):
        circuit.failed(timeout=False)
    assert not circuit.open
    circuit, _ = made()
    for _ in range(50):
        circuit.succeeded()
        circuit.succeeded()
        circuit.failed(timeout=False)
    assert not circuit.open


def test_what_is_older_than_ten_seconds_does_not_count() -> None:
    circuit, clock = made()
    for _ in range(19):
        circuit.failed(timeout=False)
    clock.now += 11
    circuit.failed(timeout=False)
    assert not circuit.open


def test_five_timeouts_in_a_row_open_it() -> None:
    circuit, _ = made()
    for _ in range(4):
        circuit.failed(timeout=True)
    circuit.succeeded()
    for _ in range(4):
        circuit.failed(timeout=True)
    assert not circuit.open
    circuit.failed(timeout=True)
    assert circuit.open


def test_one_call_is_let_through_after_five_seconds() -> None:
    circuit, clock = opened()
    assert 4 <= circuit.refused_for() <= 6
    clock.now += 6.1
    assert circuit.refused_for() == 0
    assert circuit.refused_for() > 0, "one at a time"


def test_it_closes_when_that_call_succeeds_and_stays_open_when_it_fails() -> None:
    circuit, clock = opened()
    clock.now += 6.1
    assert circuit.refused_for() == 0
    circuit.failed(timeout=False)
    assert circuit.refused_for() > 0
    clock.now += 6.1
    assert circuit.refused_for() == 0
    circuit.succeeded()
    assert not circuit.open and circuit.refused_for() == 0


def test_a_probe_that_came_to_nothing_lets_the_next_one_through() -> None:
    circuit, clock = opened()
    clock.now += 6.1
    assert circuit.refused_for() == 0
    circuit.dropped()
    assert circuit.refused_for() == 0
