"""What is to be done about an agent or a tool: pure, from what was read to a plan.

    NOTHING   it is not ours to touch (any more)
    SAY       the service is left alone; only the status may have to change
    APPLY     the service gets the definition
    REMOVE    the resource goes, and with it what the service holds; then the finalizer
    RELEASE   the resource goes, and the name belongs to another one: only the finalizer

A service's answer is remembered in the status (`applied`: generation, version, time of the stored
definition). As long as the service lists the same, nothing is asked of it; when it lists something
else, somebody else was there, which is drift, and the definition is applied again.
"""

import enum
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from peregrine.kit import errors
from peregrine.kit.errors import PeregrineError
from peregrine_operator.kubernetes import GROUP, Key
from peregrine_operator.view import Object

FINALIZER = f"{GROUP}/operator"
# A definition that a service refused is offered again after this long: it may have been upgraded.
REFUSED_AGAIN = 300.0
DENIED_AGAIN = 60.0

_MAX_MESSAGE = 2000
_PERMANENT = (
    errors.InvalidArgument,
    errors.FailedPrecondition,
    errors.AlreadyExists,
    errors.NotFound,
    errors.OutOfRange,
    errors.Unimplemented,
)
_DENIED = (errors.PermissionDenied, errors.Unauthenticated)


class Step(enum.Enum):
    NOTHING = enum.auto()
    SAY = enum.auto()
    APPLY = enum.auto()
    REMOVE = enum.auto()
    RELEASE = enum.auto()


@dataclass(frozen=True, slots=True)
class Ready:
    """The condition Ready: status True, False or Unknown."""

    status: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Held:
    """What a service holds under a name. `time`: of its last change; `disabled`: why, if it is."""

    version: int
    time: str
    disabled: str = ""
    effect: str = ""


@dataclass(frozen=True, slots=True)
class Tools:
    """The tools that an agent names, as far as the tools service tells. None: it does not."""

    named: int = 0
    missing: tuple[str, ...] | None = ()
    disabled: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """All that is known when a resource is looked at.

    `known` tells whether the service could be asked what it holds; `refused` whether it has refused
    this very generation a short while ago.
    """

    resource: Object
    problems: tuple[str, ...] = ()
    owner: Key | None = None
    held: Held | None = None
    known: bool = False
    refused: bool = False
    tools: Tools = Tools()


@dataclass(frozen=True, slots=True)
class Plan:
    step: Step
    ready: Ready | None = None
    drift: str = ""


def decide(now: Situation) -> Plan:
    one = now.resource
    owned_by_other = now.owner is not None and now.owner != one.key
    if one.deleting:
        if FINALIZER not in one.finalizers:
            return Plan(Step.NOTHING)
        return Plan(Step.RELEASE if owned_by_other else Step.REMOVE)
    if now.problems:
        return Plan(Step.SAY, Ready("False", "Invalid", _said(now.problems)))
    if now.owner is not None and owned_by_other:
        return Plan(Step.SAY, _conflicted(one, now.owner))
    if now.refused:
        return Plan(Step.SAY)
    applied = _applied(one)
    if FINALIZER not in one.finalizers or applied.get("generation") != one.generation:
        return Plan(Step.APPLY)
    if now.known and (drift := _drift(applied, now.held)):
        return Plan(Step.APPLY, drift=drift)
    return Plan(Step.SAY, judge(now))


def judge(now: Situation) -> Ready | None:
    """Whether an applied resource can be used; None when what is known does not tell."""
    tools, held = now.tools, now.held
    if tools.missing is None:
        if now.resource.key.kind == "Agent" and not now.resource.status.get("conditions"):
            why = "applied; whether its tools exist is not known: the tools service is away"
            return Ready("Unknown", "ToolsUnknown", why)
        return None
    if tools.missing:
        names = _listed(tools.missing)
        why = f"these tools do not exist: {names}. Apply a Tool for each, or take it from the agent"
        return Ready("False", "ToolsMissing", why)
    if tools.disabled:
        return Ready("False", "ToolsDisabled", f"cannot be called now: {_listed(tools.disabled)}")
    if held is None:
        return None
    if held.disabled:
        return Ready("False", "Disabled", f"cannot be called now: {held.disabled}")
    return Ready("True", "Applied", f"applied as version {held.version}")


def remembered(one: Object, held: Held) -> dict[str, Any]:
    """What the status keeps of the service's answer."""
    return {
        "generation": one.generation,
        "version": held.version,
        "time": held.time,
    }


def request_id(one: Object, *, deleting: bool = False) -> str:
    """Names a mutation by what it is, so that a repetition after a lost reply is the same request.

    The last answer of the service is part of it: the same definition that is applied again after
    somebody deleted it is another request.
    """
    last = _applied(one)
    parts = (one.uid, one.generation, deleting, last.get("version"), last.get("time"))
    return "operator-" + hashlib.sha256(repr(parts).encode()).hexdigest()[:40]


@dataclass(frozen=True, slots=True)
class Failure:
    """How a failed call is told, and when it is made again: `after` seconds, None for the usual.

    `refused`: as it stands it can never succeed; only a changed resource or service helps.
    """

    ready: Ready
    refused: bool
    after: float | None


def failure(error: PeregrineError, service: str, *, deleting: bool = False) -> Failure:
    fields = "; ".join(f"{field} {wrong}" for field, wrong in error.violations)
    said = f"{service}: {error.message}" + (f" ({fields})" if fields else "")
    reason = _camel(error.reason)
    if deleting:
        said = (
            f"it is not deleted yet: {said}. It will be tried again; to let it go all the same, "
            f"take {FINALIZER} from metadata.finalizers"
        )
    if isinstance(error, _PERMANENT):
        return Failure(Ready("False", reason, said[:_MAX_MESSAGE]), True, REFUSED_AGAIN)
    if isinstance(error, _DENIED):
        return Failure(Ready("False", reason, said[:_MAX_MESSAGE]), False, DENIED_AGAIN)
    if error.reason == error.code.name or error.reason == "PEER_UNREACHABLE":
        reason = "ServiceUnavailable"
    return Failure(Ready("False", reason, said[:_MAX_MESSAGE]), False, error.retry_after)


def _applied(one: Object) -> Mapping[str, Any]:
    applied = one.status.get("applied")
    return applied if isinstance(applied, Mapping) else {}


def _drift(applied: Mapping[str, Any], held: Held | None) -> str:
    if held is None:
        return "was deleted"
    same = (held.version, held.time) == (applied.get("version"), applied.get("time"))
    return "" if same else "was changed"


def _conflicted(one: Object, owner: Key) -> Ready:
    kind, name = one.claim
    why = (
        f"{owner.namespace}/{owner.name} is older and has the name {name!r} already: "
        f"rename or delete one of the two {kind}s"
    )
    return Ready("False", "Conflicted", why)


def _said(problems: tuple[str, ...]) -> str:
    return "; ".join(problems)[:_MAX_MESSAGE]


def _listed(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:10])
    return shown if len(names) <= 10 else f"{shown} and {len(names) - 10} more"


def _camel(reason: str) -> str:
    return "".join(part.capitalize() for part in reason.split("_"))
