"""Request ids: a change that is asked for twice is made once, and answered alike for 24 hours.

A component that keeps them has a table `<component>.requests`. The id is looked up and claimed in
the transaction of the change itself, so either both are there or neither. What is kept of an answer
is one number: a version, a place in a feed.
"""

import hashlib

from google.protobuf.message import Message

from peregrine.kit.errors import AlreadyExists
from peregrine.kit.postgres import Connection


def digest(request: Message, *, user: str = "") -> bytes:
    """What tells two requests apart; `user`: whose it is, where ids are not the whole tenant's."""
    found = hashlib.blake2b(f"{type(request).__name__}/{user}".encode(), digest_size=16)
    found.update(request.SerializeToString(deterministic=True))
    return found.digest()


class Requests:
    """Of the component whose schema holds the table. An empty id is nobody's."""

    def __init__(self, component: str) -> None:
        table = f"{component}.requests"  # a name of our own
        self._found = (
            f"{component}_request",
            (
                f"SELECT digest, outcome FROM {table}"  # noqa: S608
                " WHERE tenant = $1 AND request_id = $2"
                " AND create_time >= now() - interval '24 hours'"
            ),
        )
        self._claimed = (
            f"{component}_claim",
            (
                f"INSERT INTO {table} (tenant, request_id, digest, outcome) VALUES ($1, $2, $3, $4)"  # noqa: S608
                " ON CONFLICT (tenant, request_id) DO UPDATE"
                " SET digest = EXCLUDED.digest, outcome = EXCLUDED.outcome, create_time = now()"
            ),
        )

    async def answered(
        self, conn: Connection, tenant: str, request_id: str, digest: bytes
    ) -> int | None:
        """The outcome of the same request, when it was answered before.

        Raises:
          AlreadyExists: REQUEST_ID_REUSED, when the id came with another request.
        """
        if not request_id:
            return None
        row = await conn.fetchrow(*self._found, tenant, request_id)
        if row is None:
            return None
        if row["digest"] != digest:
            raise AlreadyExists(
                "the request id was used for another request", reason="REQUEST_ID_REUSED"
            )
        outcome: int = row["outcome"]
        return outcome

    async def claim(
        self, conn: Connection, tenant: str, request_id: str, digest: bytes, outcome: int
    ) -> None:
        if request_id:
            await conn.execute(*self._claimed, tenant, request_id, digest, outcome)
