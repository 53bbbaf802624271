"""The components that keep tables in PostgreSQL, in the order in which they are migrated.

Each is a name, recorded in `peregrine_migrations`, and the package that holds its `NNNN_name.sql`.
"""

COMPONENTS: tuple[tuple[str, str], ...] = (
    ("eventlog", "peregrine.kit.eventlog.migrations"),
    ("orchestrator", "peregrine.orchestrator.migrations"),
    ("memory", "peregrine.memory.migrations"),
    ("tools", "peregrine.tools.migrations"),
    ("cache", "peregrine.cache.migrations"),
)
