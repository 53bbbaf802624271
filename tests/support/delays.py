"""Work that takes its time on purpose: the time is part of what is tested, nobody waits it out."""

import asyncio


async def take(seconds: float) -> None:
    await asyncio.sleep(seconds)
