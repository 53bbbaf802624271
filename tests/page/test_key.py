"""The page before an edge that wants to know who is asking."""

from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, Page, expect

from peregrine.edge.server import EdgeServer
from peregrine.kit.context import Identity
from tests.component.cli.fakes import Neighbours
from tests.page.test_page import message, say
from tests.support.edge import edge
from tests.support.eventually import eventually
from tests.support.fake_orchestrator import FakeOrchestrator

KEY = "pk_0123456789abcdef_" + "s" * 43
WRONG = "pk_0123456789abcdef_" + "w" * 43


@pytest.fixture
async def server(fake: FakeOrchestrator, memory: Neighbours) -> AsyncIterator[EdgeServer]:
    fake.identities.keys[KEY] = Identity("acme", "ada")
    async with edge(
        orchestrator=fake.target, memory=memory.target, PEREGRINE_AUTH_REQUIRED="true"
    ) as server:
        yield server


async def give(page: Page, key: str) -> None:
    await page.get_by_label("API key").fill(key)
    await page.keyboard.press("Enter")


async def test_a_key_is_asked_for_once_and_opens_the_page(page: Page) -> None:
    dialog = page.get_by_role("dialog", name="Who is asking?")
    await expect(dialog).to_be_visible()
    await expect(page.get_by_label("API key")).to_be_focused()
    await expect(page.get_by_text("not valid any more")).to_be_hidden()
    await give(page, WRONG)
    await expect(page.get_by_text("not valid any more")).to_be_visible()
    await give(page, KEY)
    await expect(dialog).to_be_hidden()
    await expect(page.get_by_label("Agent")).to_have_value("assistant")
    await say(page, "hello?")
    await expect(page.locator(".answer")).to_contain_text("hello")


async def test_a_key_lives_in_this_tab_only_and_is_in_no_address(
    page: Page, browser: Browser, server: EdgeServer
) -> None:
    await give(page, KEY)
    await expect(page.get_by_role("button", name="Sign out")).to_be_visible()
    await page.reload()
    await expect(page.get_by_label("Agent")).to_have_value("assistant")
    await expect(page.get_by_role("dialog")).to_be_hidden()
    kept = "JSON.stringify([Object.entries(localStorage), document.cookie, location.href])"
    assert KEY not in await page.evaluate(kept)
    other = await page.context.new_page()
    await other.goto(server.url)
    await expect(other.get_by_role("dialog", name="Who is asking?")).to_be_visible()
    await other.close()


async def test_signing_out_forgets_the_key(page: Page) -> None:
    await give(page, KEY)
    await page.get_by_role("button", name="Sign out").click()
    await expect(page.get_by_role("dialog", name="Who is asking?")).to_be_visible()
    assert KEY not in await page.evaluate("JSON.stringify(Object.entries(sessionStorage))")
    await expect(page.get_by_role("button", name="Sign out")).to_be_hidden()


async def test_who_gives_no_key_is_told_and_asked_again(page: Page) -> None:
    await expect(page.get_by_label("API key")).to_be_focused()
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("alert").filter(has_text="say who you are")).to_be_visible()
    await message(page).fill("hello?")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("dialog", name="Who is asking?")).to_be_visible()


async def test_a_key_that_is_revoked_in_the_middle_is_asked_for_again_and_the_answer_goes_on(
    page: Page, fake: FakeOrchestrator, server: EdgeServer
) -> None:
    await give(page, KEY)
    await expect(page.get_by_label("Agent")).to_have_value("assistant")
    other = "pk_fedcba9876543210_" + "n" * 43
    fake.identities.keys = {other: Identity("acme", "ada")}
    # The edge believes what it knows for half a minute: another edge, so to speak.
    await page.evaluate(f"sessionStorage.setItem('peregrine.key', '{WRONG}')")
    await say(page, "hello?")
    await expect(page.get_by_text("not valid any more")).to_be_visible()
    await give(page, other)
    await expect(page.locator(".answer")).to_contain_text("hello")
    await eventually(lambda: "Chat" in fake.calls)
