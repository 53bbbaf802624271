"""What does not change while a run lives, and how its turn begins."""

import uuid
from contextlib import AbstractContextManager
from dataclasses import dataclass

from peregrine.api.memory.v1 import memory_pb2 as memory
from peregrine.kit import context
from peregrine.orchestrator.plan import Plan


@dataclass(frozen=True, slots=True)
class Facts:
    """What does not change while a run lives."""

    run_id: uuid.UUID
    identity: context.Identity
    agent_version: int
    conversation_id: uuid.UUID
    new_conversation: bool
    message: str
    # Names the turn to the memory service; the same on every attempt.
    turn_id: str


def at_work(
    facts: Facts, *, proof: context.Proof | None, remaining: float
) -> AbstractContextManager[object]:
    """The context of a run's own work: the deadline of the call that started it is not the run's.

    Args:
      proof: shows other services for whom the run is; None where identity is off.
      remaining: seconds until the deadline of the run.
    """
    return context.bind(
        identity=facts.identity,
        proof=proof,
        timeout=remaining,
        run_id=str(facts.run_id),
        conversation_id=str(facts.conversation_id),
        detach=True,
    )


def begin_request(facts: Facts, plan: Plan) -> memory.BeginTurnRequest:
    """What the memory service is asked at the beginning; asking again changes nothing."""
    window = memory.ContextWindow(
        strategy=memory.CONTEXT_STRATEGY_RECENT,
        max_messages=plan.max_messages if plan.trimming else 10_000,
        token_budget=plan.token_budget if plan.trimming else 10_000_000,
    )
    return memory.BeginTurnRequest(
        conversation_id=str(facts.conversation_id),
        create_conversation=facts.new_conversation,
        message=facts.message,
        window=window,
        request_id=facts.turn_id,
        agent_id=plan.agent,
        run_id=str(facts.run_id),
    )
