"""The limits of what a manifest may say, in one table.

Two read it: the parser of this package, and the maker of the CRDs, so that `peregrine apply` and
`kubectl apply` refuse the same things. The protos give fields, types and enums; what their comments
bound stands here. Patterns hold for the whole text and keep to what Python's `re` and RE2 read
alike: no `\\d`, `\\w` or `\\s`, no look-around.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

LONGEST_DURATION = 32
DURATION = r"(?:[0-9]{1,9}(?:\.[0-9]{1,9})?(?:ms|s|m|h|d))+"
DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits of one field, and of each entry where it is a list or a map.

    Numbers: least and most; durations: the same, in seconds; text: characters (`length`) or UTF-8
    bytes, and `least` means that it is not blank; maps: `keys` is the pattern of their keys.
    """

    pattern: str | None = None
    pattern_in_words: str = ""
    least: float | None = None
    most: float | None = None
    length: int | None = None
    bytes: int | None = None
    items: int | None = None
    choices: tuple[str, ...] = ()
    keys: str | None = None
    keys_in_words: str = ""

    @property
    def characters(self) -> int | None:
        """No longer text can be right."""
        return self.bytes if self.length is None else self.length


_TOOL = r"[a-zA-Z0-9_-]{1,64}"
_TOOL_IN_WORDS = "1 to 64 of a-z A-Z 0-9 _ -"
_TAG = r"[!-~]{1,128}"
_SECRET = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,126}[A-Za-z0-9])?"  # noqa: S105 - the form of a name
_VARIABLE = r"[A-Za-z_][A-Za-z0-9_]{0,127}"
_VARIABLE_IN_WORDS = "names of environment variables"
_HEADER = r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}"
# Arguments in braces come after the host.
_AFTER_HOST = r'(?:[/?][!"$-~]*)?'
_URL = rf"https?://[A-Za-z0-9._~%!&'()*+,;=:@\[\]-]+{_AFTER_HOST}"
_SECRET_HEADERS = Bounds(
    items=32,
    keys=_HEADER,
    keys_in_words="names of headers",
    pattern=_SECRET,
    pattern_in_words="the name of a secret (never the secret itself): letters, digits, _ . -",
    length=128,
)
_MODELS = Bounds(least=1, length=128, items=8)
_TTL = Bounds(least=0.001, most=30 * DAY)
_EXTRA_TIME = Bounds(least=0, most=30 * DAY)

BOUNDS: Mapping[str, Bounds] = {
    "AgentSpec.model": Bounds(least=1, length=128),
    "AgentSpec.fallback_models": _MODELS,
    "AgentSpec.system_prompt": Bounds(bytes=64 * 1024),
    "AgentSpec.tools": Bounds(_TOOL, _TOOL_IN_WORDS, length=64, items=128),
    "AgentSpec.capabilities": Bounds(least=1, length=64, items=64),
    "AgentSpec.approvals": Bounds(_TOOL, _TOOL_IN_WORDS, length=64, items=128),
    "AgentSpec.temperature": Bounds(least=0, most=1),
    "AgentSpec.description": Bounds(bytes=4 * 1024),
    "AgentLimits.max_steps": Bounds(least=1, most=100),
    "AgentLimits.max_output_tokens": Bounds(least=1, most=1_000_000),
    "AgentLimits.max_duration": Bounds(least=0.001, most=3600),
    "ContextOptions.max_messages": Bounds(least=1),
    "ContextOptions.token_budget": Bounds(least=1),
    "Tool.name": Bounds(_TOOL, _TOOL_IN_WORDS, length=64),
    "Tool.description": Bounds(least=1, bytes=4 * 1024),
    "Tool.invalidates": Bounds(_TAG, "1 to 128 visible ASCII characters", length=128, items=32),
    "Tool.tags": Bounds(_TAG, "1 to 128 visible ASCII characters", length=128, items=32),
    "Tool.timeout": Bounds(least=0.001, most=300),
    "Tool.max_concurrency": Bounds(least=1, most=1000),
    "Tool.retries": Bounds(most=5),
    "Tool.cache_ttl": _TTL,
    "Tool.uncacheable_arguments": Bounds(least=1, length=128, items=64),
    "BuiltinBackend.name": Bounds(_TOOL, _TOOL_IN_WORDS, length=64),
    "HttpBackend.method": Bounds(
        choices=("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"), length=6
    ),
    "HttpBackend.url": Bounds(
        rf"{_URL}|\$\{{PEREGRINE_EXAMPLE_HTTP_URL\}}{_AFTER_HOST}",
        "http://HOST/… or https://HOST/…, or begin with ${PEREGRINE_EXAMPLE_HTTP_URL}, "
        "with {arguments} only after the host and nothing after a #",
        length=8192,
    ),
    "HttpBackend.headers": Bounds(
        items=32,
        keys=_HEADER,
        keys_in_words="names of headers",
        pattern=r"[ -~]*",
        pattern_in_words="one line of ASCII",
        length=4096,
    ),
    "HttpBackend.secret_headers": _SECRET_HEADERS,
    "McpBackend.url": Bounds(_URL, "http://HOST/… or https://HOST/…", length=8192),
    "McpBackend.command": Bounds(least=1, length=1024, items=64),
    "McpBackend.tool": Bounds(least=1, length=128),
    "McpBackend.secret_headers": _SECRET_HEADERS,
    "McpBackend.approved_digests": Bounds(
        r"sha256:[0-9a-f]{64}", "sha256: and 64 hexadecimal digits", length=71, items=512
    ),
    "McpBackend.environment": Bounds(
        items=64, keys=_VARIABLE, keys_in_words=_VARIABLE_IN_WORDS, length=4096
    ),
    "McpBackend.secret_environment": Bounds(
        items=32,
        keys=_VARIABLE,
        keys_in_words=_VARIABLE_IN_WORDS,
        pattern=_SECRET,
        pattern_in_words=_SECRET_HEADERS.pattern_in_words,
        length=128,
    ),
    "PythonBackend.function": Bounds(
        r"[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*", "package.module:function", length=256
    ),
    "Policy.namespace": Bounds(
        r"[A-Za-z0-9_.:-]{1,128}", "1 to 128 of A-Z a-z 0-9 _ . : -", length=128
    ),
    "Policy.ttl": _TTL,
    "Policy.min_ttl": _TTL,
    "Policy.max_ttl": _TTL,
    "Policy.max_stale_fraction": Bounds(least=0, most=1),
    "Policy.stale_while_revalidate": _EXTRA_TIME,
    "Policy.stale_if_error": _EXTRA_TIME,
}

