"""Which results are kept, where, and for how long; without a cache service."""

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peregrine.client import CacheClient, CacheKey
from peregrine.kit.background import Failures
from peregrine.kit.context import Identity
from peregrine.kit.errors import Unavailable
from peregrine.tools import results
from peregrine.tools.definition import (
    Arguments,
    ChangeClass,
    CostClass,
    Definition,
    Effect,
    Scope,
    ToolContext,
)
from peregrine.tools.output import Shown
from tests.support.eventually import eventually

ADA, BOB, OTHER = Identity("acme", "ada"), Identity("acme", "bob"), Identity("umbrella", "ada")
FAILURES = Failures().of("results")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


async def look(arguments: Arguments, context: ToolContext) -> str:
    return "found"


def tool(**fields: Any) -> Definition:
    given = {"name": "look", "description": "Looks.", "effect": Effect.READ} | fields
    return Definition(input_schema={"type": "object"}, function=look, **given)


def kept_results() -> results.Results:
    return results.Results(cache=CacheClient(), on_unstored=lambda reason: None, failures=FAILURES)


async def where(
    definition: Definition, arguments: Any, who: Identity = ADA
) -> tuple[str, str, str, bytes]:
    place = await kept_results().place(definition, arguments, who)
    assert place is not None
    return place.key.near


@pytest.mark.parametrize(
    "fields",
    [
        {"effect": Effect.WRITE},
        {"change": ChangeClass.NEVER},
        {"cacheable": False},
    ],
)
async def test_results_of_such_a_tool_are_not_kept(fields: dict[str, Any]) -> None:
    assert await kept_results().place(tool(**fields), {}, ADA) is None


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ({}, 3_600),
        ({"cost": CostClass.EXPENSIVE}, 86_400),
        ({"cost": CostClass.FREQUENT}, 1_800),
        ({"change": ChangeClass.LIVE}, 60),
        ({"ttl": 5.0}, 5),
        ({"ttl": 40 * 86_400.0, "change": ChangeClass.PURE}, 30 * 86_400),
        ({"ttl": 40 * 86_400.0, "change": ChangeClass.SLOW}, 86_400),
    ],
)
def test_the_cost_says_how_long_first_and_the_change_class_caps_it(
    fields: dict[str, Any], seconds: float
) -> None:
    assert results.seconds(tool(**fields)) == seconds


@given(JSON)
async def test_the_order_of_keys_does_not_matter_at_any_depth(value: Any) -> None:
    assert await where(tool(), {"a": value}) == await where(tool(), {"a": backwards(value)})


def backwards(value: Any) -> Any:
    match value:
        case dict():
            return {key: backwards(inner) for key, inner in reversed(value.items())}
        case list():
            return [backwards(inner) for inner in value]
    return value


@given(JSON, JSON)
async def test_other_arguments_have_another_place(one: Any, other: Any) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (await where(tool(), {"a": one}) == await where(tool(), {"a": other})) == same


async def test_everything_that_makes_a_result_another_one_is_part_of_its_place() -> None:
    places = {
        await where(tool(), {}),
        await where(tool(), {"a": 1}),
        await where(tool(), {"a": "1"}),
        await where(tool(), {"a": True}),
        await where(tool(), {"a": 2**70}),
        await where(tool(), {"a": 2**70 + 1}),
        await where(tool(version=2), {}),
        await where(tool(name="glance"), {}),
        await where(tool(description="Looks again."), {}),
        await where(tool(scope=Scope.TENANT), {}),
        await where(tool(), {}, BOB),
        await where(tool(), {}, OTHER),
        await where(tool(scope=Scope.TENANT), {}, OTHER),
    }
    assert len(places) == 13


async def test_what_is_for_the_tenant_has_one_place_for_its_users() -> None:
    shared = tool(scope=Scope.TENANT)
    assert await where(shared, {}) == await where(shared, {}, BOB)


@pytest.mark.parametrize(
    "name",
    ["timestamp", "random", "nonce", "current_time", "Timestamp", "currentTime", "current-time"],
)
@pytest.mark.parametrize("depth", [0, 1, 5])
async def test_arguments_that_name_a_moment_keep_a_result_out(name: str, depth: int) -> None:
    arguments: dict[str, Any] = {"a": 1, name: 2}
    for _ in range(depth):
        arguments = {"inside": [{"b": 1}, arguments]}
    assert await kept_results().place(tool(), arguments, ADA) is None


async def test_a_value_that_looks_like_such_a_name_does_not() -> None:
    arguments = {"query": "timestamp random nonce current_time", "timestamps": 1}
    assert await kept_results().place(tool(), arguments, ADA) is not None


async def test_a_tool_may_name_further_ones() -> None:
    own = tool(uncacheable=frozenset({"session_id"}))
    assert await kept_results().place(own, {"sessionId": 1}, ADA) is None
    assert await kept_results().place(own, {"session": 1}, ADA) is not None


async def test_the_version_of_what_is_read_is_part_of_the_place() -> None:
    said = {"acme": "1", "umbrella": "1"}

    async def version(tenant: str) -> str:
        return said[tenant]

    reading = tool(source_version=version)
    before = await where(reading, {})
    said["acme"] = "2"
    assert await where(reading, {}) != before
    said["acme"] = "1"
    assert await where(reading, {}) == before


async def test_without_knowing_that_version_nothing_is_found_or_kept() -> None:
    async def version(tenant: str) -> str:
        raise Unavailable("away", reason="POSTGRES_UNAVAILABLE")

    assert await kept_results().place(tool(source_version=version), {}, ADA) is None


async def test_arguments_too_deep_to_write_down_are_not_kept() -> None:
    arguments: dict[str, Any] = {}
    for _ in range(100_000):
        arguments = {"a": arguments}
    assert await kept_results().place(tool(), arguments, ADA) is None


def test_the_text_of_the_tools_module_is_part_of_what_it_is() -> None:
    same = results.fingerprint(tool())
    assert results.fingerprint(tool()) == same
    elsewhere = dataclasses.replace(tool(), function=json.dumps)
    without_text = dataclasses.replace(tool(), function=len)
    assert len({same, results.fingerprint(elsewhere), results.fingerprint(without_text)}) == 3


class Shelf(CacheClient):
    """Takes values and keeps them in order."""

    def __init__(self) -> None:
        super().__init__()
        self.values: list[bytes] = []

    async def set(self, key: CacheKey, value: bytes, **_: Any) -> str:
        self.values.append(value)
        return ""


async def test_two_executions_that_say_the_same_are_the_same_value() -> None:
    """A value that is fetched again is compared, and how long values live is tuned by that."""
    shelf = Shelf()
    kept = results.Results(cache=shelf, on_unstored=lambda reason: None, failures=FAILURES)
    place = await kept.place(tool(), {}, ADA)
    assert place is not None
    for seconds, text in ((0.1, "sunny"), (0.2, "sunny"), (0.2, "rain")):
        kept.keep(place, Shown(text, b'"said"'), execution_seconds=seconds, started=0.0)
    await eventually(lambda: len(shelf.values) == 3)
    await kept.close()
    assert shelf.values[0] == shelf.values[1] != shelf.values[2]
