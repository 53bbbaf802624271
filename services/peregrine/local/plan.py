"""What runs locally and with which environment: pure, from settings to a list of programs.

A secret is given only to the service that uses it. Each service listens on 127.0.0.1, finds its
neighbours by their targets, and stops within a few seconds when it is told to.
"""

import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from peregrine.local.processes import ProcessFailed
from peregrine.local.settings import LocalSettings

HOST = "127.0.0.1"

# Seconds that runs and calls in flight get when everything stops, because Ctrl-C should not take
# long: a run that is not done by then goes on at the next start.
HANDOVER_SECONDS = 2.0
DRAIN_SECONDS = 5.0

_ONLY_FOR: Mapping[str, frozenset[str]] = {
    "ANTHROPIC_": frozenset({"llm-gateway"}),
    "PEREGRINE_ANTHROPIC_": frozenset({"llm-gateway"}),
    "PEREGRINE_SECRET_": frozenset({"tools", "llm-gateway"}),
    "PEREGRINE_POSTGRES_DSN": frozenset(
        {"orchestrator", "memory", "tools", "llm-gateway", "cache"}
    ),
    "PEREGRINE_REDIS_URL": frozenset({"orchestrator", "llm-gateway", "cache"}),
    "PEREGRINE_CACHE_REDIS_URL": frozenset({"cache"}),
    "PEREGRINE_SQL_TOOL_DSN": frozenset({"tools"}),
    # One process's address is of no use to the next; here each service gets its own.
    "PEREGRINE_LISTEN": frozenset(),
    "PEREGRINE_METRICS_PORT": frozenset(),
}

