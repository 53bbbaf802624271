"""A process that owns one log and appends to it, printing one line per event; killed by its test.

python -m tests.component.eventlog.owner_process DSN REDIS_URL LOG_ID visible|sent LEASE_SECONDS
"""

import asyncio
import sys
from uuid import UUID

from peregrine.kit import redis, telemetry
from peregrine.kit.errors import PeregrineError
from peregrine.kit.eventlog import EventLog
from peregrine.kit.postgres import Database


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


async def main(dsn: str, redis_url: str, log_id: UUID, reached: str, lease: float) -> None:
    telemetry.configure_logging("victim", "error")
    db = await Database.connect(dsn, size=4)
    client = redis.connect(redis_url)
    log = EventLog(owner="victim", db=db, redis=client, lease_seconds=lease, renew_seconds=0.2)
    await log.start()
    writer = await log.create(tenant="acme", log_id=log_id)
    try:
        while True:
            # Several in flight at once, so that a kill or freeze finds some everywhere.
            for _ in range(3):
                sequence = writer.append(b"victim %d" % writer.next_sequence)
            await (writer.sent(sequence) if reached == "sent" else writer.visible(sequence))
            say(reached, sequence)
    except PeregrineError as error:
        say("refused", error.reason)
    await asyncio.Event().wait()


asyncio.run(main(sys.argv[1], sys.argv[2], UUID(sys.argv[3]), sys.argv[4], float(sys.argv[5])))
