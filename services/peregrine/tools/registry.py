"""The tools of a worker, each with all that one call of it needs, made once.

Built-in tools come with Peregrine; others are found in Python modules that a setting names: every
`Definition` that stands in such a module is a tool. These are the same for everybody. A tenant sees
the tools it applied beside them, and nobody else does; where a name is taken already, the tool that
was there first stays.

A replaced tool keeps its lane and its counts, so that calls under way still count. Metrics have no
tenant: tools of one name share them.
"""

import importlib
import inspect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType

from peregrine.api.tools.v1 import tools_pb2
from peregrine.kit.errors import StartRefused
from peregrine.tools.admission import Admission, Lane
from peregrine.tools.arguments import Check
from peregrine.tools.definition import Definition
from peregrine.tools.metrics import ToolMeters, ToolMetrics
from peregrine.tools.stats import ToolStats


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
    blocking: bool
    listing: tools_pb2.RegisteredTool | None = None


class Registry:
    """Tools by name, those of everybody and those of each tenant."""

    def __init__(self, *, admission: Admission, metrics: ToolMetrics) -> None:
        self._admission = admission
        self._metrics = metrics
        self._tools: dict[str, Registered] = {}
        self._applied: dict[str, dict[str, Registered]] = {}
        self._meters: dict[str, tuple[ToolMeters, list[Lane]]] = {}
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
        """Whether no tenant can apply a tool of this name."""
        return name in self._tools

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
        self._meters[name][1].remove(tool.lane)
        self._leaving.append(tool.lane)
        self._close_lanes()

    def get(self, name: str, tenant: str = "") -> Registered | None:
        return self._tools.get(name) or self._applied.get(tenant, {}).get(name)

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
            lane.concurrency = definition.max_concurrency
        if name not in self._meters:
            lanes: list[Lane] = []
            meters = self._metrics.of_tool(name, lambda: sum(each.queued for each in lanes))
            self._meters[name] = meters, lanes
        meters, lanes = self._meters[name]
        if lane not in lanes:
            lanes.append(lane)
        return Registered(
            definition=definition,
            origin=origin,
            check=check,
            lane=lane,
            meters=meters,
            stats=ToolStats() if before is None else before.stats,
            blocking=not inspect.iscoroutinefunction(definition.function),
            listing=listing,
        )


def find(modules: Iterable[str]) -> Iterator[tuple[str, Definition]]:
    """The tools of Python modules, as ("module:attribute", definition).

    Raises:
      StartRefused: a module cannot be imported, or has no tool.
    """
    for name in modules:
        found = [
            (f"{name}:{attribute}", value)
            for attribute, value in vars(_imported(name)).items()
            if isinstance(value, Definition)
        ]
        if not found:
            raise StartRefused(
                f"PEREGRINE_TOOLS_MODULES names {name!r}, which has no function under @tool"
            )
        yield from found


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise StartRefused(
            f"PEREGRINE_TOOLS_MODULES names {name!r}, which cannot be imported: {error}"
        ) from error
