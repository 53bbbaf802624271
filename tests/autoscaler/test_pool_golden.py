"""Recorded streams are decided as they were: a change of the control law is seen and meant."""

import pytest

from tests.autoscaler import golden


@pytest.mark.parametrize("name", sorted(golden.STREAMS))
def test_a_recorded_stream_is_decided_as_it_was(name: str) -> None:
    looks = list(golden.replay(name))
    assert len(looks) > 100
    for now, recorded, decided in looks:
        assert decided == recorded, f"{name} at {now:.0f} s"


def test_the_streams_show_what_they_are_for() -> None:
    burst = [recorded for _, recorded, _ in golden.replay("burst")]
    assert {"Panic", "Lowered"} <= {look["reason"] for look in burst}
    outages = [recorded for _, recorded, _ in golden.replay("outages")]
    assert {"nonfinite", "error"} <= {look["hold"] for look in outages}
    assert not any(look["write"] for look in outages[: 330 // 5])
