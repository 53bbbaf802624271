"""Policies of cache namespaces: listed, shown, changed.

What is changed on the command line is read by the reader of manifests, so both say what is wrong in
the same words. It changes the policy as it was read: when somebody else changes it meanwhile, it is
refused and nothing is lost.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import typer

from peregrine.api.cache.v1 import cache_pb2 as pb
from peregrine.cli import session
from peregrine.cli.apply import apply as apply_files
from peregrine.cli.apply import compared, read
from peregrine.cli.tables import Column, show, show_fields
from peregrine.cli.words import span
from peregrine.client import CacheClient, jsonl, resources
from peregrine.client.resources import ResourceError
from peregrine.kit.errors import NotFound

_MODES = {
    pb.POLICY_MODE_OBSERVE: "Observe",
    pb.POLICY_MODE_ACTIVE: "Active",
}
_FIELDS = pb.Policy.DESCRIPTOR.fields_by_camelcase_name


async def list_all(*, as_json: bool, limit: int) -> int:
    async with session.cache() as client:
        found = [each async for each in client.list_policies(limit=limit)]
    if as_json:
        for each in found:
            typer.echo(jsonl.line(each))
        return 0
    columns = (
        Column("NAMESPACE"),
        Column("TTL", right=True),
        Column("BOUNDS", rank=1),
        Column("MODE", rank=1),
        Column("STALE", rank=2, right=True),
        Column("WARM", rank=3),
        Column("VERSION", rank=4, right=True),
    )
    rows = [
        (
            each.namespace,
            "never" if each.never else span(each.ttl) if each.HasField("ttl") else "-",
            _bounds(each),
            _MODES.get(each.mode, "-"),
            f"{each.max_stale_fraction:.1%}" if each.max_stale_fraction else "-",
            "at start" if each.warm_at_start else "-",
            str(each.version),
        )
        for each in found
    ]
    empty = "no policies; make one: peregrine cache policies apply NAMESPACE --ttl 10m"
    show(session.console(), columns, rows, empty=empty)
    return 0


async def get(namespace: str, *, as_json: bool) -> int:
    async with session.cache() as client:
        found = await client.get_policy(namespace)
    if as_json:
        typer.echo(jsonl.line(found))
    else:
        show_fields(session.console(), found, title=f"cache policy {namespace}")
    return 0


def _bounds(policy: pb.Policy) -> str:
    least = span(policy.min_ttl) if policy.HasField("min_ttl") else ""
    most = span(policy.max_ttl) if policy.HasField("max_ttl") else ""
    return f"{least}..{most}" if least or most else "-"


async def apply(
    namespace: str, given: Mapping[str, object], *, file: Path | None, as_json: bool
) -> int:
    if file is not None:
        if namespace or given:
            session.fail("-f says everything; leave the rest out", session.USAGE)
        return await _apply_file(file, as_json=as_json)
    if not namespace or not given:
        session.fail("name a NAMESPACE and what to change of its policy, or -f", session.USAGE)
    wanted = _read(namespace, given)
    async with session.cache() as client:
        before, merged = await _merged(client, wanted, given)
        applied = await client.apply_policy(merged, expected_version=before or 0)
    if as_json:
        typer.echo(jsonl.line(applied))
    else:
        typer.echo(f"cachepolicy/{namespace} {compared(before, applied.version).result}")
    return 0


async def _apply_file(file: Path, *, as_json: bool) -> int:
    try:
        others = [each for each in read([file]) if each.kind != "CachePolicy"]
    except ResourceError as error:
        session.fail("\nerror: ".join(map(str, error.problems)), session.FAILED)
    if others:
        session.fail(f"{others[0]} is no CachePolicy: use peregrine apply", session.USAGE)
    return await apply_files([file], as_json=as_json)


def _read(namespace: str, given: Mapping[str, object]) -> pb.Policy:
    manifest = {
        "apiVersion": resources.API_VERSION,
        "kind": "CachePolicy",
        "metadata": {"name": "given"},
        "spec": {"namespace": namespace, **given},
    }
    try:
        policy = resources.read(manifest).value
    except ResourceError as error:
        problems = [
            f"{each.field.removeprefix('spec.')}: {each.message}" for each in error.problems
        ]
        session.fail("\nerror: ".join(problems), session.USAGE)
    return cast("pb.Policy", policy)


async def _merged(
    client: CacheClient, wanted: pb.Policy, given: Mapping[str, object]
) -> tuple[int | None, pb.Policy]:
    """The version that is there, and its policy with what was given put in."""
    try:
        policy = await client.get_policy(wanted.namespace)
    except NotFound:
        return None, wanted
    before = policy.version
    named = {_FIELDS[name].name for name in given}
    for field in pb.Policy.DESCRIPTOR.fields:
        (policy if field.name in named else wanted).ClearField(field.name)
    policy.MergeFrom(wanted)
    return before, policy
