"""The layers hold, files lie where they belong, and each check can fail."""

from pathlib import Path

import pytest

from tests.contract import layer_rules
from tests.contract.layer_rules import RULES, Rule
from tests.contract.repository import OPERATOR, ROOT, SERVICES, Module, module, product

PLANTED: list[tuple[Rule, list[Module]]] = [
    (rule, [module(name, source) for name, source in sources])
    for rule, *sources in (
        # A service never imports another, also not late, nor by name.
        (
            layer_rules.units_keep_their_layer,
            ("peregrine.orchestrator.service", "from peregrine.tools import service"),
        ),
        (
            layer_rules.units_keep_their_layer,
            ("peregrine.orchestrator.main", "def f():\n import peregrine.memory.store"),
        ),
        (
            layer_rules.units_keep_their_layer,
            ("peregrine.edge.main", "MODULES = {'memory': 'peregrine.memory.store'}"),
        ),
        (
            layer_rules.units_keep_their_layer,
            ("peregrine.tools.service", "from ..memory import store"),
        ),
        # kit knows no service and no message of one; client and CLI know no service.
        (
            layer_rules.units_keep_their_layer,
            ("peregrine.kit.serve", "from peregrine import client"),
        ),
        (
            layer_rules.units_keep_their_layer,
            ("peregrine.kit.errors", "from peregrine.api.tools.v1 import tools_pb2"),
        ),
        (
            layer_rules.units_keep_their_layer,
            ("peregrine.client.client", "import peregrine.orchestrator.plan"),
        ),
        (layer_rules.units_keep_their_layer, ("peregrine.cli.chat", "import peregrine.tools.main")),
        (layer_rules.units_keep_their_layer, ("peregrine.local.servers", "import peregrine.tools")),
        # Nothing in services/ imports the operator, also not who may start services.
        (
            layer_rules.units_keep_their_layer,
            ("peregrine.__main__", "import peregrine_operator.ttl"),
        ),
        (layer_rules.units_keep_their_layer, ("peregrine.helpers", "import os")),
        (
            layer_rules.libraries_have_one_home,
            ("peregrine.tools.a", "import asyncpg"),
            ("peregrine.tools.b", "from asyncpg import exceptions"),
        ),
        (layer_rules.nothing_is_imported_by_star_or_path, ("peregrine.kit.a", "from os import *")),
        (
            layer_rules.nothing_is_imported_by_star_or_path,
            ("peregrine.kit.a", "import sys; sys.path.insert(0, 'services')"),
        ),
        (
            layer_rules.nothing_is_imported_by_star_or_path,
            ("peregrine.kit.a", "from tests.support import eventually"),
        ),
        (
            layer_rules.modules_do_not_import_in_circles,
            ("peregrine.kit.a", "from peregrine.kit import b"),
            ("peregrine.kit.b", "from peregrine.kit.c import name"),
            ("peregrine.kit.c", "import peregrine.kit.a"),
        ),
    )
]

GOOD = [
    module("peregrine.tools.main", "import asyncpg, os\nfrom peregrine.tools import service"),
    module("peregrine.tools.service", "from peregrine.api.tools.v1 import tools_pb2"),
    module("peregrine.memory.store", "import asyncpg\nfrom peregrine.kit import errors"),
    module("peregrine.__main__", "SERVICES = {'tools': 'peregrine.tools.main'}"),
    module("peregrine.kit.errors", "DOMAIN = 'peregrine.dev'"),
    module("peregrine_operator.handlers", "import kopf\nfrom peregrine.client import Client"),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_layers_hold(rule: Rule) -> None:
    assert list(rule(product())) == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_what_the_layers_allow_is_not_complained_about(rule: Rule) -> None:
    assert list(rule(GOOD)) == []


@pytest.mark.parametrize(
    ("rule", "modules"), PLANTED, ids=[f"{r.__name__}-{m[0].name}" for r, m in PLANTED]
)
def test_a_planted_import_is_found(rule: Rule, modules: list[Module]) -> None:
    assert list(rule(modules))


def test_every_rule_has_a_planted_violation() -> None:
    assert {rule for rule, _ in PLANTED} == set(RULES)


def misplaced(services: Path, operator: Path) -> list[str]:
    """Files that a source root must not hold."""
    found = [
        f"{path.name}: services/ holds the package and nothing else"
        for path in services.iterdir()
        if path.name not in {"peregrine", "__pycache__"} and path.suffix != ".egg-info"
    ]
    if (operator / "__init__.py").exists():
        found.append("operator/__init__.py shadows the operator module of the standard library")
    found += [
        f"{path.name}: operator/ holds one package and nothing else"
        for path in operator.iterdir()
        if path.name not in {"peregrine_operator", "__pycache__", "__init__.py"}
    ]
    for root in (services, operator):
        found += [
            f"{path.relative_to(root)}: tests live under tests/"
            for pattern in ("test_*.py", "*_test.py", "conftest.py")
            for path in root.rglob(pattern)
        ]
        found += [
            f"{path.parent.relative_to(root)}: a package without __init__.py"
            for path in root.rglob("*.py")
            if path.parent != root
            and "api" not in path.relative_to(root).parts
            and not (path.parent / "__init__.py").exists()
        ]
    return sorted(set(found))


def test_files_lie_where_they_belong() -> None:
    assert misplaced(SERVICES, OPERATOR) == []
    assert (ROOT / "tests" / "__init__.py").exists()


@pytest.mark.parametrize(
    "name",
    [
        "operator/__init__.py",
        "operator/helpers.py",
        "operator/peregrine_operator/test_ttl.py",
        "services/conftest.py",
        "services/other/__init__.py",
        "services/peregrine/tools/http.py",
    ],
)
def test_a_misplaced_file_is_found(name: str, tmp_path: Path) -> None:
    for kept in ("operator/peregrine_operator/__init__.py", "services/peregrine/__init__.py"):
        (tmp_path / kept).parent.mkdir(parents=True)
        (tmp_path / kept).touch()
    assert misplaced(tmp_path / "services", tmp_path / "operator") == []
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()
    assert misplaced(tmp_path / "services", tmp_path / "operator")
