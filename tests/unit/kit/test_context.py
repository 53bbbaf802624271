"""The context of a call: who, until when, how many retries, under which trace."""

import asyncio
import re

import pytest

from peregrine.kit import context
from peregrine.kit.context import Identity, OpenDoor, RetryBudget
from peregrine.kit.errors import Unauthenticated

ACME = Identity("acme", "bob@acme.example")


@pytest.mark.parametrize(
    "name", ["", "A", "*", "a'b", "a b", "-a", "a" * 64, "a\n", "á", 'a"', "a;b", "a\\"]
)
def test_names_that_could_break_out_of_a_key_or_a_statement_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not a name"):
        Identity(name, "bob")
    with pytest.raises(ValueError, match="not a name"):
        Identity("acme", name)


def test_work_that_belongs_to_nobody_has_no_identity() -> None:
    with pytest.raises(Unauthenticated) as caught:
        context.identity()
    assert caught.value.reason == "IDENTITY_MISSING"


def test_an_identity_holds_for_the_block_and_the_tasks_in_it() -> None:
    async def main() -> Identity:
        with context.with_identity(ACME):
            task = asyncio.create_task(asyncio.to_thread(context.identity))
        return await task

    assert asyncio.run(main()) == ACME
    assert context.current() is None


def test_a_deadline_is_only_ever_shortened() -> None:
    with context.bind(timeout=10):
        with context.bind(timeout=60):
            assert 9 < (context.deadline_remaining() or 0) <= 10
        with context.bind(timeout=1):
            assert 0 < (context.deadline_remaining() or 0) <= 1


def test_detached_work_has_neither_the_deadline_nor_the_budget_of_its_caller() -> None:
    with context.bind(identity=ACME, timeout=1, retries=0, run_id="r1"):
        with context.bind(detach=True):
            assert context.deadline_remaining() is None
            assert context.retry_budget().remaining == context.DEFAULT_RETRIES
            assert context.identity() == ACME


def test_a_deadline_in_the_past_leaves_nothing() -> None:
    with context.bind(timeout=-1):
        assert context.deadline_remaining() == 0


def test_parallel_calls_of_one_run_draw_from_one_budget() -> None:
    with context.bind(retries=2):
        with context.bind(timeout=5):
            assert context.retry_budget().take()
        assert context.retry_budget().take()
        assert not context.retry_budget().take()


def test_outgoing_metadata_say_what_is_left_of_the_budget() -> None:
    with context.bind(identity=ACME, retries=RetryBudget(2), run_id="run-1"):
        context.retry_budget().take()
        metadata = dict(context.outgoing(context.current()))
    assert metadata["peregrine-retry-budget"] == "1"
    assert metadata["peregrine-tenant"] == "acme"
    assert metadata["peregrine-user"] == "bob@acme.example"
    assert metadata["peregrine-run-id"] == "run-1"
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", metadata["traceparent"])


@pytest.mark.parametrize(
    "metadata",
    [
        {"peregrine-tenant": "acme"},
        {"peregrine-user": "bob"},
        {"peregrine-tenant": "*", "peregrine-user": "bob"},
        {"peregrine-tenant": "acme", "peregrine-user": "'"},
    ],
)
async def test_where_identity_is_off_half_a_name_or_a_bad_one_is_refused(
    metadata: dict[str, str],
) -> None:
    with pytest.raises(Unauthenticated) as caught:
        await OpenDoor().admit("/a.B/C", metadata)
    assert caught.value.reason == "IDENTITY_INVALID"


async def test_where_identity_is_off_names_are_believed() -> None:
    assert (await OpenDoor().admit("/a.B/C", {})).identity == context.LOCAL
    with context.with_identity(ACME):
        metadata = dict(context.outgoing(context.current()))
    assert (await OpenDoor().admit("/a.B/C", metadata)).identity == ACME


class Stamp:
    def __init__(self, text: str) -> None:
        self.text = text

    def metadata(self) -> tuple[str, str]:
        return "x-stamp", self.text

    async def renew(self) -> None:
        self.text += "!"


async def test_a_proof_goes_with_its_identity_and_with_no_other() -> None:
    bob = Identity("acme", "bob")
    with context.bind(identity=bob, proof=Stamp("bob"), allowed=frozenset({"read"})):
        assert dict(context.outgoing(context.current()))["x-stamp"] == "bob"
        assert "peregrine-tenant" not in dict(context.outgoing(context.current()))
        with context.bind(identity=Identity("acme", "bob"), detach=True):
            await context.renew_proof()
            assert dict(context.outgoing(context.current()))["x-stamp"] == "bob!"
            assert context.allows("read")
        with context.bind(identity=Identity("acme", "eve")):
            assert "x-stamp" not in dict(context.outgoing(context.current()))
            assert not context.allows("read")


def test_log_lines_carry_the_ids_of_the_call() -> None:
    with context.bind(identity=ACME, run_id="r1", traceparent=f"00-{'ab' * 16}-{'cd' * 8}-01"):
        context.note_conversation("c1")
        assert context.log_fields() == {
            "trace_id": "ab" * 16,
            "tenant": "acme",
            "user": ACME.user,
            "run_id": "r1",
            "conversation_id": "c1",
        }
    assert context.log_fields() == {}
