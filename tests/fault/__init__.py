"""What must hold while processes die, freeze and come back.

`make test` runs a short, seeded slice; `make fault` sets PEREGRINE_FAULT_ROUNDS and runs it long.
Each test collects a history (what every reader saw, what the stores hold, what the tools did) and
gives it to the checker in `history`, which is tested itself on histories with planted bugs.
"""
