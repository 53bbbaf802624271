"""The small talker: what the simulated model says when no script tells it.

It calls tools when the message asks for what an offered tool does, all of them in one turn; it
puts their results into prose; without tools it greets, works out arithmetic, remembers what the
conversation said about the user, and otherwise says in one clear sentence that it is simulated.
Pure: the same request always gets the same turn. Of a long message it reads the beginning only.
"""

import ast
import operator
import re
from collections.abc import Callable
from typing import Final

from peregrine.simulator import answers, conversation, intents
from peregrine.simulator.intents import Call
from peregrine.simulator.request import MessagesRequest
from peregrine.simulator.turn import Block, Turn, text, tool_use

MAX_READ: Final = 8_000
"""Characters of a message that are looked at, so that no message keeps the simulator busy."""
_OPERATORS: Final[dict[type[ast.operator], Callable[[float, float], float]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
}
_SMALL_TALK: Final = tuple(
    (re.compile(pattern, re.IGNORECASE), reply)
    for pattern, reply in (
        (r"\bhow are you\b", "I am well, as far as a simulated model can be. How can I help?"),
        (
            r"\b(?:who|what) are you\b|\byour name\b",
            "I am a simulated model: a stand-in that answers by simple rules, so that everything "
            "around it can be tried without a key.",
        ),
        (
            r"\bwhat can you do\b|^help\b",
            "I am a simulated model. I can use the tools I am offered (arithmetic, search, time), "
            "put their results into words, and remember what you tell me about yourself.",
        ),
        (r"\b(?:thank you|thanks|cheers)\b", "You are welcome!"),
        (r"\b(?:bye|goodbye|see you)\b", "Goodbye!"),
        (r"^\W*ping\W*$", "pong"),
    )
)
_GREETING: Final = re.compile(r"^\W*(?:hello|hi|hey|good (?:morning|afternoon|evening))\b", re.I)
_NAME: Final = re.compile(
    r"\b(?:[Mm]y name is|[Cc]all me|[Tt]he user'?s name is|[Tt]he user is called) "
    r"(?P<name>[A-Z][\w'-]*(?: [A-Z][\w'-]*)*)"
)
_ASKS_NAME: Final = re.compile(r"\bwhat(?:'s| is|s) my name\b|\bwho am i\b", re.IGNORECASE)
_FACT: Final = re.compile(
    r"\b(?:my|the user'?s) (?P<what>[\w ]{2,40}?) (?:is|are) "
    r"(?P<value>(?:[^.,!?;\n]|\.(?=\w)){1,120})",
    re.IGNORECASE,
)
_ASKS_FACT: Final = re.compile(
    r"\bwh(?:at|ich|ere|en|o)(?:'s| is| are|s)? my (?P<what>[\w ]{2,40}?)\s*\?", re.IGNORECASE
)
_SUMMARY: Final = re.compile(r"\bsummar(?:y|i[sz]e)\b", re.IGNORECASE)
_THINKING: Final = "The question is short. I will look at what is asked and answer it directly."


def turn(request: MessagesRequest) -> Turn:
    """What the small talker does in answer to `request`."""
    thinking = (Block(type="thinking", text=_THINKING),) if request.thinking else ()
    return Turn(blocks=(*thinking, *_blocks(request)))


def _blocks(request: MessagesRequest) -> tuple[Block, ...]:
    results = conversation.tool_results(request)
    message = conversation.user_text(request)[:MAX_READ]
    if results and request.tool_choice in ("auto", "none"):
        return (text(answers.from_results(results)),)
    wanted = _calls(request, message)
    if wanted:
        lead_in = text(_lead_in(wanted))
        return (lead_in, *(tool_use(call.tool, call.input) for call in wanted))
    return (text(_prose(request, message)),)


def _calls(request: MessagesRequest, message: str) -> list[Call]:
    offered = request.offered
    if request.forced_tool is not None:
        offered = {request.forced_tool: offered[request.forced_tool]}
    wanted = intents.calls(message, offered)
    if not wanted and request.tool_choice in ("any", "tool"):
        name, tool = next(iter(offered.items()))
        input = intents.named_arguments(name, tool, message)
        wanted = [Call(name, input, f"use {name.replace('_', ' ')}")]
    return wanted if request.parallel_tools else wanted[:1]


def _lead_in(wanted: list[Call]) -> str:
    purposes = list(dict.fromkeys(call.purpose for call in wanted))
    listed = purposes[0]
    if len(purposes) > 1:
        listed = ", ".join(purposes[:-1]) + " and " + purposes[-1]
    return f"Let me {listed}."


def _prose(request: MessagesRequest, message: str) -> str:
    remembered = _remembered(request, message)
    if remembered:
        return remembered
    if _SUMMARY.search(message):
        return _summary(request, message)
    sums = [f"{e} = {value}." for _, e in intents.expressions(message) if (value := _worked_out(e))]
    if sums:
        return " ".join(sums)
    for pattern, reply in _SMALL_TALK:
        if pattern.search(message):
            return reply
    name = _NAME.search(message)
    if name:
        return (
            f"Nice to meet you, {name['name']}! I am a simulated model, but I will remember that."
        )
    fact = _FACT.search(message)
    if fact and "?" not in message:
        return f"Noted: your {fact['what'].strip()} is {fact['value'].strip()}."
    if _GREETING.search(message):
        known = _last(_NAME, [*_before(request), _instructions(request)])
        return f"Hello{', ' + known['name'] if known else ''}! How can I help you today?"
    quoted = " ".join(message.split())
    quoted = quoted if len(quoted) <= 120 else quoted[:119].rstrip() + "…"
    return (
        "This is a simulated model, which answers by simple rules and has no real knowledge; "
        f"it has nothing better to say to: “{quoted}”"
    )


def _summary(request: MessagesRequest, message: str) -> str:
    """What the user said before, or the text that the message itself brings, line by line."""
    lines = _before(request) or message.splitlines()[1:]
    short = [" ".join(line.split())[:160].rstrip(".") for line in lines if line.strip()]
    return "In short: " + "; ".join(short[-12:] or ["there is nothing to summarise yet"]) + "."


def _remembered(request: MessagesRequest, message: str) -> str | None:
    heard = [_instructions(request), *_before(request), message]
    if _ASKS_NAME.search(message):
        name = _last(_NAME, heard)
        return f"Your name is {name['name']}." if name else "You have not told me your name yet."
    asked = _ASKS_FACT.search(message)
    if asked is None:
        return None
    what = asked["what"].strip().lower()
    for said in reversed(heard):
        for fact in reversed(list(_FACT.finditer(said))):
            if fact["what"].strip().lower() == what:
                return f"Your {what} is {fact['value'].strip()}."
    return f"You have not told me your {what} yet."


def _instructions(request: MessagesRequest) -> str:
    return conversation.text_of(request.system)[:MAX_READ]


def _before(request: MessagesRequest) -> list[str]:
    return [said[:MAX_READ] for said in conversation.said_by_user(request)[:-1]]


def _last(pattern: re.Pattern[str], texts: list[str]) -> re.Match[str] | None:
    found = [match for said in texts for match in pattern.finditer(said)]
    return found[-1] if found else None


def _worked_out(expression: str) -> str | None:
    """The value of plain arithmetic, or None when there is none."""
    try:
        value = _value(ast.parse(expression, mode="eval").body)
    except (ArithmeticError, SyntaxError, ValueError):
        return None
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _value(node: ast.expr) -> float:
    match node:
        case ast.Constant(value=int() | float() as number):
            return number
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_value(left), _value(right))
    raise ValueError("not plain arithmetic")
