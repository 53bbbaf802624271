"""The custom resources of `peregrine.dev/v1alpha1`, from YAML to what the services take.

    Agent        -> orchestrator.v1.Agent    AgentService.ApplyAgent
    Tool         -> tools.v1.Tool            ToolService.ApplyTool
    CachePolicy  -> cache.v1.Policy          CacheService.ApplyPolicy
    ToolPool     -> ToolPool                 the operator of a cluster, nobody else

One translation for everybody: `peregrine apply` reads files with `read_all`, the operator gives
each object it watches to `read`. Pure: text or data in, resources or *all* problems out, each
naming its file, its document and its field.

A Tool's `metadata.name` is a Kubernetes name, which cannot hold an underscore; what the model calls
the tool is `spec.name`, by default the same.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import yaml

from peregrine.api.cache.v1 import cache_pb2
from peregrine.api.orchestrator.v1 import orchestrator_pb2
from peregrine.api.tools.v1 import tools_pb2
from peregrine.client._bounds import DEFAULTS, TOOL_POOL, Entry
from peregrine.client._manifest import Reading, kind_of

API_VERSION = "peregrine.dev/v1alpha1"
KINDS = ("Agent", "Tool", "ToolPool", "CachePolicy")

_TOP_LEVEL = ("apiVersion", "kind", "metadata", "spec", "status")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a manifest, and where."""

    source: str
    document: int
    resource: str
    field: str
    message: str

    def __str__(self) -> str:
        where = f"{self.source}, document {self.document}"
        if self.resource:
            where += f" ({self.resource})"
        return (
            f"{where}: {self.field}: {self.message}" if self.field else f"{where}: {self.message}"
        )


