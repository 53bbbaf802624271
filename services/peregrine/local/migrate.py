"""`peregrine migrate`: brings the tables of every component up to date, and says so.

It is safe to run at any time and from several places: migrations run under one advisory lock, and
what is applied is not applied again.
"""

import asyncio
import sys
from collections.abc import Mapping

from peregrine.kit import postgres, settings
from peregrine.kit.errors import PeregrineError
from peregrine.local.migrations import COMPONENTS


def run(environ: Mapping[str, str]) -> int:
    """0: up to date; 1: the database refused or is away; 2: settings are wrong."""
    try:
        dsn = settings.load(settings.PostgresSettings, environ).postgres_dsn
    except settings.SettingsError as problem:
        sys.stderr.write(f"{problem}\n")
        return 2
    try:
        applied = asyncio.run(postgres.migrate(dsn, COMPONENTS))
    except PeregrineError as problem:
        sys.stderr.write(f"The tables could not be migrated: {problem}\n")
        return 1
    sys.stdout.write("".join(f"applied {migration}\n" for migration in applied))
    sys.stdout.write("The tables are up to date\n")
    return 0
