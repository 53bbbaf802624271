"""Every setting of every service is documented, named once and safe to show."""

import ast
import dataclasses
import re

import pytest

from peregrine.kit import settings
from peregrine.kit.settings import Secret, setting
from tests.contract.reference import declared_settings, described
from tests.contract.repository import ROOT, Module, module, modules_under, product

DECLARED = declared_settings()
# Variables of others that mean the same everywhere.
FOREIGN = {"ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"}


def complaints(cls: type) -> list[str]:
    rows = settings.describe(cls)
    names = [row.variable for row in rows]
    found = [f"{name} is read twice" for name in set(names) if names.count(name) > 1]
    if not dataclasses.fields(cls):
        found.append(f"{cls.__name__} has no settings")
    if not getattr(cls, "__dataclass_params__").frozen:  # noqa: B009 - not in the type
        found.append(f"{cls.__name__} is not frozen")
    for row in rows:
        if not re.fullmatch(r"PEREGRINE_[A-Z][A-Z0-9_]*", row.variable):
            if row.variable not in FOREIGN:
                found.append(f"{row.variable} does not begin with PEREGRINE_")
        if len(row.help.split()) < 3:
            found.append(f"{row.variable} is not documented")
        if row.type == "float" and not re.search(
            r"second|share|factor|ratio|multipl", f"{row.field} {row.help}"
        ):
            found.append(f"{row.variable} does not say its unit")
        if re.search(r"(KEY|PASSWORD|SECRET|DSN|REDIS_URL)$", row.variable) and not row.secret:
            found.append(f"{row.variable} is shown when settings are")
        if row.field.endswith("_seconds") != row.variable.endswith("_SECONDS"):
            found.append(f"{row.variable} and {row.field} do not have the same name")
    return found


@pytest.mark.parametrize(("name", "cls"), DECLARED)
def test_settings_are_documented(name: str, cls: str) -> None:
    assert complaints(described(name, cls)) == []


def test_no_two_services_listen_on_the_same_port_by_default() -> None:
    listen = {
        name: row.default
        for name, cls in DECLARED
        for row in settings.describe(described(name, cls))
        if row.variable == "PEREGRINE_LISTEN" and name.endswith(".main")
    }
    assert len(set(listen.values())) == len(listen), listen


def test_a_variable_means_one_thing_in_every_service() -> None:
    types: dict[str, set[str]] = {}
    for name, cls in DECLARED:
        for row in settings.describe(described(name, cls)):
            types.setdefault(row.variable, set()).add(row.type)
    assert {variable: kinds for variable, kinds in types.items() if len(kinds) > 1} == {}


def test_no_variable_is_named_that_no_setting_reads() -> None:
    """A name mistyped in the wiring of one service would only ever show as a default."""
    declared = {
        row.variable for name, cls in DECLARED for row in settings.describe(described(name, cls))
    }
    named = {
        variable: one.where
        for one in (*product(), *modules_under(ROOT / "tests" / "support"))
        for variable in variables_in(one)
    }
    assert {name: where for name, where in named.items() if name not in declared} == {}


def variables_in(one: Module) -> set[str]:
    """The `PEREGRINE_*` names in a module's text, whole ones: prefixes end in an underscore."""
    return {
        node.value
        for node in ast.walk(one.tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.fullmatch(r"PEREGRINE_(?!TEST_)[A-Z0-9_]*[A-Z0-9]", node.value)
    }


def test_a_variable_in_the_text_of_a_module_is_found() -> None:
    source = "environ = {'PEREGRINE_LISTENS': '127.0.0.1:0', 'PEREGRINE_SECRET_': ''}"
    assert variables_in(module("peregrine.local.plan", source)) == {"PEREGRINE_LISTENS"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Undocumented:
    port: int = setting("PEREGRINE_PORT", default=1, help="port")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Twice:
    one: int = setting("PEREGRINE_SIZE", default=1, help="how many there are")
    two: int = setting("PEREGRINE_SIZE", default=1, help="how many there are")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Unprefixed:
    size: int = setting("SIZE", default=1, help="how many there are")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Shown:
    key: str = setting("PEREGRINE_API_KEY", default="x", help="key of the callers")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Unitless:
    wait: float = setting("PEREGRINE_WAIT", default=1.0, help="how long to wait")


@dataclasses.dataclass(kw_only=True)
class _Thawed:
    dsn: Secret = setting("PEREGRINE_DSN", help="where the database is")


@pytest.mark.parametrize("cls", [_Undocumented, _Twice, _Unprefixed, _Shown, _Unitless, _Thawed])
def test_a_bad_setting_is_found(cls: type) -> None:
    assert complaints(cls)
