"""Wait for a condition, with a bound, instead of sleeping.

await eventually(lambda: proxy.connections == 2)
row = await eventually(find_row, timeout=5)
"""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def eventually(
    condition: Callable[[], T | Awaitable[T]],
    *,
    timeout: float = 10.0,
    interval: float = 0.01,
    what: str = "",
) -> T:
    """Call `condition` (sync or async) until its result is truthy, and return that result.

    An `AssertionError` it raises counts as "not yet", so a condition may consist of asserts and
    return True. After `timeout` seconds raises `AssertionError` with the last result or assertion.
    """
    give_up = time.monotonic() + timeout
    while True:
        failed: AssertionError | None = None
        last: object = None
        try:
            result = condition()
            value: T = await result if inspect.isawaitable(result) else result
            if value:
                return value
            last = value
        except AssertionError as problem:
            failed = problem
        if time.monotonic() >= give_up:
            name = what or getattr(condition, "__name__", repr(condition))
            raise AssertionError(
                f"not within {timeout:g} s: {name}; last: {failed or last!r}"
            ) from failed
        await asyncio.sleep(interval)
