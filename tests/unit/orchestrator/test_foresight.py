"""When the first model call of a run is made ahead, and when it is not."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from peregrine.api.common.v1 import common_pb2 as common
from peregrine.api.llm_gateway.v1 import llm_gateway_pb2 as llm
from peregrine.api.memory.v1 import memory_pb2 as memory
from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from peregrine.api.tools.v1 import tools_pb2 as tools
from peregrine.kit.context import Identity
from peregrine.orchestrator import foresight, plan
from peregrine.orchestrator.facts import Facts
from peregrine.orchestrator.foresight import Foresight
from peregrine.orchestrator.upstream import ModelCall, Upstream

ADA = Identity("tenant", "ada")
PLAN = plan.resolve("one", pb.AgentSpec(model="claude-sonnet-5-5"), pb.RunInput(message="Hello."))
FACTS = Facts(uuid.uuid4(), ADA, 1, uuid.uuid4(), True, "Hello.", "turn")


class Services(Upstream):
    """Notes what the model is asked; `catalog` is None where the tools would have to be asked."""

    def __init__(self) -> None:
        self.asked: list[llm.GenerateRequest] = []
        self.catalog: Mapping[str, tools.RegisteredTool] | None = {}

    def known(
        self, tenant: str, names: Sequence[str], *, connect: bool = False
    ) -> Mapping[str, tools.RegisteredTool] | None:
        return self.catalog

    def generate(self, request: llm.GenerateRequest, timeout: float) -> ModelCall:
        self.asked.append(request)
        call: Any = None
        return ModelCall(request, call, set())


def profile(data: bytes = b"") -> memory.BeginTurnResponse:
    return memory.BeginTurnResponse(profile=memory.UserProfile(data=common.Json(utf8=data)))


def test_of_a_user_who_was_seen_it_is_made_with_what_was_known_last() -> None:
    services = Services()
    ahead = Foresight(services)
    assert ahead.call(FACTS, PLAN) is None, "the user was never seen"
    ahead.learn(ADA, profile(b'{"name":"A."}'))
    ahead.learn(ADA, profile(b'{"name":"Ada"}'))
    assert ahead.call(FACTS, PLAN) is not None
    (asked,) = services.asked
    assert "Ada" in asked.prompt.system
    assert [message.content[0].text for message in asked.prompt.messages] == ["Hello."]


def test_what_is_known_of_one_user_is_nothing_about_another() -> None:
    ahead = Foresight(Services())
    ahead.learn(ADA, profile())
    assert ahead.call(replace(FACTS, identity=Identity("tenant", "bob")), PLAN) is None
    assert ahead.call(replace(FACTS, identity=Identity("another", "ada")), PLAN) is None


def test_it_is_not_made_where_somebody_would_have_to_be_asked_first() -> None:
    services = Services()
    ahead = Foresight(services)
    ahead.learn(ADA, profile())
    assert ahead.call(replace(FACTS, new_conversation=False), PLAN) is None
    services.catalog = None
    assert ahead.call(FACTS, PLAN) is None


def test_once_something_is_away_it_is_not_made_until_a_turn_was_written_again() -> None:
    ahead = Foresight(Services())
    ahead.learn(ADA, profile())
    ahead.forget()
    assert ahead.call(FACTS, PLAN) is None
    ahead.learn(ADA, profile())
    assert ahead.call(FACTS, PLAN) is not None


def test_those_who_were_seen_last_are_remembered() -> None:
    ahead = Foresight(Services())
    users = [Identity("tenant", f"user-{number}") for number in range(foresight.USERS + 1)]
    for user in users[:-1]:
        ahead.learn(user, profile())
    ahead.learn(users[0], profile())
    ahead.learn(users[-1], profile())
    known = [ahead.call(replace(FACTS, identity=user), PLAN) is not None for user in users]
    assert (known[0], known[1], known[2], known[-1]) == (True, False, True, True)
