"""The first model call of a new conversation, made while the turn is still being written down.

A new conversation holds nothing but the message, so what the model will be asked is known before
the memory service has answered, all but what it knows of the user. That seldom changes, and is
taken to be what it was last. The turn compares the request that was made ahead with the one that it
would make, and makes its own where they differ, so a wrong guess costs a call that is ended within
milliseconds, never a wrong answer. Nothing of the call is written before the run is durable.
"""

from collections import OrderedDict

from peregrine.api.common.v1 import common_pb2 as common
from peregrine.api.memory.v1 import memory_pb2 as memory
from peregrine.kit.context import Identity
from peregrine.orchestrator import prompt
from peregrine.orchestrator.facts import Facts
from peregrine.orchestrator.plan import Plan
from peregrine.orchestrator.upstream import ModelCall, Upstream

USERS = 10_000


class Foresight:
    """Remembers what was last known of the users seen here, the latest 10,000."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._profiles: OrderedDict[Identity, memory.UserProfile] = OrderedDict()

    def learn(self, identity: Identity, loaded: memory.BeginTurnResponse) -> None:
        self._profiles[identity] = loaded.profile
        self._profiles.move_to_end(identity)
        if len(self._profiles) > USERS:
            self._profiles.popitem(last=False)

    def forget(self) -> None:
        """Something is away: no call is made for runs that may not come to be."""
        self._profiles.clear()

    def call(self, facts: Facts, plan: Plan) -> ModelCall | None:
        """Makes the first model call, under the current context, which is to be the run's.

        None when the request cannot be known: the conversation is not new, the user was not seen
        here, or the tools would have to be asked for.
        """
        if not facts.new_conversation:
            return None
        profile = self._profiles.get(facts.identity)
        offered = self._upstream.known(
            facts.identity.tenant, plan.tools, connect=not plan.lazy_tools
        )
        if profile is None or offered is None:
            return None
        expected = memory.BeginTurnResponse(profile=profile)
        said = common.Message(
            role=common.ROLE_USER, content=[common.ContentBlock(text=facts.message)]
        )
        request = prompt.request(
            plan,
            facts.run_id,
            1,
            system=prompt.system(plan, expected),
            offered=prompt.definitions(plan.tools, offered.values()),
            messages=[said],
        )
        return self._upstream.generate(request, plan.max_duration)
