"""What `peregrine.client` offers is what it lists, and nothing else."""

import types

import peregrine.client


def test_the_list_is_sorted() -> None:
    assert peregrine.client.__all__ == sorted(peregrine.client.__all__)


def test_everything_public_is_listed_and_nothing_else_leaks() -> None:
    public = {name for name in vars(peregrine.client) if not name.startswith("_")}
    assert public == set(peregrine.client.__all__)


def test_the_only_modules_among_it_are_the_two_formats() -> None:
    members = {name: getattr(peregrine.client, name) for name in peregrine.client.__all__}
    modules = [name for name, member in members.items() if isinstance(member, types.ModuleType)]
    assert modules == ["jsonl", "resources"]
