"""Durable append-only logs of bytes, each with one leased owner."""

from peregrine.kit.eventlog.entry import Entry
from peregrine.kit.eventlog.failures import Fenced, LogCompacted, LogFinished, LogNotFound
from peregrine.kit.eventlog.log import Claim, EventLog, Recovered
from peregrine.kit.eventlog.writer import Writer

__all__ = [
    "Claim",
    "Entry",
    "EventLog",
    "Fenced",
    "LogCompacted",
    "LogFinished",
    "LogNotFound",
    "Recovered",
    "Writer",
]
