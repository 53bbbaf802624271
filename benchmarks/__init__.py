"""What `make bench` runs: every promised speed and size, measured on real parts, one row each.

The machine that a benchmark runs on is shared and of unknown speed, so figures that are promised
are ratios to what the same machine did in the same minute: a bare gRPC echo between two processes,
a bare Redis round trip. The parts are those of `make run`: every service is a process of its own,
PostgreSQL is durable, the simulator plays the model. From the client's time is taken off what the
model would have needed on an idle machine with no network (the simulator says how much) and what
the tools needed (they say so): the rest is Peregrine's own.

rows         what a row is, the table, the JSON
lab          what the measurements share, opened at first need
echo         the bare gRPC echo, server and client
stack        Peregrine as `make run` starts it, the simulator's scripts and records
measurements a module for each subject, listed in `__main__`
simulate     not measured but simulated: what `make simulate` runs
"""
