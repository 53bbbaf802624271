"""What a repeated call of a WRITE is told: the ledger's entries as outcomes of calls.

An outcome is recorded when it is one: a success, or a failure of which the tool said that it is
final, or that nobody knows what happened. Where nothing was done, or the tool may be run again and
failed in passing, the key is free again.
"""

import asyncio
import json
import time
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import structlog

from peregrine.api.tools.v1 import tools_pb2
from peregrine.kit.context import Identity
from peregrine.kit.errors import PeregrineError
from peregrine.tools import contract
from peregrine.tools.calls import Call, Outcome
from peregrine.tools.definition import Definition
from peregrine.tools.execution import Failed
from peregrine.tools.ledger import Effect, Found, Ledger
from peregrine.tools.output import Shown

_FIRST_LOOK, _LAST_LOOK = 0.02, 0.25
_MOST_PATIENCE = 300.0

_LOST = "the worker that ran it was lost"
_STILL = "another try of it is still under way"

log = structlog.get_logger(__name__)


class Keyed:
    """One call of a WRITE under its key. `begin` first; when that says go, `end` at last."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        definition: Definition,
        arguments: Mapping[str, Any],
        call: Call,
        who: Identity,
    ) -> None:
        self._ledger = ledger
        self._definition = definition
        self._call = call
        self._effect = Effect(
            who, call.idempotency_key, _digest(call.tool, arguments), definition.repeatable
        )
        self._recorded = False

    async def begin(self) -> Outcome | Found:
        """BEGUN: go on. UNDER_WAY: somebody else is at it. An outcome: that is the answer."""
        try:
            entry = await self._ledger.begin(self._effect)
        except PeregrineError as error:
            if self._definition.repeatable:
                log.warning("effect_not_recorded", tool=self._call.tool, reason=error.reason)
                return Found.BEGUN
            return Outcome(
                call=self._call,
                reason="LEDGER_UNAVAILABLE",
                text=f"{self._call.tool} was not run, because what it does could not be recorded.",
                retry_after=1.0,
            )
        match entry.found:
            case Found.ENDED:
                message = tools_pb2.ToolResult.FromString(entry.result)
                return contract.outcome(self._call, message)
            case Found.IN_DOUBT:
                return _in_doubt(self._call, _LOST)
            case Found.REUSED:
                return Outcome(
                    call=self._call,
                    reason="IDEMPOTENCY_KEY_REUSED",
                    text="The idempotency key was used for another call.",
                )
        self._recorded = entry.found is Found.BEGUN
        return entry.found

    async def wait(self, deadline: float | None) -> Outcome | None:
        """Until the one who is at it has ended; an outcome when there is no time for that."""
        pause = _FIRST_LOOK
        until = time.monotonic() + _MOST_PATIENCE if deadline is None else deadline
        while time.monotonic() + pause < until:
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, _LAST_LOOK)
            try:
                entry = await self._ledger.look(self._effect.who, self._effect.key)
                if entry is None or entry.found is not Found.UNDER_WAY:
                    return None
            except PeregrineError as error:
                log.warning("effect_not_read", tool=self._call.tool, reason=error.reason)
        return _in_doubt(self._call, _STILL)

    async def end(self, answer: Shown | Failed, outcome: Outcome) -> None:
        """Records how it ended; does not raise."""
        if self._recorded:
            result = None
            if self._is_final(answer):
                result = contract.result(outcome).SerializeToString()
            await self._ledger.end(self._effect, result)

    def _is_final(self, answer: Shown | Failed) -> bool:
        if isinstance(answer, Shown):
            return True
        passing = answer.transient or answer.broken
        return not (answer.nothing_done or (passing and self._definition.repeatable))


async def first_outcome(ledger: Ledger, call: Call, who: Identity) -> Outcome | None:
    """For a call that will not be made: what an earlier one under its key came to, if any did."""
    if not call.idempotency_key:
        return None
    try:
        entry = await ledger.look(who, call.idempotency_key)
    except PeregrineError as error:
        log.warning("effect_not_read", tool=call.tool, reason=error.reason)
        return None
    if entry is None:
        return None
    if entry.found is Found.ENDED:
        return contract.outcome(call, tools_pb2.ToolResult.FromString(entry.result))
    return _in_doubt(call, _STILL if entry.found is Found.UNDER_WAY else _LOST)


def _in_doubt(call: Call, why: str) -> Outcome:
    return Outcome(
        call=call,
        reason="TOOL_OUTCOME_UNKNOWN",
        text=f"Whether {call.tool} did what it was asked to is not known: {why}.",
        in_doubt=True,
    )


def _digest(tool: str, arguments: Mapping[str, Any]) -> bytes:
    canonical = json.dumps(arguments, sort_keys=True, separators=(",", ":"))
    return blake2b(f"{tool} {canonical}".encode(), digest_size=16).digest()
