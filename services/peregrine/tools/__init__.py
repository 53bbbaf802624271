"""Tools: what they are, and running them so that none can harm another.

The names below are for those who write a tool; `peregrine.tools.definition` explains them.
"""

from peregrine.tools.definition import (
    ChangeClass,
    CostClass,
    Effect,
    OutcomeUnknown,
    Output,
    Scope,
    ToolContext,
    ToolFailure,
    TransientFailure,
    tool,
)

__all__ = [
    "ChangeClass",
    "CostClass",
    "Effect",
    "OutcomeUnknown",
    "Output",
    "Scope",
    "ToolContext",
    "ToolFailure",
    "TransientFailure",
    "tool",
]
