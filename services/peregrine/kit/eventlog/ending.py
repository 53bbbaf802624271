"""The last write of an owner: finish (the terminal entry) or release (somebody else goes on).

Both are one fenced transaction whose outcome must be known. When its reply is lost, the row tells:
a log that is finished under our epoch at our position was finished by us.
"""

import asyncio
import time

from peregrine.kit.errors import Unavailable
from peregrine.kit.eventlog.entry import Entry
from peregrine.kit.eventlog.failures import Fenced, unavailable
from peregrine.kit.eventlog.flusher import still_ours
from peregrine.kit.eventlog.store import Also, Ready, Store
from peregrine.kit.eventlog.writer import Writer

RETRY_SECONDS = 0.25
RELEASE_SECONDS = 5.0


async def finish(
    writer: Writer,
    entry: Entry,
    also: Also | None,
    ready: Ready | None,
    *,
    store: Store,
    patience: float,
) -> None:
    """See `Writer.finish`. Tries for `patience` seconds while PostgreSQL is away."""
    give_up = time.monotonic() + patience
    async with writer.own():
        while True:
            if writer.failure is not None:
                raise writer.failure
            try:
                if await store.finish(writer.write(entry), also, ready):
                    break
                standing = (await store.standing([writer.log_id])).get(writer.log_id)
            except Unavailable as error:
                if not error.reason.startswith("POSTGRES"):
                    writer.reopened()
                    raise
                if time.monotonic() > give_up:
                    # It may have been committed: nobody here may write another ending.
                    failure = unavailable(
                        "PostgreSQL was away while the log was finished", reason="LOG_NOT_STORED"
                    )
                    writer.fail(failure)
                    raise failure from error
                await asyncio.sleep(RETRY_SECONDS)
                continue
            except BaseException:
                writer.reopened()
                raise
            if (
                standing is not None
                and standing.finished
                and standing.epoch == writer.epoch
                and standing.durable == entry.sequence
            ):
                break
            if not still_ours(writer, standing):
                raise writer.fenced("another owner has it, at the finish")
        writer.made_final(entry)


async def release(writer: Writer, *, store: Store) -> None:
    """See `Writer.release`."""
    give_up = time.monotonic() + RELEASE_SECONDS
    async with writer.own():
        while True:
            if writer.failure is not None:
                raise writer.failure
            write = writer.write()
            try:
                if await store.release(write):
                    break
                standing = (await store.standing([writer.log_id])).get(writer.log_id)
            except Unavailable:
                if time.monotonic() > give_up:
                    writer.reopened()
                    raise
                await asyncio.sleep(RETRY_SECONDS)
                continue
            except BaseException:
                writer.reopened()
                raise
            if standing is not None and standing.epoch > writer.epoch:
                if standing.durable >= write.last:
                    break  # released by an attempt whose reply was lost, and claimed since
            if not still_ours(writer, standing):
                raise writer.fenced("another owner has it, at the release")
        writer.made_durable(write.last)
        writer.fail(Fenced(writer.log_id, writer.epoch, "released"), quiet=True)
