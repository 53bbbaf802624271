"""`peregrine migrate`: brings the tables of every component up to date, and says so.

It is safe to run at any time and from several places: migrations run under one advisory lock, and
what is applied is not applied again.
"""

import asyncio
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from peregrine.kit import postgres, settings, telemetry
from peregrine.kit.errors import PeregrineError
from peregrine.kit.starting import patiently
from peregrine.local.migrations import COMPONENTS


@dataclass(frozen=True, kw_only=True)
class Settings(settings.PostgresSettings):
    start_wait_seconds: float = settings.start_wait()


def run(environ: Mapping[str, str]) -> int:
    """0: up to date; 1: the database refused or is away; 2: settings are wrong."""
    try:
        loaded = settings.load(Settings, environ)
    except settings.SettingsError as problem:
        sys.stderr.write(f"{problem}\n")
        return 2
    telemetry.configure_logging("migrate")
    try:
        applied = asyncio.run(_migrate(loaded))
    except PeregrineError as problem:
        sys.stderr.write(f"The tables could not be migrated: {problem}\n")
        return 1
    sys.stdout.write("".join(f"applied {migration}\n" for migration in applied))
    sys.stdout.write("The tables are up to date\n")
    return 0


async def _migrate(loaded: Settings) -> list[str]:
    return await patiently(
        lambda: postgres.migrate(loaded.postgres_dsn, COMPONENTS),
        seconds=loaded.start_wait_seconds,
    )
