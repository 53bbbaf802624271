"""What the CRDs say beyond the fields of a spec: names, columns, status, rules between fields."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Rule = tuple[str, str]
Column = Mapping[str, Any]


@dataclass(frozen=True)
class Kind:
    name: str
    plural: str
    short: str
    about: str
    columns: tuple[Column, ...]
    status: Mapping[str, Any]
    rules: tuple[Rule, ...] = ()


def column(name: str, path: str, kind: str = "string", **more: object) -> Column:
    return {"name": name, "type": kind, "jsonPath": path} | more


def _condition(field: str) -> str:
    return f'.status.conditions[?(@.type=="Ready")].{field}'


READY = (
    column("Ready", _condition("status")),
    column("Reason", _condition("reason")),
    column("Age", ".metadata.creationTimestamp", "date"),
    column("Message", _condition("message"), priority=1),
)
_TIME = {"type": "string", "format": "date-time"}
_COUNT = {"type": "integer", "format": "int64"}
_WORDS = {"type": "string", "maxLength": 32768}
_STATE = {
    "type": "object",
    "description": "What the operator must not forget when it restarts.",
    "x-kubernetes-preserve-unknown-fields": True,
}
CONDITIONS: Mapping[str, Any] = {
    "observedGeneration": {
        "description": "The metadata.generation that this status speaks of.",
        **_COUNT,
    },
    "conditions": {
        "type": "array",
        "maxItems": 16,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "reason", "lastTransitionTime"],
            "properties": {
                "type": {"type": "string", "maxLength": 64},
                "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
                "reason": {"type": "string", "maxLength": 1024},
                "message": _WORDS,
                "observedGeneration": _COUNT,
                "lastTransitionTime": _TIME,
            },
        },
    },
}
_APPLIED = {
    "type": "object",
    "description": "What the service holds for this resource, as it answered.",
    "properties": {
        "generation": _COUNT,
        "version": _COUNT,
        "time": _TIME,
        "ttl": {"type": "string", "maxLength": 32},
    },
}


def _decision(*more: str) -> dict[str, Any]:
    return {
        "type": "object",
        "description": "The last decision, and why.",
        "properties": {
            "time": _TIME,
            "reason": {"type": "string", "maxLength": 1024},
            "message": _WORDS,
            **{name: {"type": "string", "maxLength": 128} for name in more},
        },
    }


AGENT = Kind(
    name="Agent",
    plural="agents",
    short="ag",
    about="An agent: a model, what it is told, the tools it may use, and its limits.",
    columns=(
        column("Model", ".spec.model"),
        column("Tools", ".status.tools"),
        *READY,
    ),
    status={
        **CONDITIONS,
        "applied": _APPLIED,
        "tools": {
            "type": "string",
            "maxLength": 32,
            "description": "How many of the tools that the agent names exist: 4/5.",
        },
        "missingTools": {
            "type": "array",
            "maxItems": 128,
            "items": {"type": "string", "maxLength": 64},
        },
    },
    rules=(
        (
            "!has(self.approvals) || self.approvals.all(each, has(self.tools) && "
            "each in self.tools)",
            "approvals names a tool that is not among tools: add it there too",
        ),
    ),
)
TOOL = Kind(
    name="Tool",
    plural="tools",
    short="tl",
    about="A tool that agents may use: built in, an HTTP call, an MCP server's, or a function.",
    columns=(
        column("Tool", ".status.tool"),
        column("Type", ".status.type"),
        column("Effect", ".status.effect"),
        *READY,
    ),
    status={
        **CONDITIONS,
        "applied": _APPLIED,
        "tool": {
            "type": "string",
            "maxLength": 64,
            "description": "What the model calls it.",
        },
        "type": {"type": "string", "maxLength": 16},
        "effect": {"type": "string", "maxLength": 16},
    },
    rules=(
        (
            "[has(self.builtin), has(self.http), has(self.mcp), has(self.python)]"
            ".filter(each, each).size() == 1",
            "needs exactly one of builtin, http, mcp and python",
        ),
        (
            "!has(self.http) || (has(self.description) && "
            "has(self.effect) && has(self.inputSchema))",
            "a tool of http needs description, effect and inputSchema",
        ),
        (
            "has(self.name) == has(oldSelf.name) && (!has(self.name) || self.name == oldSelf.name)",
            "name cannot change: create a Tool of the new name and delete this one",
        ),
    ),
)
TOOL_POOL = Kind(
    name="ToolPool",
    plural="toolpools",
    short="tpool",
    about="How one Deployment of tool workers is scaled, by the load that is offered to it.",
    columns=(
        column("Deployment", ".spec.deployment"),
        column("Min", ".spec.minReplicas", "integer"),
        column("Max", ".spec.maxReplicas", "integer"),
        column("Current", ".status.currentReplicas", "integer"),
        column("Desired", ".status.desiredReplicas", "integer"),
        column("Mode", ".spec.mode"),
        column("Profile", ".spec.profile", priority=1),
        column("Scaled", ".status.lastScaleTime", "date", priority=1),
        *READY,
    ),
    status={
        **CONDITIONS,
        "currentReplicas": {"description": "What the Deployment is to have.", **_COUNT},
        "desiredReplicas": {
            "description": "What it should have, whoever scales it; without data, what it has.",
            **_COUNT,
        },
        "lastScaleTime": {"description": "When the operator last wrote the scale.", **_TIME},
        "lastDecision": _decision(),
        "autoscaler": _STATE,
    },
    rules=(
        (
            "self.minReplicas <= self.maxReplicas",
            "minReplicas must not be more than maxReplicas (minReplicas is 2 unless it is given)",
        ),
        (
            "self.fallback == 0 || "
            "(self.minReplicas <= self.fallback && self.fallback <= self.maxReplicas)",
            "fallback must be between minReplicas and maxReplicas, or 0",
        ),
        (
            "!self.scaleToZero || self.minReplicas == 0",
            "scaleToZero needs minReplicas 0 (minReplicas is 2 unless it is given)",
        ),
    ),
)


def seconds(duration: str) -> str:
    """The CEL expression for the seconds of a duration; CEL's own knows no days."""
    unit = "p.endsWith('s') ? 1.0 : p.endsWith('m') ? 60.0 : p.endsWith('h') ? 3600.0 : 86400.0"
    return (
        f"{duration}.findAll('[0-9.]+[a-z]+').map(p, p.endsWith('ms') ? "
        f"double(p.replace('ms', '')) / 1000.0 : "
        f"double(p.substring(0, size(p) - 1)) * ({unit})).sum()"
    )


