"""What runs locally and what each program is told."""

import socket

import pytest

from peregrine.kit.settings import load
from peregrine.local import plan
from peregrine.local.plan import Service, Stores
from peregrine.local.processes import ProcessFailed
from peregrine.local.settings import LocalSettings

FREE = {
    f"PEREGRINE_LOCAL_{name}_PORT": "0"
    for name in (
        "ORCHESTRATOR",
        "LLM_GATEWAY",
        "TOOLS",
        "MEMORY",
        "CACHE",
        "EDGE",
        "SIMULATOR",
        "SIMULATOR_CONTROL",
    )
}
STORES = Stores(postgres_dsn="pg://", redis_url="redis://0", cache_redis_url="redis://1")


def planned(**environ: str) -> dict[str, Service]:
    settings = load(LocalSettings, FREE | environ)
    services = plan.services(
        settings,
        ports=plan.ports(settings),
        stores=STORES,
        environ=FREE | environ,
        stand_in="127.0.0.1:4321",
    )
    return {service.name: service for service in services}


def test_without_a_key_the_simulator_runs_and_the_gateway_is_pointed_at_it() -> None:
    services = planned()
    simulator = services["simulator"].address
    assert services["llm-gateway"].environ["PEREGRINE_ANTHROPIC_BASE_URL"] == f"http://{simulator}"


@pytest.mark.parametrize(
    "told",
    [
        {"ANTHROPIC_API_KEY": "k"},
        {"PEREGRINE_ANTHROPIC_BASE_URL": "http://there"},
        {"PEREGRINE_ANTHROPIC_API_KEY_REF": "KEY"},
    ],
)
def test_who_says_where_the_model_is_gets_no_simulator(told: dict[str, str]) -> None:
    services = planned(**told)
    assert "simulator" not in services
    assert told.items() <= services["llm-gateway"].environ.items()


def test_secrets_go_only_to_the_services_that_use_them() -> None:
    services = planned(ANTHROPIC_API_KEY="sk-real", PEREGRINE_SECRET_CRM="crm", OTHER="passes")
    for name, service in services.items():
        assert ("ANTHROPIC_API_KEY" in service.environ) == (name == "llm-gateway")
        assert ("PEREGRINE_SECRET_CRM" in service.environ) == (name in {"tools", "llm-gateway"})
        assert service.environ["OTHER"] == "passes"
        assert ("PEREGRINE_CACHE_REDIS_URL" in service.environ) == (name == "cache")
    simulator = planned()["simulator"].environ
    assert not {"PEREGRINE_POSTGRES_DSN", "PEREGRINE_REDIS_URL"} & simulator.keys()


def test_every_service_has_its_own_address_and_knows_its_neighbours() -> None:
    services = planned(PEREGRINE_LISTEN="0.0.0.0:1", PEREGRINE_METRICS_PORT="9000")
    addresses = {service.environ["PEREGRINE_LISTEN"] for service in services.values()}
    assert len(addresses) == len(services)
    assert all(address.startswith("127.0.0.1:") for address in addresses)
    orchestrator = services["orchestrator"].environ
    for neighbour in ("memory", "tools", "llm-gateway"):
        variable = f"PEREGRINE_{neighbour.upper().replace('-', '_')}_TARGET"
        assert orchestrator[variable] == services[neighbour].address
    assert "PEREGRINE_METRICS_PORT" not in orchestrator


def test_what_the_user_sets_for_a_service_wins_over_the_local_defaults() -> None:
    assert planned()["orchestrator"].environ["PEREGRINE_DRAIN_SECONDS"] == "5"
    chosen = planned(PEREGRINE_DRAIN_SECONDS="1", PEREGRINE_LOG_LEVEL="debug")
    assert chosen["orchestrator"].environ["PEREGRINE_DRAIN_SECONDS"] == "1"
    assert chosen["orchestrator"].environ["PEREGRINE_LOG_LEVEL"] == "debug"


def test_the_example_tools_are_answered_by_the_stand_in_and_reach_nothing_else_here() -> None:
    tools = planned()["tools"].environ
    assert tools["PEREGRINE_EXAMPLE_HTTP_URL"] == "http://127.0.0.1:4321"
    assert tools["PEREGRINE_EGRESS_ALLOW"] == "127.0.0.1:4321"
    more = planned(PEREGRINE_EGRESS_ALLOW="10.0.0.0/8")["tools"].environ
    assert more["PEREGRINE_EGRESS_ALLOW"] == "10.0.0.0/8,127.0.0.1:4321"
    elsewhere = planned(PEREGRINE_EXAMPLE_HTTP_URL="https://api.example")["tools"].environ
    assert elsewhere["PEREGRINE_EXAMPLE_HTTP_URL"] == "https://api.example"
    assert "PEREGRINE_EGRESS_ALLOW" not in elsewhere


def test_only_targets_that_moved_are_worth_telling() -> None:
    port = plan.Port(number=50051, variable="A")
    elsewhere = plan.Port(number=1234, variable="B")
    ports = {"orchestrator": (port,), "memory": (elsewhere,), "llm-gateway": (elsewhere,)}
    assert plan.moved_targets(ports) == {"PEREGRINE_MEMORY_TARGET": "127.0.0.1:1234"}


def test_a_taken_port_is_named_with_its_variable() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        settings = load(LocalSettings, FREE | {"PEREGRINE_LOCAL_MEMORY_PORT": str(number)})
        with pytest.raises(ProcessFailed, match=rf"port {number} .*PEREGRINE_LOCAL_MEMORY_PORT"):
            plan.ports(settings)


def test_the_edge_is_asked_over_http_whether_it_is_ready() -> None:
    services = planned()
    assert {name: each.probe for name, each in services.items() if each.probe != "grpc"} == {
        "edge": "http",
        "simulator": "port",
    }
    edge = services["edge"].environ
    assert edge["PEREGRINE_ORCHESTRATOR_TARGET"] == services["orchestrator"].address
    assert edge["PEREGRINE_MEMORY_TARGET"] == services["memory"].address
    assert "PEREGRINE_POSTGRES_DSN" not in edge
