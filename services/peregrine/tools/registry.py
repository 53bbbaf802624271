"""The tools of a worker, each with all that one call of it needs, made once.

Built-in tools come with Peregrine; others are found in Python modules that a setting names: every
`Definition` that stands in such a module is a tool.
"""

import bisect
import importlib
import inspect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType

from peregrine.kit.errors import StartRefused
from peregrine.tools.admission import Admission, Lane
from peregrine.tools.arguments import Check
from peregrine.tools.definition import Definition
from peregrine.tools.metrics import ToolMeters, ToolMetrics
from peregrine.tools.stats import ToolStats


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """A tool, ready to be called. `origin` is "module:attribute", empty for a built-in one."""

    definition: Definition
    origin: str
    check: Check
    lane: Lane
    meters: ToolMeters
    stats: ToolStats
    blocking: bool


class Registry:
    """Tools by name."""

    def __init__(self, *, admission: Admission, metrics: ToolMetrics) -> None:
        self._admission = admission
        self._metrics = metrics
        self._tools: dict[str, Registered] = {}
        self._names: list[str] = []

    def register(self, definition: Definition, *, origin: str = "") -> Registered:
        """Raises `ValueError`: the name is taken, or the input schema is not one."""
        name = definition.name
        if name in self._tools:
            raise ValueError(f"the tool {name!r} is there twice")
        try:
            check = Check(definition.input_schema)
        except ValueError as error:
            raise ValueError(f"the input schema of the tool {name!r} {error}") from None
        lane = self._admission.open_lane(definition.max_concurrency)
        tool = Registered(
            definition=definition,
            origin=origin,
            check=check,
            lane=lane,
            meters=self._metrics.of_tool(name, lambda: lane.queued),
            stats=ToolStats(),
            blocking=not inspect.iscoroutinefunction(definition.function),
        )
        self._tools[name] = tool
        bisect.insort(self._names, name)
        return tool

    def get(self, name: str) -> Registered | None:
        return self._tools.get(name)

    def __len__(self) -> int:
        return len(self._tools)

    def names(self) -> Sequence[str]:
        """In alphabetical order."""
        return self._names

    def select(self, *, after: str = "", limit: int, only: Iterable[str] = ()) -> list[Registered]:
        """At most `limit` tools by name, those after the name `after`; of `only`, when given."""
        wanted = sorted(set(only) & self._tools.keys()) if only else self._names
        start = bisect.bisect_right(wanted, after) if after else 0
        return [self._tools[name] for name in wanted[start : start + limit]]


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
