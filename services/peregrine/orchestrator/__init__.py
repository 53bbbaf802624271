"""The orchestrator: runs of agents.

A run is one turn of one agent. Its log (`peregrine.kit.eventlog`) is both what readers stream and
the journal that a take-over goes on from: there is no second record of what has happened. One
process owns a run at a time, under a lease with an epoch; what it appends under a lost epoch is
refused everywhere.

    service.py    what is asked: check, translate, call, translate
    runs.py       the runs this process owns: start, take over, cancel, drain
    live.py       one run at work here: its task, and how it leaves
    turn.py       one run from its message to its terminal event: model → tools → model
    toolcalls.py  the tool calls of one step, eager where they may be
    facts.py      what does not change while a run lives
    speech.py     what the model says: deltas for readers, blocks for the journal
    journal.py    the pen of a run: events in order, durable where they must be
    replay.py     a log folded into where the run stands (pure)
    plan.py       what an agent's definition comes to for one run (pure)
    prompt.py     what the model is asked (pure)
    waterfall.py  where the time went (pure)
    store.py      PostgreSQL: agents and runs
    upstream.py   gRPC: memory, llm-gateway, tools
"""
