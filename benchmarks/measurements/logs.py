"""The event log alone, in this process, on the real stores: how much it takes, and how soon what
was appended can be read. A bare Redis round trip is the measure."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator

from benchmarks.lab import Lab
from benchmarks.rows import Row, median, spread
from peregrine.kit import redis
from peregrine.kit.eventlog import EventLog, Writer
from peregrine.kit.postgres import Database

_TENANT = "bench"
_WRITERS = 255
_APPENDS = 40
_PAYLOAD = b"x" * 120
_SINGLE = 300


async def logs(lab: Lab) -> AsyncIterator[Row]:
    stores = await lab.stores()
    client = redis.connect(stores.redis_url)
    try:
        async with (
            await Database.connect(stores.postgres_dsn) as database,
            EventLog(owner="bench", db=database, redis=client) as event_log,
        ):
            writers = await _create(event_log, _WRITERS)
            begun = time.monotonic()
            async with asyncio.TaskGroup() as group:
                for writer in writers:
                    group.create_task(_write(writer))
            rate = _WRITERS * _APPENDS / (time.monotonic() - begun)
            yield Row(
                name=f"log: {_WRITERS} writers that wait for each append, visible",
                value=rate,
                unit="appends/s",
            )
            for writer in writers:
                await writer.finish(_PAYLOAD)
            single = (await _create(event_log, 1))[0]
            trips, visible = [], []
            for _ in range(_SINGLE):
                begun = time.perf_counter()
                await client.ping()
                trips.append(time.perf_counter() - begun)
                begun = time.perf_counter()
                await single.visible(single.append(_PAYLOAD))
                visible.append(time.perf_counter() - begun)
            await single.finish(_PAYLOAD)
            yield Row(
                name="log: append until visible, one writer, p50",
                value=median(visible) / median(trips),
                unit="Redis round trips",
                detail={
                    "redis_ms": spread([each * 1e3 for each in trips]),
                    "visible_ms": spread([each * 1e3 for each in visible]),
                },
            )
    finally:
        await redis.close(client)


async def _create(event_log: EventLog, count: int) -> list[Writer]:
    return [await event_log.create(tenant=_TENANT, log_id=uuid.uuid4()) for _ in range(count)]


async def _write(writer: Writer) -> None:
    for _ in range(_APPENDS):
        await writer.visible(writer.append(_PAYLOAD))
