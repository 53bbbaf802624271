"""What a call costs here, before Peregrine has done anything."""

from collections.abc import AsyncIterator

from benchmarks.lab import Lab
from benchmarks.rows import Row, median


async def echo(lab: Lab) -> AsyncIterator[Row]:
    bare = await lab.echo()
    for _ in range(7):
        await bare.sample()
    yield Row(
        name="bare gRPC echo, one at a time, p50",
        value=bare.p50 * 1e3,
        unit="ms",
        detail={"medians_ms": [each * 1e3 for each in bare.medians]},
    )
    silent = [await bare.after_silence() for _ in range(5)]
    yield Row(
        name="bare gRPC echo, each after 40 ms of silence, p50",
        value=median(silent) * 1e3,
        unit="ms",
        detail={"medians_ms": [each * 1e3 for each in silent]},
    )
    rates = [await bare.rate(concurrent=50, calls=1500) for _ in range(3)]
    yield Row(
        name="bare gRPC echo, 50 at a time",
        value=median(rates),
        unit="calls/s",
        detail={"rates": rates},
    )
