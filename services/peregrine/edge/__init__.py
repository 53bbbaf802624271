"""The web edge: Peregrine over HTTP, for browsers and everything else that speaks no gRPC.

The edge keeps nothing. A request becomes a call to the orchestrator or to memory; a run's events
become server-sent events whose ids are the positions of the run's log, so any edge continues what
another one began. `service` has the routes, `streaming` the event streams, `problems` the errors,
`border` what every request passes first, `connection` what happens to a reader that does not read.
"""
