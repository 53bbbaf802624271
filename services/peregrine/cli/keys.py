"""API keys: made, listed, revoked."""

import datetime
import re

import typer
from google.protobuf.timestamp_pb2 import Timestamp
from rich.text import Text

from peregrine.api.identity.v1 import identity_pb2 as pb
from peregrine.cli import session
from peregrine.cli.tables import Column, ago, one_line, show
from peregrine.cli.words import printable
from peregrine.client import jsonl

_SPAN = re.compile(r"([1-9][0-9]{0,5})([mhdw])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


async def create(
    name: str, *, scopes: list[str], tenant: str, user: str, expires: str, as_json: bool
) -> int:
    expire_time = _moment(expires) if expires else None
    async with session.identities() as client:
        made = await client.create_api_key(
            name, scopes=scopes, for_tenant=tenant, for_user=user, expire_time=expire_time
        )
    if as_json:
        typer.echo(jsonl.line(made))
        return 0
    key = made.key
    # Alone on standard output, so that it can go straight into a file or a variable.
    typer.echo(made.credential)
    said = f"key/{key.key_id} of {key.for_tenant}/{key.for_user}, {', '.join(key.scopes)}"
    said += f", {_state(key)}: kept nowhere, so put it away now"
    typer.secho(said, dim=True, err=True)
    return 0


async def list_all(*, as_json: bool, limit: int, tenant: str) -> int:
    async with session.identities() as client:
        keys = [key async for key in client.list_api_keys(for_tenant=tenant, limit=limit)]
    if as_json:
        for key in keys:
            typer.echo(jsonl.line(key))
        return 0
    columns = (
        Column("KEY"),
        Column("USER", rank=2),
        Column("SCOPES", rank=1),
        Column("STATE", rank=1),
        Column("USED", rank=3, right=True),
        Column("AGE", rank=3, right=True),
        Column("NAME"),
    )
    rows = [
        (
            key.key_id,
            key.for_user,
            ",".join(key.scopes),
            _state(key),
            ago(key.last_used_time) if key.HasField("last_used_time") else "never",
            ago(key.create_time),
            one_line(printable(key.name), 4096),
        )
        for key in keys
    ]
    show(session.console(), columns, rows, empty="no keys; make one: peregrine keys create NAME")
    return 0


async def revoke(key_id: str, *, tenant: str, as_json: bool) -> int:
    async with session.identities() as client:
        key = await client.revoke_api_key(key_id, for_tenant=tenant)
    if as_json:
        typer.echo(jsonl.line(key))
    else:
        session.console().print(Text(f"key/{key.key_id} revoked"))
    return 0


def _state(key: pb.ApiKey) -> str:
    now = datetime.datetime.now(datetime.UTC)
    if key.HasField("revoke_time"):
        return "revoked"
    if not key.HasField("expire_time"):
        return "does not expire"
    ends = _datetime(key.expire_time)
    return "expired" if ends <= now else f"until {ends:%Y-%m-%d %H:%M} UTC"


def _datetime(time: Timestamp) -> datetime.datetime:
    return time.ToDatetime(datetime.UTC)


def _moment(text: str) -> datetime.datetime:
    """When `90d` or an ISO date is."""
    if span := _SPAN.fullmatch(text):
        try:
            length = datetime.timedelta(**{_UNITS[span[2]]: int(span[1])})
            return datetime.datetime.now(datetime.UTC) + length
        except OverflowError:
            session.fail("--expires: that is too far away", session.USAGE)
    try:
        found = datetime.datetime.fromisoformat(text)
    except ValueError:
        session.fail("--expires: 90d, 12h, 30m or an ISO date is expected", session.USAGE)
    return found if found.tzinfo is not None else found.replace(tzinfo=datetime.UTC)
