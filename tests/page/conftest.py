"""A Chromium, and the page before stand-ins that do what a test wants, or before real services.

The browser is the system's (Debian's package `chromium`); where there is none, tests are skipped.
"""

import os
import shutil
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, Page, async_playwright

from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from peregrine.edge.server import EdgeServer
from tests.component.cli.fakes import Neighbours, neighbours
from tests.support.edge import edge
from tests.support.fake_orchestrator import FakeOrchestrator, fake_orchestrator

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"no Chromium on the path (looked for {', '.join(NAMES)})")
    # Chromium's sandbox does not work for root, which is who runs in a container.
    arguments = ["--disable-dev-shm-usage", "--disable-gpu"]
    if os.geteuid() == 0:
        arguments.append("--no-sandbox")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=found, args=arguments)
        try:
            yield browser
        finally:
            await browser.close()


@pytest.fixture
async def fake() -> AsyncIterator[FakeOrchestrator]:
    async with fake_orchestrator() as fake:
        fake.agents["assistant"] = pb.Agent(name="assistant", spec=pb.AgentSpec(model="m"))
        yield fake


@pytest.fixture
async def memory() -> AsyncIterator[Neighbours]:
    async with neighbours() as fakes:
        fakes.memory.conversations.clear()
        fakes.memory.messages.clear()
        yield fakes


@pytest.fixture
async def server(fake: FakeOrchestrator, memory: Neighbours) -> AsyncIterator[EdgeServer]:
    async with edge(orchestrator=fake.target, memory=memory.target) as server:
        yield server


@pytest.fixture
async def page(browser: Browser, server: EdgeServer) -> AsyncIterator[Page]:
    """The page, opened. What it complains about fails the test."""
    context = await browser.new_context(base_url=server.url)
    page = await context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "console",
        lambda message: complaints.append(message.text) if message.type == "error" else None,
    )
    await page.goto("/")
    yield page
    await context.close()
    # A request that a test makes fail is told on the console, too.
    assert [each for each in complaints if "Failed to load resource" not in each] == []
