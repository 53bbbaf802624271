"""`peregrine apply`: resources from YAML to the services that keep them.

Everything is read and checked before anything is sent, so that a typing error in the third file
does not leave the first two applied. Then each resource is sent in turn; one that is refused does
not keep the others from being tried, and makes the exit code 1.

What has no service yet, or never has one outside a cluster, is a note and no failure: the same
directory is applied to a laptop and to a cluster.
"""

import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import typer

from peregrine.api.cache.v1 import cache_pb2
from peregrine.api.orchestrator.v1 import orchestrator_pb2
from peregrine.api.tools.v1 import tools_pb2
from peregrine.cli import session
from peregrine.client import PeregrineClient, ToolsClient, jsonl, resources
from peregrine.client.resources import Problem, Resource, ResourceError
from peregrine.kit.errors import NotFound, PeregrineError, Unimplemented

CREATED, CONFIGURED, UNCHANGED = "created", "configured", "unchanged"
SKIPPED, REFUSED = "skipped", "refused"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a resource; `note` says why where that is not plain."""

    result: str
    note: str = ""


async def apply(files: Sequence[Path], *, as_json: bool) -> int:
    """The command `peregrine apply`."""
    try:
        found = read(files)
    except ResourceError as error:
        lines = [f"error: {problem}" for problem in error.problems]
        typer.echo("\n".join([*lines, "error: nothing was applied"]), err=True)
        return session.FAILED
    failed = False
    async with AsyncExitStack() as stack:
        services = _Services(stack)
        for resource in found:
            try:
                outcome = await services.apply(resource)
            except PeregrineError as error:
                if session.is_silence(error):
                    raise
                outcome = Outcome(REFUSED, session.describe(error))
            failed |= outcome.result == REFUSED
            _tell(resource, outcome, as_json=as_json)
    return session.FAILED if failed else 0


def read(files: Sequence[Path]) -> list[Resource]:
    """The resources of files, directories (not of those below) and standard input, in order.

    Raises:
      ResourceError: everything that is wrong in any of them.
    """
    found: list[Resource] = []
    problems: list[Problem] = []
    for path in files:
        for source, text in _texts(path):
            try:
                found.extend(resources.read_all(text, source=source))
            except ResourceError as error:
                problems.extend(error.problems)
    if problems:
        raise ResourceError(problems)
    resources.check_unique(found)
    if not found:
        session.fail(f"no resources in {', '.join(map(str, files))}", session.USAGE)
    return found


def _texts(path: Path) -> list[tuple[str, str]]:
    if str(path) == "-":
        return [("standard input", sys.stdin.read())]
    try:
        if path.is_dir():
            paths = sorted(each for each in path.iterdir() if each.suffix in (".yaml", ".yml"))
            return [(str(each), each.read_text("utf-8")) for each in paths]
        return [(str(path), path.read_text("utf-8"))]
    except OSError as error:
        session.fail(f"cannot read {error.filename}: {error.strerror}", session.USAGE)
    except UnicodeDecodeError:
        session.fail(f"cannot read {path}: it is not UTF-8", session.USAGE)


class _Services:
    """Sends resources where they belong; connects to a service when the first one needs it."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self._orchestrator: PeregrineClient | None = None
        self._tools: ToolsClient | None = None

    async def apply(self, resource: Resource) -> Outcome:
        match resource.value:
            case orchestrator_pb2.Agent() as agent:
                return await self._agent(agent)
            case tools_pb2.Tool() as tool:
                return await self._tool(tool)
            case cache_pb2.Policy() as policy:
                return await self._policy(policy)
        return Outcome(SKIPPED, "valid; scaling needs a cluster and its operator")

    async def _agent(self, agent: orchestrator_pb2.Agent) -> Outcome:
        if self._orchestrator is None:
            self._orchestrator = await self._stack.enter_async_context(session.orchestrator())
        try:
            before = (await self._orchestrator.get_agent(agent.name)).version
        except NotFound:
            before = None
        return compared(before, (await self._orchestrator.apply_agent(agent)).version)

    async def _tool(self, tool: tools_pb2.Tool) -> Outcome:
        if self._tools is None:
            self._tools = await self._stack.enter_async_context(session.tools())
        known = [each async for each in self._tools.list_tools(names=[tool.name], limit=1)]
        try:
            applied = await self._tools.apply_tool(tool)
        except Unimplemented:
            return Outcome(SKIPPED, "the tool service here does not take tools yet")
        # One that comes with the worker was not applied yet.
        before = [each.version for each in known if each.HasField("create_time")]
        return compared(before[0] if before else None, applied.version)

    async def _policy(self, policy: cache_pb2.Policy) -> Outcome:
        try:
            async with session.cache() as cache:
                try:
                    before = (await cache.get_policy(policy.namespace)).version
                except NotFound:
                    before = None
                return compared(before, (await cache.apply_policy(policy)).version)
        except session.Unreachable:
            return Outcome(SKIPPED, "valid; no cache service is running here")
        except Unimplemented:
            return Outcome(SKIPPED, "valid; the cache service here does not take policies yet")


def compared(before: int | None, after: int) -> Outcome:
    """What applying did, by the versions before and after."""
    if before is None:
        return Outcome(CREATED)
    return Outcome(UNCHANGED if before == after else CONFIGURED)


def _tell(resource: Resource, outcome: Outcome, *, as_json: bool) -> None:
    if as_json:
        entry = {
            "kind": resource.kind,
            "name": resource.name,
            "result": outcome.result,
            "note": outcome.note,
            "source": resource.source,
            "document": resource.document,
        }
        typer.echo(jsonl.dumps(entry))
        return
    note = f" ({outcome.note})" if outcome.note and outcome.result == SKIPPED else ""
    typer.echo(f"{resource.kind.lower()}/{resource.name} {outcome.result}{note}")
    if outcome.result == REFUSED:
        where = f"{resource.source}, document {resource.document}"
        typer.echo(f"error: {where} ({resource}): {outcome.note}", err=True)