class ResourceError(Exception):
    """Everything that is wrong with what was read."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolPool:
    """How the operator scales one Deployment of tool workers. Times are seconds."""

    name: str
    deployment: str
    max_replicas: int
    min_replicas: int = 2
    concurrency: int = 10
    wait_objective: float = 0.5
    profile: str = "balanced"
    mode: str = "Observe"
    expected_service: float = 1.0
    fallback: int = 0
    scale_to_zero: bool = False
    pause: bool = False


Value: TypeAlias = orchestrator_pb2.Agent | tools_pb2.Tool | cache_pb2.Policy | ToolPool


@dataclass(frozen=True, slots=True)
class Resource:
    """One valid resource and where it stands."""

    kind: str
    name: str
    value: Value
    source: str
    document: int

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


def read_all(text: str, *, source: str) -> list[Resource]:
    """Every resource of a multi-document YAML text; empty documents count but hold nothing.

    Raises:
      ResourceError: names every problem of every document.
    """
    resources: list[Resource] = []
    problems: list[Problem] = []
    document = 0
    try:
        for document, manifest in enumerate(yaml.load_all(text, Loader=_StrictLoader), start=1):
            if manifest is None:
                continue
            try:
                resources.append(read(manifest, source=source, document=document))
            except ResourceError as error:
                problems.extend(error.problems)
    except yaml.YAMLError as error:
        problems.append(Problem(source, document + 1, "", "", _syntax(error)))
    if problems:
        raise ResourceError(problems)
    return resources


def check_unique(resources: Iterable[Resource]) -> None:
    """Raises ResourceError when two resources have the same kind and name."""
    first: dict[tuple[str, str], Resource] = {}
    problems = []
    for resource in resources:
        known = first.setdefault((resource.kind, resource.name), resource)
        if known is not resource:
            where = f"{known.source}, document {known.document}"
            problems.append(
                Problem(
                    resource.source,
                    resource.document,
                    str(resource),
                    "metadata.name",
                    f"is already used in {where}",
                )
            )
    if problems:
        raise ResourceError(problems)


def read(manifest: object, *, source: str = "manifest", document: int = 1) -> Resource:
    """One resource from its plain data, as YAML or the Kubernetes API gives it.

    Raises:
      ResourceError: names every problem of it.
    """
    reading = Reading()
    entries = reading.mapping(manifest, "", _TOP_LEVEL)
    kind, name = "", ""
    if isinstance(manifest, Mapping):
        kind = _kind(reading, entries)
        name = _name(reading, entries.get("metadata"))
    value: Value | None = None
    if kind:
        if "spec" in entries:
            value = _READERS[kind](reading, name, entries["spec"])
        else:
            reading.problem("spec", "is missing")
    if reading.problems or value is None:
        resource = " ".join(part for part in (kind, name) if part)
        raise ResourceError(
            Problem(source, document, resource, field, message)
            for field, message in reading.problems
        )
    return Resource(kind, name, value, source, document)


def _kind(reading: Reading, entries: Mapping[str, Any]) -> str:
    for key in ("apiVersion", "kind"):
        if key not in entries:
            reading.problem(key, "is missing")
    if entries.get("apiVersion", API_VERSION) != API_VERSION:
        reading.problem("apiVersion", f"must be {API_VERSION}, not {entries['apiVersion']}")
        return ""
    if "kind" in entries:
        return reading.choice(entries["kind"], "kind", KINDS) or ""
    return ""


def _name(reading: Reading, metadata: object) -> str:
    if not isinstance(metadata, Mapping):
        wrong = "is missing" if metadata is None else f"must be a mapping, not {kind_of(metadata)}"
        reading.problem("metadata", wrong)
        return ""
    name = metadata.get("name")
    if name is None:
        reading.problem("metadata.name", "is missing")
        return ""
    if not isinstance(name, str) or not _LABEL.fullmatch(name):
        reading.problem(
            "metadata.name",
            f"must be 1 to 63 of a-z 0-9 -, with a letter or digit at both ends, not {name!r}",
        )
        return ""
    return name


def _agent(reading: Reading, name: str, spec: object) -> orchestrator_pb2.Agent:
    agent = orchestrator_pb2.Agent(name=name)
    reading.fill(agent.spec, spec, "spec")
    for index, tool in enumerate(agent.spec.approvals):
        if tool not in agent.spec.tools:
            reading.problem(f"spec.approvals[{index}]", f"{tool!r} is not among spec.tools")
    return agent


def _tool(reading: Reading, name: str, spec: object) -> tools_pb2.Tool:
    tool = tools_pb2.Tool(name=name)
    reading.fill(tool, spec, "spec")
    backend = tool.WhichOneof("backend")
    if isinstance(spec, Mapping) and not spec.keys() & {"builtin", "http", "mcp", "python"}:
        reading.problem("spec", "needs one of builtin, http, mcp and python")
    # What is built in or written in Python, and what an MCP server offers, describes itself.
    if backend == "http":
        reading.require(spec, "spec", "description", "effect", "inputSchema")
    if backend == "mcp" and bool(tool.mcp.url) == bool(tool.mcp.command):
        reading.problem("spec.mcp", "needs exactly one of url and command")
    if isinstance(spec, Mapping) and "inputSchema" in spec:
        schema = spec["inputSchema"]
        if not isinstance(schema, Mapping) or schema.get("type") != "object":
            reading.problem("spec.inputSchema", "must be a JSON Schema whose type is object")
    return tool


def _cache_policy(reading: Reading, name: str, spec: object) -> cache_pb2.Policy:
    policy = cache_pb2.Policy()
    if isinstance(spec, Mapping):
        spec = {"mode": DEFAULTS["Policy.mode"], **spec}
    reading.fill(policy, spec, "spec")
    least = policy.min_ttl.ToNanoseconds() if policy.HasField("min_ttl") else 0
    if policy.HasField("max_ttl") and least > policy.max_ttl.ToNanoseconds():
        reading.problem("spec.minTtl", "is longer than spec.maxTtl")
    if policy.HasField("ttl"):
        if policy.ttl.ToNanoseconds() < least:
            reading.problem("spec.ttl", "is shorter than spec.minTtl")
        if (
            policy.HasField("max_ttl")
            and policy.ttl.ToNanoseconds() > policy.max_ttl.ToNanoseconds()
        ):
            reading.problem("spec.ttl", "is longer than spec.maxTtl")
    return policy


def _tool_pool(reading: Reading, name: str, spec: object) -> ToolPool | None:
    # The one kind without a proto: no service ever takes it.
    given = reading.mapping(spec, "spec", [entry.key for entry in TOOL_POOL])
    reading.require(spec, "spec", *(entry.key for entry in TOOL_POOL if entry.default is None))
    values: dict[str, Any] = {}
    for entry in TOOL_POOL:
        value = given.get(entry.key, entry.default)
        if value is not None:
            values[entry.attribute] = _entry(reading, entry, value)
    if reading.problems:
        return None
    pool = ToolPool(name=name, **values)
    if pool.min_replicas > pool.max_replicas:
        reading.problem("spec.minReplicas", "is more than spec.maxReplicas")
    if pool.fallback and not pool.min_replicas <= pool.fallback <= pool.max_replicas:
        reading.problem("spec.fallback", "is not between spec.minReplicas and spec.maxReplicas")
    if pool.scale_to_zero and pool.min_replicas > 0:
        reading.problem("spec.scaleToZero", "needs spec.minReplicas 0")
    return pool


def _entry(reading: Reading, entry: Entry, value: object) -> object:
    path, bounds = f"spec.{entry.key}", entry.bounds
    match entry.kind:
        case "integer":
            return reading.integer(value, path, least=bounds.least or 0, most=bounds.most or 0)
        case "duration":
            return (reading.nanoseconds(value, path, bounds) or 0) / 1e9
        case "boolean":
            return reading.boolean(value, path)
        case "text":
            if bounds.choices:
                return reading.choice(value, path, bounds.choices)
            return reading.text(value, path, bounds)


_READERS: dict[str, Callable[[Reading, str, object], Value | None]] = {
    "Agent": _agent,
    "Tool": _tool,
    "ToolPool": _tool_pool,
    "CachePolicy": _cache_policy,
}


class _StrictLoader(yaml.SafeLoader):
    """Plain data only; a key that stands twice is an error, a date stays text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
                raise yaml.constructor.ConstructorError(
                    None, None, "a key must be plain text", key.start_mark
                )
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} stands twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_StrictLoader.yaml_implicit_resolvers = {
    first: [resolver for resolver in resolvers if "timestamp" not in resolver[0]]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _syntax(error: yaml.YAMLError) -> str:
    if not isinstance(error, yaml.MarkedYAMLError):
        return f"is not YAML: {error}"
    mark = error.problem_mark or error.context_mark
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return f"{where}{error.problem or error.context}"
