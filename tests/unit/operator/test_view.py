"""All resources as last seen: the newest version wins, and each change tells whom it concerns."""

from typing import Any

from peregrine_operator import view
from peregrine_operator.kubernetes import Key
from peregrine_operator.view import Object, View


def resource(
    kind: str, called: str, *, version: int = 1, namespace: str = "one", created: int = 1,
    deleting: bool = False, uid: str = "", **spec: Any,
) -> Object:  # fmt: skip
    metadata = {
        "name": called,
        "namespace": namespace,
        "uid": uid or f"{namespace}/{called}",
        "resourceVersion": str(version),
        "creationTimestamp": f"2026-01-0{created}T00:00:00Z",
        **({"deletionTimestamp": "2026-01-09T00:00:00Z"} if deleting else {}),
    }
    return view.read(kind, {"metadata": metadata, "spec": spec})


def test_an_older_version_changes_nothing() -> None:
    seen = View()
    new = resource("Agent", "a", version=5)
    assert seen.put(new) == {new.key}
    assert seen.put(resource("Agent", "a", version=4)) == set()
    assert seen.put(resource("Agent", "a", version=5)) == set()
    assert seen.get(new.key) is new


def test_a_resource_made_again_replaces_the_former_whatever_its_version() -> None:
    seen = View()
    seen.put(resource("Agent", "a", version=5, uid="first"))
    again = resource("Agent", "a", version=3, uid="second")
    assert seen.put(again) == {again.key}
    assert seen.remove(resource("Agent", "a", uid="first")) == set()
    assert seen.get(again.key) is again


def test_the_oldest_that_stays_owns_a_name() -> None:
    seen = View()
    old = resource("Tool", "a", created=1, name="lookup")
    young = resource("Tool", "b", namespace="two", created=2, name="lookup")
    seen.put(young)
    assert seen.put(old) == {old.key, young.key}
    assert seen.owner(("Tool", "lookup")) is old
    going = resource("Tool", "a", version=2, created=1, deleting=True, name="lookup")
    assert seen.put(going) == {old.key, young.key}
    assert seen.owner(("Tool", "lookup")) is young
    assert seen.remove(going) == {young.key}
    assert seen.owner(("Tool", "nobody")) is None


def test_of_two_made_in_the_same_second_the_choice_is_the_same_each_time() -> None:
    one, two = (resource("Agent", "same", namespace=each) for each in ("a", "b"))
    for order in ((one, two), (two, one)):
        seen = View()
        for each in order:
            seen.put(each)
        assert seen.owner(("Agent", "same")) is one


def test_who_names_a_tool_is_known() -> None:
    seen = View()
    agent = resource("Agent", "a", tools=["lookup", "other"])
    seen.put(agent)
    assert seen.users("lookup") == {agent.key}
    seen.put(resource("Agent", "a", version=2, tools=["other"]))
    assert seen.users("lookup") == set()
    assert seen.users("other") == {agent.key}


def test_a_list_removes_what_is_gone_but_not_what_is_newer_than_the_list() -> None:
    seen = View()
    gone, stays = resource("Agent", "gone", version=3), resource("Agent", "stays", version=4)
    newer, other = resource("Agent", "new", version=9), resource("Agent", "x", namespace="two")
    for each in (gone, stays, newer, other):
        seen.put(each)
    concerned = seen.replace("Agent", ["one"], [stays], 5)
    assert seen.get(gone.key) is None
    assert {each.key for each in seen} == {stays.key, newer.key, other.key}
    assert concerned == set()


def test_a_list_of_all_namespaces_covers_every_one() -> None:
    seen = View()
    seen.put(resource("Agent", "a", namespace="two", version=3))
    seen.replace("Agent", [None], [], 5)
    assert len(seen) == 0


def test_what_a_strange_object_says_is_read_without_a_failure() -> None:
    strange = view.read("Agent", {"metadata": {"name": "a"}, "spec": None, "status": []})
    assert strange.key == Key("Agent", "", "a")
    assert (strange.spec, strange.status, strange.tools) == ({}, {}, ())
