"""Durable append-only logs of bytes, each with one leased owner.

A log is (tenant, log_id) and has entries at positions 1, 2, 3 … through exactly one terminal entry.
One process owns it at a time, under an epoch that grows by one with every change of owner. Entries
live in two stores:

    PostgreSQL (`store`)  the truth: fenced batches within 50 ms; a finished log folded in one row
    Redis (`tail`)        the live end: the newest entries, published to followers as they come

An entry is **visible** (readers may have it) once either store has it, and **durable** once
PostgreSQL has it. The owner (`writer`) keeps what is not durable, so it can fill either store anew.

Why it holds
------------
*One writer at a time.* Taking a log over raises its epoch in PostgreSQL first; every durable write
checks epoch and position under the row's lock, so it comes wholly before the take-over, and is
part of what the new owner finds, or matches nothing. The new owner then raises the epoch in the
tail's head in the same script that reads the tail; an append of the old owner came before, and is
adopted, or is refused. Only then does the new owner write. (finish against take-over is the same
row lock.)

*Nothing visible is lost while one store lives.* Visible means in the tail, adopted by a new owner,
or durable. What was in flight when the owner died is in neither, and nobody has seen it.

*A lost reply changes nothing.* Under one epoch a position has one content: an append that is
repeated skips what is there, a batch or a finish that matches nothing looks whether it had been
committed. A delayed script on a broken connection is an old epoch (fenced), a repetition (skipped)
or an open with an old serial (refused).

*Redis lost its state* (empty, or back from an older file). The append script is loaded under a
name that only this process and this run of the server know, so nothing is appended there
(NOSCRIPT) until PostgreSQL has confirmed the epochs; then each log is opened anew at its durable
position. A head that vanished alone or is behind is a gap: the same way. An owner that was frozen
cannot open without that confirmation, and cannot append without the head; so a zombie writes
nothing anywhere.

*Redis and the owner are lost together.* The head notes which run of the server it was written
under. If the new owner does not find it, or finds another run's, entries beyond PostgreSQL may
have been seen: `Recovered.truncated`, and the caller tells its readers. `logs.starts` keeps the
position at which every epoch began, so a reader that comes back with a void position is sent back
to it.

*Redis away.* Entries become visible when PostgreSQL has them, flushed every 30 ms; followers
elsewhere look there four times a second. *PostgreSQL away.* Entries go on through Redis, which
still fences; what is not durable is held for 60 s and 10 MB, then the writers fail, and whoever
takes over finds the entries in the tail. *Both away.* Nothing is visible, nothing is lost within
that bound.

*Cancelled awaits.* Writers never do I/O: they put entries where the tasks of the process find them
and await futures of their own. A finish or release runs in a task of the log, to its end.

*Readers* (`reader`) are cursors: position and epoch. They take the next entries from whatever
source can prove to continue them, so crossing from PostgreSQL to the tail to the live end, or
losing one of them, needs no coordination; a terminal entry that reached PostgreSQL only is found
by the hub's look, once a second for all followed logs.

`truncated` errs on the side of saying it: with Redis away at the take-over, or restarted since the
last open, it is set even if nothing was lost.
"""

from peregrine.kit.eventlog.entry import Entry
from peregrine.kit.eventlog.failures import Fenced, LogCompacted, LogFinished, LogNotFound
from peregrine.kit.eventlog.log import EventLog, Recovered
from peregrine.kit.eventlog.store import Also, Claim, Ready
from peregrine.kit.eventlog.writer import Writer

__all__ = [
    "Also",
    "Claim",
    "Entry",
    "EventLog",
    "Fenced",
    "LogCompacted",
    "LogFinished",
    "LogNotFound",
    "Ready",
    "Recovered",
    "Writer",
]
