"""What is to be done about an agent or a tool, by table."""

from dataclasses import replace
from typing import Any

import pytest

from peregrine.kit import errors
from peregrine.kit.errors import PeregrineError
from peregrine_operator import decisions, view
from peregrine_operator.decisions import FINALIZER, Held, Situation, Step, Tools, decide, judge
from peregrine_operator.kubernetes import Key
from peregrine_operator.view import Object

HELD = Held(version=3, time="2026-01-01T00:00:03Z")
APPLIED = {"generation": 2, "version": 3, "time": "2026-01-01T00:00:03Z"}
OTHER = Key("Agent", "other", "helper")


def one(
    *,
    generation: int = 2,
    deleting: bool = False,
    finalizers: tuple[str, ...] = (FINALIZER,),
    applied: dict[str, Any] | None = None,
    kind: str = "Agent",
    uid: str = "uid-1",
) -> Object:
    metadata: dict[str, Any] = {
        "name": "helper",
        "namespace": "one",
        "uid": uid,
        "generation": generation,
        "finalizers": list(finalizers),
    }
    if deleting:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    status = {} if applied is None else {"applied": applied, "conditions": [{"type": "Ready"}]}
    return view.read(kind, {"metadata": metadata, "spec": {}, "status": status})


def situation(**changes: Any) -> Situation:
    """Applied, known, owned by itself: nothing to do."""
    resource = changes.pop("resource", one(applied=APPLIED))
    usual = Situation(resource=resource, owner=resource.key, held=HELD, known=True)
    return replace(usual, **changes)


CASES = {
    "applied and unchanged": (situation(), Step.SAY, "", "Applied"),
    "new": (situation(resource=one(), held=None), Step.APPLY, "", ""),
    "without our finalizer": (
        situation(resource=one(finalizers=(), applied=APPLIED)),
        Step.APPLY,
        "",
        "",
    ),
    "changed since": (situation(resource=one(generation=3, applied=APPLIED)), Step.APPLY, "", ""),
    "deleted by somebody else": (situation(held=None), Step.APPLY, "was deleted", ""),
    "changed by somebody else": (
        situation(held=replace(HELD, version=4)),
        Step.APPLY,
        "was changed",
        "",
    ),
    "deleted and made again by somebody else": (
        situation(held=replace(HELD, time="2026-01-02T00:00:00Z")),
        Step.APPLY,
        "was changed",
        "",
    ),
    "applied, and the service is away": (situation(held=None, known=False), Step.SAY, "", ""),
    "refused a short while ago": (
        situation(resource=one(generation=3, applied=APPLIED), refused=True),
        Step.SAY,
        "",
        "",
    ),
    "invalid": (situation(problems=("spec.model is missing",)), Step.SAY, "", "Invalid"),
    "younger than another of the name": (situation(owner=OTHER), Step.SAY, "", "Conflicted"),
    "to go": (situation(resource=one(deleting=True, applied=APPLIED)), Step.REMOVE, "", ""),
    "to go, never applied": (
        situation(resource=one(deleting=True), owner=None, held=None),
        Step.REMOVE,
        "",
        "",
    ),
    "to go, and another has the name": (
        situation(resource=one(deleting=True, applied=APPLIED), owner=OTHER),
        Step.RELEASE,
        "",
        "",
    ),
    "to go, and not ours any more": (
        situation(resource=one(deleting=True, finalizers=("theirs",))),
        Step.NOTHING,
        "",
        "",
    ),
    "to go, though invalid": (
        situation(resource=one(deleting=True), problems=("spec is missing",)),
        Step.REMOVE,
        "",
        "",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_done(name: str) -> None:
    now, step, drift, reason = CASES[name]
    plan = decide(now)
    assert (plan.step, plan.drift) == (step, drift)
    assert (plan.ready.reason if plan.ready else "") == reason


@pytest.mark.parametrize(
    ("tools", "held", "expected"),
    [
        (Tools(), HELD, ("True", "Applied")),
        (Tools(2, ("a",)), HELD, ("False", "ToolsMissing")),
        (Tools(2, (), ("a (off)",)), HELD, ("False", "ToolsDisabled")),
        (Tools(), replace(HELD, disabled="its server is gone"), ("False", "Disabled")),
        (Tools(1, None), HELD, None),
        (Tools(), None, None),
    ],
)
def test_whether_it_can_be_used(
    tools: Tools, held: Held | None, expected: tuple[str, str] | None
) -> None:
    ready = judge(situation(tools=tools, held=held))
    assert (ready and (ready.status, ready.reason)) == expected


def test_a_first_agent_whose_tools_nobody_can_tell_is_unknown() -> None:
    ready = judge(situation(resource=one(), tools=Tools(1, None)))
    assert ready is not None
    assert (ready.status, ready.reason) == ("Unknown", "ToolsUnknown")


def test_a_repeated_request_has_the_same_id_and_a_new_one_another() -> None:
    first = decisions.request_id(one())
    assert decisions.request_id(one()) == first
    others = [
        decisions.request_id(one(generation=3)),
        decisions.request_id(one(uid="uid-2")),
        decisions.request_id(one(applied=APPLIED)),
        decisions.request_id(one(applied={**APPLIED, "time": "2026-01-05T00:00:00Z"})),
        decisions.request_id(one(), deleting=True),
    ]
    assert len({first, *others}) == len(others) + 1
    assert all(len(each) <= 128 for each in others)


@pytest.mark.parametrize(
    ("error", "reason", "refused", "after"),
    [
        (errors.InvalidArgument("no", reason="AGENT_INVALID"), "AgentInvalid", True, 300.0),
        (errors.FailedPrecondition("no", reason="TOOL_BUILTIN"), "ToolBuiltin", True, 300.0),
        (errors.Unimplemented("no", reason="METHOD_NOT_IMPLEMENTED"), "MethodNotImplemented",
         True, 300.0),
        (errors.PermissionDenied("no", reason="SCOPE_MISSING"), "ScopeMissing", False, 60.0),
        (errors.Unavailable("no", reason="UNAVAILABLE"), "ServiceUnavailable", False, None),
        (errors.DeadlineExceeded("no", reason="DEADLINE_EXCEEDED"), "ServiceUnavailable",
         False, None),
        (errors.Unavailable("no", reason="POSTGRES_UNAVAILABLE", retry_after=2.0),
         "PostgresUnavailable", False, 2.0),
        (errors.ResourceExhausted("no", reason="TOOL_LIMIT_REACHED"), "ToolLimitReached",
         False, None),
        (errors.Aborted("no", reason="VERSION_STALE"), "VersionStale", False, None),
    ],
)  # fmt: skip
def test_a_failure_is_final_or_comes_back(
    error: PeregrineError, reason: str, refused: bool, after: float | None
) -> None:
    found = decisions.failure(error, "the orchestrator")
    assert (found.ready.status, found.ready.reason) == ("False", reason)
    assert (found.refused, found.after) == (refused, after)
    assert found.ready.message.startswith("the orchestrator: no")


def test_a_deletion_that_waits_says_how_to_let_go() -> None:
    error = errors.Unavailable("away", reason="UNAVAILABLE")
    found = decisions.failure(error, "the orchestrator", deleting=True)
    assert "not deleted yet" in found.ready.message
    assert FINALIZER in found.ready.message
