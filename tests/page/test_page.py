"""What a person at the page sees and can do."""

import re

import pytest
from playwright.async_api import Browser, Locator, Page, expect

from peregrine.api.common.v1 import common_pb2
from peregrine.api.memory.v1 import memory_pb2
from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from peregrine.kit.errors import NotFound
from tests.component.cli.fakes import Neighbours
from tests.support import fake_orchestrator as script
from tests.support.edge import edge
from tests.support.eventually import eventually
from tests.support.fake_orchestrator import CONVERSATION, FakeOrchestrator, Gate

WATERFALL = pb.Waterfall(
    spans=[
        script.span(pb.SPAN_KIND_FIRST_TOKEN, "claude-sonnet-5-5", 0, 300, 300),
        script.span(pb.SPAN_KIND_TOOL, "calculator", 300, 100, 40),
        script.span(pb.SPAN_KIND_DECODE, "claude-sonnet-5-5", 340, 660, 660),
    ],
    wall_ms=1000,
    critical_path_ms=1000,
)


def message(page: Page) -> Locator:
    return page.get_by_role("textbox", name="Message")


async def say(page: Page, words: str) -> None:
    await message(page).fill(words)
    await page.keyboard.press("Enter")


async def test_an_answer_grows_word_by_word_and_tools_show_as_they_run(
    page: Page, fake: FakeOrchestrator
) -> None:
    tool, rest = Gate(), Gate()
    fake.script = [
        script.started(),
        script.step(1),
        script.text(1, "Let me see. "),
        script.tool_started("a", "calculator", '{"expression":"25 * 17"}'),
        tool,
        script.tool_finished("a", "calculator", "425", ms=12.34),
        script.step(2),
        script.text(2, "It is **4"),
        rest,
        script.text(2, "25**."),
        script.finished("It is **425**.", waterfall=WATERFALL, steps=2),
    ]
    await expect(page.get_by_role("heading", name="What would you like to know?")).to_be_visible()
    await expect(page.get_by_text("simulated model")).to_be_hidden()
    await say(page, "What is 25 * 17?")
    answer = page.locator(".answer")
    await expect(answer).to_contain_text("Let me see.")
    await expect(page.get_by_text("simulated model")).to_be_visible()
    running = page.locator(".tool")
    await expect(running).to_contain_text("calculator")
    await expect(running).to_contain_text("25 * 17")
    await expect(running).to_have_attribute("data-state", "running")
    await expect(running.locator(".time")).to_have_text(re.compile(r"^0\.[1-9] s$"))
    await expect(page.get_by_role("status")).to_have_text("Running calculator")
    tool.set()
    await expect(running.locator(".time")).to_have_text("12.3 ms")
    await expect(answer).to_contain_text("It is **4")
    rest.set()
    await expect(answer.locator("strong")).to_have_text("425")
    await expect(page.get_by_role("status")).to_have_text("The answer is complete")

    bars = page.get_by_role("table", name="Where the time went").get_by_role("row")
    await expect(bars).to_have_count(3)
    await expect(bars.nth(1)).to_contain_text("calculator")
    await expect(page.locator("footer summary")).to_have_text("1.00 s")
    await expect(page.locator("footer")).to_contain_text("1,234 tokens in, 56 out")
    widths = await bars.locator(".bar").evaluate_all(
        "bars => bars.map(bar => Math.round(100 * bar.offsetWidth / bar.parentElement.offsetWidth))"
    )
    assert widths == [30, 10, 66]


async def test_escape_stops_an_answer_and_the_next_question_goes_on(
    page: Page, fake: FakeOrchestrator
) -> None:
    fake.script = [script.started(), script.step(1), script.text(1, "On and on"), Gate()]
    await say(page, "Count to a million")
    await expect(page.get_by_role("button", name="Stop the answer")).to_be_visible()
    await expect(page.locator(".answer")).to_contain_text("On and on")
    await page.keyboard.press("Escape")
    await expect(page.locator("footer")).to_contain_text("Stopped")
    assert "CancelRun" in fake.calls
    fake.script = [
        script.started(),
        script.step(1),
        script.text(1, "Yes."),
        script.finished("Yes."),
    ]
    await say(page, "Better?")
    await expect(page.locator(".answer").nth(1)).to_have_text("Yes.")
    assert fake.run.input.conversation_id == CONVERSATION


async def test_escape_before_the_run_has_begun_stops_it_as_soon_as_it_has(
    page: Page, fake: FakeOrchestrator
) -> None:
    begin = Gate()
    fake.script = [begin, script.started(), script.text(1, "On and on"), Gate()]
    await say(page, "Count to a million")
    await eventually(lambda: "Chat" in fake.calls)
    await page.keyboard.press("Escape")
    begin.set()
    await expect(page.locator("footer")).to_contain_text("Stopped")


