"""The tools of a worker, each with all that one call of it needs, made once.

Built-in tools come with Peregrine; others are found in Python modules that a setting names, and in
installed packages with an entry point of the group `peregrine.tools`: every `Definition` that
stands in such a module is a tool. These are the same for everybody. A tenant sees the tools it
applied beside them, or in their place where it applied one over them, and nobody else does.

A replaced tool keeps its lane and its counts, so that calls under way still count. Metrics have no
tenant: tools of one name share them.
"""

import importlib
import inspect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from types import ModuleType

import structlog

from peregrine.api.tools.v1 import tools_pb2
from peregrine.kit.errors import StartRefused
from peregrine.tools.admission import Admission, Lane
from peregrine.tools.arguments import Check
from peregrine.tools.circuit import Circuit
from peregrine.tools.definition import Definition
from peregrine.tools.metrics import ToolMeters, ToolMetrics
from peregrine.tools.stats import ToolStats

ENTRY_POINTS = "peregrine.tools"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """A tool, ready to be called. `origin` is "module:attribute", empty for a built-in one.

    `listing`: how an applied tool is listed; the others are listed by their definition.
    """

    definition: Definition
    origin: str
    check: Check
    lane: Lane
    meters: ToolMeters
    stats: ToolStats
    circuit: Circuit
    blocking: bool
    listing: tools_pb2.RegisteredTool | None = None

    @property
    def disabled(self) -> str:
        """Why it cannot be called, empty when it can."""
        return "" if self.listing is None else self.listing.disabled_reason

    @property
    def to_be_asked(self) -> bool:
        """Whether it is off, and a server that it is of may say more of it."""
        return self.listing is not None and bool(self.disabled and self.listing.server)


class Registry:
    """Tools by name, those of everybody and those of each tenant."""

    def __init__(self, *, admission: Admission, metrics: ToolMetrics) -> None:
        self._admission = admission
        self._metrics = metrics
        self._tools: dict[str, Registered] = {}
        self._applied: dict[str, dict[str, Registered]] = {}
        # By name: the tools of that name, which share their metrics.
        self._meters: dict[str, tuple[ToolMeters, list[Registered]]] = {}
        self._leaving: list[Lane] = []

    def register(self, definition: Definition, *, origin: str = "") -> Registered:
        """Raises `ValueError`: the name is taken, or the input schema is not one."""
        name = definition.name
        if name in self._tools:
            raise ValueError(f"the tool {name!r} is there twice")
        try:
            check = Check(definition.input_schema)
        except ValueError as error:
            raise ValueError(f"the input schema of the tool {name!r} {error}") from None
        tool = self._made(definition, check, origin=origin)
        self._tools[name] = tool
        return tool

    def is_for_everybody(self, name: str) -> bool:
        """Whether a tenant can only apply a tool of this name over the one that is there."""
        return name in self._tools

    def is_applied(self, tenant: str, name: str) -> bool:
        return name in self._applied.get(tenant, {})

    def written(self, tool: tools_pb2.Tool) -> Definition | None:
        """The tool that a declaration of the kind builtin or python is over."""
        if tool.HasField("builtin"):
            found = self._tools.get(tool.builtin.name or tool.name)
            return None if found is None or found.origin else found.definition
        if not tool.HasField("python"):
            return None
        for each in self._tools.values():
            if each.origin and each.origin == tool.python.function:
                return each.definition
        return None

    def put(
        self, tenant: str, definition: Definition, listing: tools_pb2.RegisteredTool
    ) -> Registered:
        """Adds or replaces a tool of `tenant`. Raises `ValueError` as `register`."""
        before = self._applied.get(tenant, {}).get(definition.name)
        check = Check(definition.input_schema)
        tool = self._made(definition, check, before=before, listing=listing)
        self._applied.setdefault(tenant, {})[definition.name] = tool
        return tool

    def drop(self, tenant: str, name: str) -> None:
        """Removes a tool of `tenant`, if it is there; calls under way finish."""
        tool = self._applied.get(tenant, {}).pop(name, None)
        if tool is None:
            return
        if not self._applied[tenant]:
            del self._applied[tenant]
        self._meters[name][1].remove(tool)
        self._leaving.append(tool.lane)
        self._close_lanes()

    def get(self, name: str, tenant: str = "") -> Registered | None:
        applied = self._applied.get(tenant)
        return (applied and applied.get(name)) or self._tools.get(name)

    def __len__(self) -> int:
        return len(self._tools) + sum(map(len, self._applied.values()))

    def names(self, tenant: str = "") -> Sequence[str]:
        """What `tenant` may call, in alphabetical order."""
        return sorted(self._tools.keys() | self._applied.get(tenant, {}).keys())

    def select(
        self,
        *,
        tenant: str = "",
        after: str = "",
        limit: int | None = None,
        only: Iterable[str] = (),
    ) -> list[Registered]:
        """At most `limit` tools by name, those after the name `after`; of `only`, when given."""
        names = self.names(tenant)
        wanted = set(only)
        names = [name for name in names if name > after and (not wanted or name in wanted)]
        found = (self.get(name, tenant) for name in names[:limit])
        return [tool for tool in found if tool is not None]

    def _close_lanes(self) -> None:
        """Those of removed tools in which nobody is any more; the others at the next change."""
        for lane in self._leaving[:]:
            if not lane.in_flight and not lane.queued:
                self._leaving.remove(lane)
                self._admission.close_lane(lane)

    def _made(
        self,
        definition: Definition,
        check: Check,
        *,
        origin: str = "",
        before: Registered | None = None,
        listing: tools_pb2.RegisteredTool | None = None,
    ) -> Registered:
        self._close_lanes()
        name = definition.name
        if before is None:
            lane = self._admission.open_lane(definition.max_concurrency)
        else:
            lane = before.lane
            self._admission.resize(lane, definition.max_concurrency)
        if name not in self._meters:
            namesakes: list[Registered] = []
            meters = self._metrics.of_tool(
                name,
                queued=lambda: sum(each.lane.queued for each in namesakes),
                broken=lambda: sum(each.circuit.open for each in namesakes),
            )
            self._meters[name] = meters, namesakes
        meters, namesakes = self._meters[name]
        tool = Registered(
            definition=definition,
            origin=origin,
            check=check,
            lane=lane,
            meters=meters,
            stats=ToolStats() if before is None else before.stats,
            circuit=Circuit(),
            blocking=not inspect.iscoroutinefunction(definition.function),
            listing=listing,
        )
        namesakes[:] = [each for each in namesakes if each is not before] + [tool]
        return tool