_EXAMPLE_URL = "PEREGRINE_EXAMPLE_HTTP_URL"
_EGRESS_ALLOW = "PEREGRINE_EGRESS_ALLOW"
_PROBES: Mapping[str, Literal["http", "port"]] = {"edge": "http", "simulator": "port"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    number: int
    variable: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A program to run. `ports[0]` is where it is reached; `probe`: how it says it is ready."""

    name: str
    ports: tuple[Port, ...]
    environ: Mapping[str, str]
    probe: Literal["grpc", "http", "port"] = "grpc"

    @property
    def address(self) -> str:
        return address(self.ports)

    @property
    def command(self) -> tuple[str, ...]:
        return (sys.executable, "-m", "peregrine", self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    """Where the state is: DSN and URLs, embedded or not."""

    postgres_dsn: str
    redis_url: str
    cache_redis_url: str


def ports(settings: LocalSettings) -> dict[str, tuple[Port, ...]]:
    """The ports of each service that will run, in the order of start; 0 becomes a free one."""
    wanted = {
        "memory": {"MEMORY": settings.memory_port},
        "cache": {"CACHE": settings.cache_port},
        "tools": {"TOOLS": settings.tools_port},
        "llm-gateway": {"LLM_GATEWAY": settings.llm_gateway_port},
        "orchestrator": {"ORCHESTRATOR": settings.orchestrator_port},
        "edge": {"EDGE": settings.edge_port},
    }
    if settings.simulated:
        wanted["simulator"] = {
            "SIMULATOR": settings.simulator_port,
            "SIMULATOR_CONTROL": settings.simulator_control_port,
        }
    return {
        service: tuple(_reserve(service, name, number) for name, number in each.items())
        for service, each in wanted.items()
    }


def services(
    settings: LocalSettings,
    *,
    ports: Mapping[str, tuple[Port, ...]],
    stores: Stores,
    environ: Mapping[str, str],
    stand_in: str,
) -> list[Service]:
    """Every service with its environment.

    Args:
      stand_in: host:port of what answers the example tools, unless they are sent elsewhere.
    """
    shared = {
        **targets(ports),
        "PEREGRINE_POSTGRES_DSN": stores.postgres_dsn,
        "PEREGRINE_REDIS_URL": stores.redis_url,
        "PEREGRINE_CACHE_REDIS_URL": stores.cache_redis_url,
        "PEREGRINE_REFLECTION": "true",
        # Everything here listens on loopback only.
        "PEREGRINE_AUTH_REQUIRED": "false",
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": import_path(environ),
    }
    if "simulator" in ports:
        # Where the model is said to be, and a key that could open nothing elsewhere.
        api = ports["simulator"][0].number
        shared["PEREGRINE_ANTHROPIC_BASE_URL"] = f"http://{HOST}:{api}"
        shared["ANTHROPIC_API_KEY"] = "simulated"
    if not environ.get(_EXAMPLE_URL):
        shared[_EXAMPLE_URL] = f"http://{stand_in}"
        # Tools reach nothing on this machine but that port, and what the user opened.
        opened = filter(None, (environ.get(_EGRESS_ALLOW), stand_in))
        shared[_EGRESS_ALLOW] = ",".join(opened)
    defaults = {
        "PEREGRINE_DRAIN_SECONDS": f"{DRAIN_SECONDS:g}",
        "PEREGRINE_HANDOVER_SECONDS": f"{HANDOVER_SECONDS:g}",
        "PEREGRINE_KNOWLEDGE_DIR": str(settings.examples_dir / "docs"),
    }
    everything = defaults | dict(environ) | shared
    return [
        Service(
            name=name,
            ports=own,
            environ=_for_service(name, everything) | _listen(name, own),
            probe=_PROBES.get(name, "grpc"),
        )
        for name, own in ports.items()
    ]


def address(own: Sequence[Port]) -> str:
    """Where a service is reached."""
    return f"{HOST}:{own[0].number}"


def targets(ports: Mapping[str, Sequence[Port]]) -> dict[str, str]:
    """The variables by which services and the CLI find each other."""
    return {_target(name): address(own) for name, own in ports.items() if name != "simulator"}


def moved_targets(ports: Mapping[str, Sequence[Port]]) -> dict[str, str]:
    """Those that the CLI has to be told, because they are not where they are by default."""
    usual = {
        _target("orchestrator"): LocalSettings.orchestrator_port,
        _target("memory"): LocalSettings.memory_port,
        _target("tools"): LocalSettings.tools_port,
        _target("cache"): LocalSettings.cache_port,
    }
    return {
        variable: target
        for variable, target in targets(ports).items()
        if variable in usual and target != f"{HOST}:{usual[variable]}"
    }


def _target(service: str) -> str:
    return f"PEREGRINE_{service.upper().replace('-', '_')}_TARGET"


def _listen(name: str, own: tuple[Port, ...]) -> dict[str, str]:
    if name == "simulator":
        api, control = own
        return {
            "PEREGRINE_LISTEN": f"{HOST}:{api.number}",
            "PEREGRINE_SIMULATOR_CONTROL_LISTEN": f"{HOST}:{control.number}",
        }
    return {"PEREGRINE_LISTEN": address(own)}


def _for_service(name: str, environ: Mapping[str, str]) -> dict[str, str]:
    return {
        variable: value
        for variable, value in environ.items()
        if all(name in users for prefix, users in _ONLY_FOR.items() if variable.startswith(prefix))
    }


def import_path(environ: Mapping[str, str]) -> str:
    """This very package, also where it is not installed."""
    root = str(Path(__file__).parents[2])
    before = environ.get("PYTHONPATH", "")
    return f"{root}:{before}" if before else root


def _reserve(service: str, name: str, number: int) -> Port:
    """Make sure that a port can be had; the number stays free until its service takes it."""
    variable = f"PEREGRINE_LOCAL_{name}_PORT"
    with socket.socket() as probe:
        # As servers do: a port whose last connections are fading away is not in use.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, number))
        except OSError as problem:
            raise ProcessFailed(
                f"port {number} ({service}) cannot be had ({problem.strerror}):"
                f" stop what uses it, or choose another port with {variable}"
            ) from problem
        return Port(number=probe.getsockname()[1], variable=variable)