def _no_longer(shorter: str, longer: str) -> Rule:
    return (
        f"!has(self.{shorter}) || !has(self.{longer}) || "
        f"{seconds(f'self.{shorter}')} <= {seconds(f'self.{longer}')}",
        f"{shorter} must not be longer than {longer}",
    )


CACHE_POLICY = Kind(
    name="CachePolicy",
    plural="cachepolicies",
    short="cpol",
    about="How long entries of one namespace of the cache are kept, and within which bounds that "
    "is tuned.",
    columns=(
        column("Namespace", ".spec.namespace"),
        column("TTL", ".status.ttl"),
        column("Recommended", ".status.recommendedTtl", priority=1),
        column("Mode", ".spec.mode"),
        *READY,
    ),
    status={
        **CONDITIONS,
        "applied": _APPLIED,
        "ttl": {
            "type": "string",
            "maxLength": 32,
            "description": "The time to live in force.",
        },
        "recommendedTtl": {
            "type": "string",
            "maxLength": 32,
            "description": "Where the next step would lead; in Observe it is not taken.",
        },
        "lastChangeTime": {"description": "When the time to live was last changed.", **_TIME},
        "lastDecision": _decision(),
        "tuner": _STATE,
    },
    rules=(
        (
            "self.__namespace__ == oldSelf.__namespace__",
            "namespace cannot change: create a CachePolicy for the other and delete this one",
        ),
        _no_longer("minTtl", "maxTtl"),
        _no_longer("minTtl", "ttl"),
        _no_longer("ttl", "maxTtl"),
    ),
)
KINDS = (AGENT, TOOL, TOOL_POOL, CACHE_POLICY)