def find(
    modules: Iterable[str], entry_points: Iterable[EntryPoint] = ()
) -> Iterator[tuple[str, Definition]]:
    """The tools of Python modules and of installed packages, as ("module:attribute", definition).

    An entry point names a module or one tool in it. A package whose entry point cannot be loaded is
    left out and logged: it may have come along with another one, and nobody here asked for it.

    Raises:
      StartRefused: a module that a setting names cannot be imported, or has no tool.
    """
    seen: set[str] = set()
    for name in modules:
        found = dict(_tools_of(name, _imported(name)))
        if not found:
            raise StartRefused(
                f"PEREGRINE_TOOLS_MODULES names {name!r}, which has no function under @tool"
            )
        seen |= found.keys()
        yield from found.items()
    for entry in entry_points:
        try:
            loaded = entry.load()
        except Exception as error:
            # The boundary to packages of others: whatever their import raises is their failure.
            log.error("entry_point_broken", entry=entry.name, error=type(error).__name__)
            continue
        if isinstance(loaded, Definition):
            found = {f"{entry.module}:{entry.attr}": loaded}
        else:
            found = dict(_tools_of(entry.module, loaded))
        if not found:
            log.error("entry_point_broken", entry=entry.name, error="there is no tool in it")
        yield from ((origin, tool) for origin, tool in found.items() if origin not in seen)
        seen |= found.keys()


def _tools_of(name: str, module: object) -> Iterator[tuple[str, Definition]]:
    for attribute, value in vars(module).items():
        if isinstance(value, Definition):
            yield f"{name}:{attribute}", value


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise StartRefused(
            f"PEREGRINE_TOOLS_MODULES names {name!r}, which cannot be imported: {error}"
        ) from error
