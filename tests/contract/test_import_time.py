"""Importing any module of the product does no work."""

import pytest

from tests.contract.import_time import plain_classes, work_at_import
from tests.contract.repository import module, product

# What a unit may call besides, with the reason.
ALLOWED = {
    # A sentinel.
    "kit": frozenset({"AllTenants"}),
    # Bytes of events that are always the same.
    "simulator": frozenset({"event"}),
    # Declares a setting.
    "local": frozenset({"_port"}),
    # A typer application is declared.
    "cli": frozenset({"typer.Typer", "typer.Option", "typer.Argument"}),
}


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
