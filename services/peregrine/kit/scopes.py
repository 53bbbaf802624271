"""What a caller may do: three scopes, each of which includes the one before, and who needs which.

`read` lists, gets and watches. `run` starts, cancels and approves, and changes what is the user's
own. `admin` keeps what all users of a tenant share: agents, tools, policies, keys. A fourth,
`bootstrap`, is what the key of an installation has beside `admin`: keys for any tenant. It is never
given to another key and never taken from a token of somebody else.

`NEEDED` names every method of the contract; a test holds the two together. The names of methods are
data here. A method that has no line needs `admin`, so what is forgotten is closed.
"""

from collections.abc import Iterable, Mapping

READ, RUN, ADMIN, BOOTSTRAP = "read", "run", "admin", "bootstrap"
# Any caller whose credential is good, whatever it allows.
ANY = ""
GRANTABLE = (READ, RUN, ADMIN)
OF_RUN = frozenset({READ, RUN})
ALL = frozenset({READ, RUN, ADMIN})
OF_BOOTSTRAP = ALL | {BOOTSTRAP}

_INCLUDED: Mapping[str, frozenset[str]] = {
    READ: frozenset({READ}),
    RUN: OF_RUN,
    ADMIN: ALL,
    BOOTSTRAP: frozenset({BOOTSTRAP}),
}

_BY_SERVICE: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "peregrine.api.orchestrator.v1.OrchestratorService": {
        READ: ("WatchRun", "GetRun", "ListRuns"),
        RUN: ("Chat", "StartRun", "CancelRun", "ApproveToolCall"),
    },
    "peregrine.api.orchestrator.v1.AgentService": {
        READ: ("GetAgent", "ListAgents"),
        ADMIN: ("ApplyAgent", "DeleteAgent"),
    },
    "peregrine.api.orchestrator.v1.CoordinatorService": {
        READ: ("GetPerformanceReport",),
        RUN: ("DistributeTasks",),
    },
    "peregrine.api.identity.v1.IdentityService": {
        ANY: ("ExchangeCredential",),
        ADMIN: ("CreateApiKey", "ListApiKeys", "RevokeApiKey"),
    },
    "peregrine.api.llm_gateway.v1.LlmService": {
        READ: ("WatchGeneration", "ListModels", "GetUsage"),
        RUN: ("Generate", "CancelGeneration", "CountTokens"),
    },
    "peregrine.api.tools.v1.ToolService": {
        READ: ("ListTools", "GetExecutionStats"),
        RUN: ("ExecuteTool", "ExecuteTools"),
        ADMIN: ("ApplyTool", "DeleteTool", "InvalidateToolResults"),
    },
    "peregrine.api.cache.v1.CacheService": {
        READ: ("Get", "BatchGet", "WatchInvalidations", "GetStats", "GetPolicy", "ListPolicies"),
        RUN: ("GetOrLease", "Set", "ReleaseLease", "Delete", "Invalidate", "Warm"),
        ADMIN: ("ApplyPolicy",),
    },
    "peregrine.api.memory.v1.MemoryService": {
        READ: (
            "LoadContext",
            "GetConversation",
            "ListConversations",
            "ListMessages",
            "SearchMessages",
            "ExportConversation",
            "GetUserProfile",
            "GetMemoryStats",
        ),
        RUN: (
            "BeginTurn",
            "AppendMessages",
            "CompactConversation",
            "DeleteConversation",
            "ImportConversation",
            "PutUserProfile",
            "DeleteUser",
        ),
    },
}

NEEDED: Mapping[str, str] = {
    f"/{service}/{method}": scope
    for service, lines in _BY_SERVICE.items()
    for scope, methods in lines.items()
    for method in methods
}


def expand(granted: Iterable[str]) -> frozenset[str]:
    """The granted scopes with all that they include; words that are no scopes are left out."""
    return frozenset().union(*(_INCLUDED.get(scope, frozenset()) for scope in granted))


def least(scopes: frozenset[str]) -> tuple[str, ...]:
    """The fewest words that `expand` makes `scopes` of."""
    return tuple(
        scope
        for scope in _INCLUDED
        if scope in scopes
        and not any(other != scope and scope in _INCLUDED[other] for other in scopes)
    )
