"""The tool `current_time`.

Time zones come from the system's database, or from the `tzdata` package where a slim image has no
such database; UTC needs neither.
"""

import asyncio
import zoneinfo
from collections.abc import Callable
from datetime import UTC, datetime, tzinfo

from peregrine.tools.definition import (
    Arguments,
    ChangeClass,
    Definition,
    Effect,
    Output,
    Scope,
    ToolContext,
    ToolFailure,
    tool,
)

_UTC_NAMES = frozenset({"", "utc", "z", "gmt", "zulu", "etc/utc"})
# A name that is a directory, or no file name at all, comes out as one of these.
_NO_ZONE = (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError)


def current_time(now: Callable[[], datetime]) -> Definition:
    """The tool, on the clock `now` (which gives aware datetimes)."""

    @tool(
        name="current_time",
        description=(
            "Tells the date and the time now. Use it whenever the answer depends on today's date "
            "or the present time; you do not know them otherwise."
        ),
        parameters={
            "timezone": {
                "type": "string",
                "description": "IANA name such as Europe/Berlin or America/New_York; default UTC",
                "maxLength": 64,
            }
        },
        required=(),
        effect=Effect.READ,
        change=ChangeClass.NEVER,
        scope=Scope.TENANT,
        timeout=5.0,
    )
    async def tell(arguments: Arguments, context: ToolContext) -> Output:
        name, zone = await _zone(arguments.get("timezone", "").strip())
        moment = now().astimezone(zone).replace(microsecond=0)
        offset = moment.strftime("%z")
        data = {
            "time": moment.isoformat(),
            "timezone": name,
            "utc_offset": f"{offset[:3]}:{offset[3:5]}",
            "weekday": f"{moment:%A}",
            "unix_seconds": int(moment.timestamp()),
        }
        return Output(
            f"{moment:%A}, {moment:%Y-%m-%d %H:%M:%S} {name} (UTC{data['utc_offset']})", data
        )

    return tell


async def _zone(name: str) -> tuple[str, tzinfo]:
    if name.lower() in _UTC_NAMES:
        return "UTC", UTC
    try:
        return name, zoneinfo.ZoneInfo(name)
    except _NO_ZONE:
        pass
    # Reading the names of all zones touches hundreds of files.
    known = await asyncio.to_thread(zoneinfo.available_timezones)
    wanted = name.lower().replace(" ", "_")
    for each in known:
        if each.lower() == wanted or each.lower().endswith(f"/{wanted}"):
            return each, zoneinfo.ZoneInfo(each)
    if not known:
        raise ToolFailure(
            "This system has no time zone database, so only UTC is known.",
            reason="TIMEZONE_DATA_MISSING",
        )
    raise ToolFailure(
        f"{name!r} is not a time zone. Use an IANA name such as Europe/Berlin, or UTC.",
        reason="TIMEZONE_UNKNOWN",
    )
