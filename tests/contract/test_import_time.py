"""Importing any module of the product does no work."""

import os
import subprocess
import sys

import pytest

import peregrine.client
from tests.contract.import_time import plain_classes, work_at_import
from tests.contract.layer_rules import SERVICES
from tests.contract.repository import SERVICES as SOURCE
from tests.contract.repository import module, product

# What a unit may call besides, with the reason.
ALLOWED = {
    # Sentinels.
    "kit": frozenset({"AllTenants", "NoTenant"}),
    # Bodies and parameters of requests are declared with pydantic and FastAPI.
    "edge": frozenset({"ConfigDict", "Field", "Header", "Path", "Query"}),
    # Bytes of events that are always the same.
    "simulator": frozenset({"event"}),
    # Declares a setting.
    "local": frozenset({"_port"}),
    # `tool` describes a function; the others wrap functions of `math`; the rest is immutable.
    "tools": frozenset(
        {
            "tool",
            "_of_float",
            "_of_integers",
            "ipaddress.IPv6Network",
            "ipaddress.ip_network",
            "referencing.Registry",
            "httpx2.Timeout",
        }
    ),
    # Queries and tables written out from constants.
    "peregrine_operator": frozenset({"_arrived", "_demand", "fields", "middles"}),
    # A typer application is declared.
    "cli": frozenset({"typer.Typer", "typer.Option", "typer.Argument"}),
}

# What a program that only calls Peregrine should not have to load.
NOT_FOR_CLIENTS = ("anthropic", "asyncpg", "fastapi", "hypercorn", "kopf", "redis", "typer")


def test_no_module_works_at_import() -> None:
    modules = product()
    declared = plain_classes(modules)
    complaints = [
        complaint
        for one in modules
        for complaint in work_at_import([one], allowed=ALLOWED.get(one.unit, ()), declared=declared)
    ]
    assert complaints == []


@pytest.mark.parametrize(
    "source",
    [
        "import asyncio\nlock = asyncio.Lock()",
        "from prometheus_client import Counter\nCALLS = Counter('calls', 'Calls.')",
        "import redis.asyncio\nclass Tail:\n    client = redis.asyncio.Redis()",
        "def f(pool=connect()): ...",
        "@register('tool')\ndef f(): ...",
        "import grpc\nchannel: object = grpc.aio.insecure_channel('x')",
        "SECRET = open('/etc/secret').read()",
        "for name in range(3):\n    print(name)",
        "try:\n    import fast\nexcept ImportError:\n    fast = None",
        "DEFAULT = {'client': [make() for _ in range(3)]}",
    ],
)
def test_planted_work_is_found(source: str) -> None:
    assert list(work_at_import([module("peregrine.kit.a", source)]))


def test_what_a_function_does_is_its_own_business() -> None:
    source = """
import re
from dataclasses import dataclass
NAME = re.compile("x")
@dataclass(frozen=True)
class Limit:
    size: int = 3
    def lock(self): return asyncio.Lock()
LIMITS = (Limit(size=4),)
later = lambda: connect()
if __name__ == "__main__":
    main()
"""
    modules = [module("peregrine.kit.a", source)]
    assert list(work_at_import(modules, declared=plain_classes(modules))) == []


def test_the_client_library_loads_no_service_and_no_store() -> None:
    names = (*NOT_FOR_CLIENTS, *(f"peregrine.{name}" for name in (*SERVICES, "local")))
    program = f"import sys, peregrine.client; print(*sys.modules.keys() & set({names!r}))"
    loaded = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(SOURCE), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert loaded.stdout.split() == []


def test_the_client_library_shows_what_it_means_to_and_nothing_else() -> None:
    promised = peregrine.client.__all__
    assert promised == sorted(promised)
    assert {name for name in vars(peregrine.client) if not name.startswith("_")} == set(promised)