# What must be said, by message; what depends on other fields is in `resources`.
REQUIRED: Mapping[str, tuple[str, ...]] = {
    "AgentSpec": ("model",),
    "HttpBackend": ("url",),
    "PythonBackend": ("function",),
    "Policy": ("namespace",),
}
# Fields that a manifest may not say, and values that hold when it says nothing.
UNWRITABLE: Mapping[str, tuple[str, ...]] = {"Policy": ("version",)}
DEFAULTS: Mapping[str, Any] = {"Policy.mode": "Observe"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One field of a kind without a proto. `default` is as YAML says it; None: it must be said."""

    key: str
    attribute: str
    kind: Literal["text", "integer", "duration", "boolean"]
    about: str
    bounds: Bounds = Bounds()
    default: Any = None


TOOL_POOL: tuple[Entry, ...] = (
    Entry(
        "deployment",
        "deployment",
        "text",
        "The Deployment that is scaled, in the namespace of the pool.",
        Bounds(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?", "the name of a Deployment", length=253),
    ),
    Entry(
        "minReplicas",
        "min_replicas",
        "integer",
        "Never fewer pods than these; 0 means 1 unless scaleToZero is on.",
        Bounds(least=0, most=10_000),
        2,
    ),
    Entry(
        "maxReplicas",
        "max_replicas",
        "integer",
        "Never more pods than these.",
        Bounds(least=1, most=10_000),
    ),
    Entry(
        "concurrency",
        "concurrency",
        "integer",
        "Executions at the same time on one pod.",
        Bounds(least=1, most=10_000),
        10,
    ),
    Entry(
        "waitObjective",
        "wait_objective",
        "duration",
        "How long a call may wait for a free place (95 of 100 calls) before more pods are wanted.",
        Bounds(least=0.001, most=300),
        "500ms",
    ),
    Entry(
        "profile",
        "profile",
        "text",
        "balanced: few pods more than needed. latency: headroom for bursts.",
        Bounds(choices=("balanced", "latency"), length=8),
        "balanced",
    ),
    Entry(
        "mode",
        "mode",
        "text",
        "Observe: only says what it would do. Direct: does it.",
        Bounds(choices=("Observe", "Direct"), length=7),
        "Observe",
    ),
    Entry(
        "expectedService",
        "expected_service",
        "duration",
        "How long one execution takes, until enough were measured to know.",
        Bounds(least=0.001, most=3600),
        "1s",
    ),
    Entry(
        "fallback",
        "fallback",
        "integer",
        "At least so many pods when nothing has been known of the load for two minutes; it never "
        "takes pods away. 0: as many as there are.",
        Bounds(least=0, most=10_000),
        0,
    ),
    Entry(
        "scaleToZero",
        "scale_to_zero",
        "boolean",
        "No pods after a quarter of an hour without a call; the next call waits for one to start. "
        "Needs minReplicas 0.",
        default=False,
    ),
    Entry("pause", "pause", "boolean", "Scales nothing while it is true.", default=False),
)