async def test_a_reload_in_the_middle_of_an_answer_resumes_it(
    page: Page, fake: FakeOrchestrator, memory: Neighbours
) -> None:
    rest = Gate()
    fake.script = [
        script.started(),
        script.step(1),
        script.tool_started("a", "calculator", '{"expression":"1"}'),
        script.tool_finished("a", "calculator", "1", ms=2),
        script.text(1, "The first half, "),
        rest,
        script.text(1, "and the second."),
        script.finished("The first half, and the second.", waterfall=WATERFALL),
    ]
    await say(page, "Tell me both halves")
    await expect(page.locator(".answer")).to_contain_text("The first half,")
    remember(memory, fake.run.run.run_id, "Tell me both halves")
    assert f"run={fake.run.run.run_id}" in page.url
    await page.reload()
    await expect(page.locator(".said")).to_have_text("Tell me both halves")
    await expect(page.locator(".answer")).to_contain_text("The first half,")
    await expect(page.locator(".tool .time")).to_have_text("2.00 ms")
    await expect(page.get_by_role("button", name="Stop the answer")).to_be_visible()
    rest.set()
    await expect(page.locator(".text")).to_have_text("The first half, and the second.")
    await expect(page.locator("footer summary")).to_have_text("1.00 s")
    assert len(fake.runs) == 1
    await expect(page).not_to_have_url(re.compile("run="))


async def test_a_reload_before_anything_is_known_of_the_run_finds_the_same_run(
    page: Page, fake: FakeOrchestrator
) -> None:
    gate = Gate()
    fake.script = [gate, script.started(), script.text(1, "Here."), script.finished("Here.")]
    await say(page, "Hello")
    await eventually(lambda: fake.calls.count("Chat") == 1)
    await page.reload()
    await eventually(lambda: fake.calls.count("Chat") == 2)
    gate.set()
    await expect(page.locator(".answer")).to_have_text("Here.")
    assert len(fake.runs) == 1


async def test_a_lost_connection_is_gone_on_from_without_a_word_twice(
    browser: Browser, fake: FakeOrchestrator, memory: Neighbours
) -> None:
    rest = Gate()
    fake.script = [
        script.started(),
        script.text(1, "One, two"),
        rest,
        script.text(1, ", three."),
        script.finished("One, two, three."),
    ]
    context = await browser.new_context()
    page = await context.new_page()
    async with edge(orchestrator=fake.target, memory=memory.target) as first:
        port = first.port
        await page.goto(first.url)
        await say(page, "Count")
        await expect(page.locator(".answer")).to_contain_text("One, two")
    await expect(page.get_by_role("alert")).to_contain_text("Trying again")
    again = {"PEREGRINE_LISTEN": f"127.0.0.1:{port}"}
    async with edge(orchestrator=fake.target, memory=memory.target, **again):
        rest.set()
        await expect(page.locator(".text")).to_have_text("One, two, three.", timeout=15_000)
        await expect(page.get_by_role("alert")).to_be_hidden()
        await context.close()


async def test_what_a_model_says_is_text_and_never_markup(
    page: Page, fake: FakeOrchestrator
) -> None:
    evil = (
        "<img src=x onerror=\"document.title='owned'\"> <script>document.title='owned'</script>\n\n"
        "[click](javascript:document.title='owned') [fine](https://example.org/a)\n\n"
        "```\n<b>code</b>\n```\n\n- `<i>`\n- **<u>bold</u>**"
    )
    fake.script = [
        script.started(),
        script.tool_started("a", "calculator", '{"<b>":"<img src=x>"}'),
        script.tool_finished("a", "calculator", "<img src=x onerror=alert(1)>"),
        script.text(1, evil),
        script.finished(evil),
    ]
    await say(page, "<h1>evil</h1>")
    await expect(page.locator(".text")).to_contain_text("<img src=x onerror")
    await expect(page.locator(".said")).to_have_text("<h1>evil</h1>")
    await expect(page.locator("pre code")).to_have_text("<b>code</b>")
    assert await page.locator("#log img, #log script, #log h1, #log u, #log i").count() == 0
    links = await page.locator(".text a").evaluate_all("all => all.map(each => each.href)")
    assert links == ["https://example.org/a"]
    assert await page.title() == "Peregrine"


async def test_what_was_said_before_is_there_and_can_be_deleted(
    page: Page, fake: FakeOrchestrator, memory: Neighbours
) -> None:
    run_id = "22222222-2222-4222-8222-222222222222"
    remember(memory, run_id, "What is 25 * 17?", "It is 425.")
    await page.reload()
    entry = page.get_by_role("link", name="What is 25 * 17?")
    await entry.click()
    await expect(page.locator(".said")).to_have_text("What is 25 * 17?")
    await expect(page.locator(".answer")).to_have_text("It is 425.")
    await expect(entry).to_have_attribute("aria-current", "page")
    await expect(page).to_have_url(re.compile(CONVERSATION))
    await page.go_back()
    await expect(page.get_by_role("heading", name="What would you like to know?")).to_be_visible()
    await entry.hover()
    await page.get_by_role("button", name="Delete “What is 25 * 17?”").click()
    assert memory.memory.conversations
    await page.get_by_role("button", name="Really delete").click()
    await expect(entry).to_have_count(0)
    assert memory.memory.conversations == {}


