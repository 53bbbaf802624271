"""The operator: makes what custom resources say true, and keeps it true.

    kopf's watches ─┐                         ┌─▶ gRPC: agents, tools
    list every 30 s ┴▶ view ─▶ work ─▶ decide ┴─▶ status, finalizers, Events

Watches are hints. What counts is the view of all resources, which a full list corrects every 30
seconds; whatever changes there, one task at a time looks at each resource that may be concerned,
asks a pure function what is to be done, does it, and writes down how it went. Nothing depends on an
event being seen, so a lost watch, a restart or a second operator change nothing but how fast things
go.
"""
