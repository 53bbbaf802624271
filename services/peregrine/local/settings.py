"""What `make run` can be told, all of it by variables. Nothing has to be."""

from dataclasses import dataclass
from pathlib import Path

from peregrine.kit.settings import Secret, setting


def _port(name: str, default: int) -> int:
    port: int = setting(
        f"PEREGRINE_LOCAL_{name}_PORT",
        default=default,
        minimum=0,
        maximum=65535,
        help=f"TCP port of the {name.lower().replace('_', ' ')} on 127.0.0.1; 0 picks a free one",
    )
    return port


@dataclass(frozen=True, kw_only=True)
class LocalSettings:
    """All other PEREGRINE_* variables are passed on to the services."""

    state_dir: Path = setting(
        "PEREGRINE_STATE_DIR",
        default=Path(".peregrine"),
        help="directory that holds the databases and logs; it survives restarts",
    )
    examples_dir: Path = setting(
        "PEREGRINE_EXAMPLES_DIR",
        default=Path("examples"),
        help="directory of YAML that is applied at every start, with the documents in docs/",
    )
    orchestrator_port: int = _port("ORCHESTRATOR", 50051)
    llm_gateway_port: int = _port("LLM_GATEWAY", 50052)
    tools_port: int = _port("TOOLS", 50053)
    cache_port: int = _port("CACHE", 50054)
    memory_port: int = _port("MEMORY", 50055)
    edge_port: int = _port("EDGE", 8080)
    simulator_port: int = _port("SIMULATOR", 50060)
    simulator_control_port: int = _port("SIMULATOR_CONTROL", 50061)
    start_seconds: float = setting(
        "PEREGRINE_LOCAL_START_SECONDS",
        default=60.0,
        minimum=1,
        help="seconds that each server and service gets to become ready",
    )
    postgres_dsn: Secret | None = setting(
        "PEREGRINE_POSTGRES_DSN",
        default=None,
        secret=True,
        help="a PostgreSQL to use instead of the embedded one, entered by a plain role",
    )
    redis_url: Secret | None = setting(
        "PEREGRINE_REDIS_URL",
        default=None,
        secret=True,
        help="a Redis for logs and leases (noeviction) to use instead of the embedded one",
    )
    cache_redis_url: Secret | None = setting(
        "PEREGRINE_CACHE_REDIS_URL",
        default=None,
        secret=True,
        help="a Redis for the cache (LFU eviction); without it the other one serves both",
    )
    anthropic_api_key: Secret | None = setting(
        "ANTHROPIC_API_KEY",
        default=None,
        secret=True,
        help="key of the Anthropic API; without it and without a base URL the model is simulated",
    )
    anthropic_api_key_ref: str | None = setting(
        "PEREGRINE_ANTHROPIC_API_KEY_REF",
        default=None,
        help="name of the secret that holds the key, instead of ANTHROPIC_API_KEY",
    )
    anthropic_base_url: str | None = setting(
        "PEREGRINE_ANTHROPIC_BASE_URL",
        default=None,
        help="another endpoint that speaks the Anthropic Messages API",
    )

    @property
    def simulated(self) -> bool:
        """Nothing says where a model is, so a stand-in is started."""
        told = (self.anthropic_api_key, self.anthropic_api_key_ref, self.anthropic_base_url)
        return all(each is None for each in told)