async def test_a_refusal_gives_the_words_back(page: Page, fake: FakeOrchestrator) -> None:
    # Everything is refused from here on: the page has to know its agents before.
    await expect(page.locator("#agent option")).not_to_have_count(0)
    fake.refuse = NotFound("there is no agent 'assistant'", reason="AGENT_NOT_FOUND")
    await say(page, "Hello?")
    await expect(page.get_by_role("alert")).to_have_text("there is no agent 'assistant'")
    await expect(message(page)).to_have_value("Hello?")
    await expect(page.locator(".turn")).to_have_count(0)


async def test_a_failed_run_says_why(page: Page, fake: FakeOrchestrator) -> None:
    error = common_pb2.Error(code=4, reason="RUN_DEADLINE_EXCEEDED", message="It took too long.")
    fake.script = [
        script.started(),
        script.text(1, "Half"),
        script.finished("", state=pb.RUN_STATE_FAILED, error=error),
    ]
    await say(page, "Hello?")
    await expect(page.locator(".failure")).to_have_text("It took too long.")
    await expect(page.locator(".facts")).to_contain_text("Failed")


async def test_the_keyboard_is_enough(page: Page, fake: FakeOrchestrator) -> None:
    await expect(message(page)).to_be_focused()
    await page.keyboard.type("two")
    await page.keyboard.press("Shift+Enter")
    await page.keyboard.type("lines")
    await page.keyboard.press("Enter")
    await expect(page.locator(".said")).to_have_text("two\nlines")
    await expect(page.locator(".answer")).to_have_text("hello")
    skip = page.get_by_role("link", name="Skip to the message")
    await skip.focus()
    order = []
    for _ in range(3):
        await page.keyboard.press("Tab")
        focused = "document.activeElement.id || document.activeElement.className"
        order.append(await page.evaluate(focused))
    assert order == ["brand", "new", "scroll"]
    await skip.focus()
    await page.keyboard.press("Enter")
    await expect(message(page)).to_be_focused()


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_a_narrow_window_and_the_dark_have_everything(
    browser: Browser, fake: FakeOrchestrator, memory: Neighbours, scheme: str
) -> None:
    remember(memory, "22222222-2222-4222-8222-222222222222", "An old question", "An answer.")
    fake.script = [
        script.started(),
        script.step(1),
        script.text(1, "W" * 300 + "\n\n```\n" + "x" * 300 + "\n```"),
        script.finished("", waterfall=WATERFALL),
    ]
    async with edge(orchestrator=fake.target, memory=memory.target) as server:
        context = await browser.new_context(
            base_url=server.url,
            color_scheme="dark" if scheme == "dark" else "light",
            viewport={"width": 360, "height": 640},
        )
        page = await context.new_page()
        await page.goto("/")
        await expect(page.get_by_role("link", name="An old question")).to_be_hidden()
        await say(page, "A question that is longer than the window is wide, by quite a bit of it")
        await expect(page.locator("footer summary")).to_be_visible()
        for name in ("html", "#scroll", "main"):
            await page.wait_for_function(
                "name => document.querySelector(name).scrollWidth <= innerWidth", arg=name
            )
        menu = page.get_by_role("button", name="Conversations", exact=True)
        await menu.click()
        await expect(page.get_by_role("link", name="An old question")).to_be_visible()
        await page.keyboard.press("Escape")
        await expect(page.get_by_role("link", name="An old question")).to_be_hidden()
        await expect(menu).to_be_focused()
        ink, paper = await page.evaluate(
            "[document.body].flatMap(body => [getComputedStyle(body)])"
            ".flatMap(style => [style.color, style.backgroundColor])"
        )
        assert (brightness(ink) > brightness(paper)) == (scheme == "dark")
        assert abs(brightness(ink) - brightness(paper)) > 170
        await context.close()


async def test_nothing_comes_from_another_host(browser: Browser, fake: FakeOrchestrator) -> None:
    asked: list[str] = []
    async with edge(orchestrator=fake.target, memory=fake.target) as server:
        page = await browser.new_page()
        page.on("request", lambda request: asked.append(request.url))
        await page.goto(server.url)
        await expect(message(page)).to_be_visible()
        assert asked and all(url.startswith(server.url) for url in asked)
        await page.close()


def remember(memory: Neighbours, run_id: str, question: str, answer: str = "") -> None:
    """What memory holds of a turn."""
    conversation = memory_pb2.Conversation(
        conversation_id=CONVERSATION, title=question, agent_id="assistant", version=1
    )
    conversation.create_time.GetCurrentTime()
    conversation.update_time.GetCurrentTime()
    memory.memory.conversations[CONVERSATION] = conversation
    memory.memory.messages.clear()
    for position, (role, words) in enumerate(
        ((common_pb2.ROLE_USER, question), (common_pb2.ROLE_ASSISTANT, answer)), start=1
    ):
        if words:
            stored = memory_pb2.StoredMessage(position=position, run_id=run_id)
            stored.message.role = role
            stored.message.content.add(text=words)
            memory.memory.messages.append(stored)


def brightness(color: str) -> float:
    red, green, blue = (int(part) for part in re.findall(r"\d+", color)[:3])
    return 0.299 * red + 0.587 * green + 0.114 * blue
