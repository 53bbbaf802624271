"""What every service shares, and no domain words: settings, errors, the call's context, serving,
channels, telemetry, PostgreSQL, Redis and the event log.

The kit knows nothing of agents, models or tools; a service imports the kit, never the reverse.
"""
