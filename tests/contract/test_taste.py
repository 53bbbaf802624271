"""The house rules hold in the product and in the tests, and each can fail."""

import pytest

from tests.contract import taste_rules
from tests.contract.repository import ROOT, module, modules_under, product
from tests.contract.taste_rules import OF_TESTS, OF_THE_PRODUCT, Rule

PLANTED: list[tuple[Rule, str]] = [
    (taste_rules.no_waiting_for_the_clock, "async def f():\n await asyncio.sleep(0.1)"),
    (taste_rules.no_waiting_for_the_clock, "def f(seconds): time.sleep(seconds)"),
    (taste_rules.no_waiting_for_the_clock, "def f():\n while True: time.sleep(1)"),
    (taste_rules.no_mocks, "from unittest.mock import AsyncMock"),
    (taste_rules.no_mocks, "from unittest import mock"),
    (taste_rules.broad_catches_tell, "try: f()\nexcept Exception: pass"),
    (taste_rules.broad_catches_tell, "try: f()\nexcept: x = 1"),
    (taste_rules.broad_catches_tell, "try: f()\nexcept (OSError, BaseException) as e: x = 1"),
    (taste_rules.nothing_suppresses_everything, "with contextlib.suppress(Exception): f()"),
    (taste_rules.nothing_has_a_name_that_says_nothing, "class RunManager: ..."),
    (taste_rules.every_module_says_what_it_is_for, "import os"),
]


@pytest.mark.parametrize("rule", OF_TESTS, ids=lambda rule: rule.__name__)
def test_the_tests_keep_the_rule(rule: Rule) -> None:
    assert list(rule(modules_under(ROOT / "tests"))) == []


@pytest.mark.parametrize("rule", OF_THE_PRODUCT, ids=lambda rule: rule.__name__)
def test_the_product_keeps_the_rule(rule: Rule) -> None:
    assert list(rule(product())) == []


@pytest.mark.parametrize(("rule", "source"), PLANTED)
def test_a_planted_breach_is_found(rule: Rule, source: str) -> None:
    assert list(rule([module("peregrine.kit.a", source)]))


def test_every_rule_has_a_planted_breach() -> None:
    assert {rule for rule, _ in PLANTED} == {*OF_TESTS, *OF_THE_PRODUCT}


def test_what_the_rules_allow_is_not_complained_about() -> None:
    source = '''"""Docs."""
try: f()
except Exception: log.exception("task_failed")
try: f()
except BaseException:
    close()
    raise
try: f()
except Exception as raised: return report(raised)
try: f()
except OSError: pass
async def f():
    await asyncio.sleep(0)
    await asyncio.sleep(3600)
    while not done():
        await asyncio.sleep(0.01)
'''
    for rule in (*OF_TESTS, *OF_THE_PRODUCT):
        assert list(rule([module("peregrine.kit.a", source)])) == []
