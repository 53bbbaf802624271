"""What a message asks for, as calls of the tools that were offered.

No understanding, only patterns: arithmetic, search, time and weather are recognised by their words
and go to the offered tool that looks made for them (`calculator`, `knowledge_search`,
`current_time`, `get_weather`, or any name that says the same); any other tool is called when the
message names it, with JSON arguments if they follow its name. Arguments take the names that the
tool's schema asks for, and what it requires beyond is filled in from the message.
"""

import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import orjson

from peregrine.simulator.wire import Json

MAX_EXPRESSION: Final = 300
"""Characters; more is not arithmetic that somebody means."""


class Call(NamedTuple):
    tool: str
    input: Json
    purpose: str
    """What it is for, as a phrase after "let me"."""


_KINDS: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "arithmetic": ("calculator", ("calc", "arithmetic", "math")),
    "search": ("knowledge_search", ("knowledge", "search_docs", "docs_search", "search")),
    "time": ("current_time", ("current_time", "get_time", "clock", "time_now", "date")),
    "weather": ("get_weather", ("weather", "forecast")),
}
_ARGUMENTS: Final[dict[str, tuple[str, ...]]] = {
    "arithmetic": ("expression", "expr", "formula", "calculation", "query", "input"),
    "search": ("query", "q", "question", "text", "search", "terms", "input"),
    "time": ("timezone", "time_zone", "tz", "zone", "location"),
    "weather": ("city", "location", "place", "query"),
}
_PLAIN: Final = {0x2018: "'", 0x2019: "'", 0xD7: "*", 0xF7: "/"}
"""Typographic quotes and the signs for times and divided by, as they are on a keyboard."""
_FUNCTION: Final = r"\b(?:abs|ceil|exp|floor|ln|log|max|min|round|sqrt)\([\d\s.,*/+-]{0,80}\)"
# Every repetition is bounded, and digits are taken whole or not at all: else a long run of them
# takes minutes. (Possessive quantifiers would say it shorter, but Python 3.11.2 gets them wrong.)
_DIGITS: Final = r"\d{1,80}(?!\d)"
_NUMBER: Final = (
    rf"(?:\(\s{{0,4}}){{0,16}}(?:-?{_DIGITS}(?:[.,]{_DIGITS}){{0,8}}|{_FUNCTION})"
    r"(?:\s{0,4}\)){0,16}"
)
_ROOT: Final = re.compile(r"\bsquare root of (\d+(?:\.\d+)?)", re.IGNORECASE)
_WORD_OPERATORS: Final = {
    "multiplied by": "*",
    "divided by": "/",
    "to the power of": "**",
    "percent of": "/ 100 *",
    "% of": "/ 100 *",
    "times": "*",
    "plus": "+",
    "minus": "-",
    "modulo": "%",
    "^": "**",
}
_OPERATOR: Final = (
    r"\s*(?:\*\*|[*/+^]|(?:\s-\s?|(?<=\d)-(?=\d))|%(?!\s*of)|(?:"
    + "|".join(re.escape(word) for word in _WORD_OPERATORS if word != "^")
    + r"|(?<=\d\s)x(?=\s*\d))\s*)\s*"
)
_ARITHMETIC: Final = re.compile(
    rf"(?<![\d(.])(?<!\(\s){_NUMBER}(?:{_OPERATOR}{_NUMBER}){{1,40}}|{_FUNCTION}", re.IGNORECASE
)
_DATE: Final = re.compile(r"\d{4}-\d{1,2}-\d{1,2}(?:T[\d:.]+Z?)?|\d{1,2}/\d{1,2}/\d{4}")
_TIME: Final = re.compile(
    r"\b(?:what(?:'s| is)? (?:the )?(?:current )?(?:time|date|day)\b|what time|current time|"
    r"time is it|today'?s date|time (?:now )?in\b|what day|the time\b)",
    re.IGNORECASE,
)
_ZONE: Final = re.compile(r"\b(UTC|GMT|[A-Z][A-Za-z]+/[A-Z][A-Za-z_]+(?:/[A-Z][A-Za-z_]+)?)\b")
_CITIES: Final = {
    "amsterdam": "Europe/Amsterdam",
    "berlin": "Europe/Berlin",
    "chicago": "America/Chicago",
    "delhi": "Asia/Kolkata",
    "london": "Europe/London",
    "los angeles": "America/Los_Angeles",
    "madrid": "Europe/Madrid",
    "new york": "America/New_York",
    "paris": "Europe/Paris",
    "rome": "Europe/Rome",
    "san francisco": "America/Los_Angeles",
    "sao paulo": "America/Sao_Paulo",
    "singapore": "Asia/Singapore",
    "sydney": "Australia/Sydney",
    "tokyo": "Asia/Tokyo",
    "zurich": "Europe/Zurich",
}
_END: Final = (
    r"(?=\s*(?:[.?!;,](?:\s|$)|\n|$|\band (?:also |then )?(?:what|when|who|how|tell|search|look|"
    r"find|calculate|compute|give|show|use|call|check)\b|\bthen\b))"
)
_DOCS: Final = r"(?:docs?|documentation|documents|knowledge base|handbook|manual)"
_SEARCHES: Final = tuple(
    re.compile(pattern + _END, re.IGNORECASE)
    for pattern in (
        rf"{_DOCS} (?:say|says|tell us|tell me|state|mention|have|contain)s? (?:about|on|regarding)"
        r" (?P<query>[^?.;,!\n]+?)",
        rf"\b(?:search|look in|check|consult)(?: in| through)? (?:the |our |your |my )?{_DOCS}"
        r" (?:for|about|on) (?P<query>[^?.;,!\n]+?)",
        rf"\b(?:search|look up|look for|find)(?: for)? (?P<query>[^?.;,!\n]+?) in "
        rf"(?:the |our |your )?{_DOCS}",
        r"\b(?:search|look up|look for)(?: for| about| the web for)? (?P<query>[^?.;,!\n]+?)",
        rf"\b{_DOCS} (?:about|on|for|regarding) (?P<query>[^?.;,!\n]+?)",
        rf"\baccording to (?:the |our |your )?{_DOCS},? (?P<query>[^?.;!\n]+?)",
    )
)
_MENTIONS_DOCS: Final = re.compile(
    rf"\b{_DOCS}\b|\b(?:our|company|policy|policies)\b(?=[^?]*\?)", re.IGNORECASE
)
_WEATHER: Final = re.compile(
    r"\b(?:weather|forecast|temperature)\b(?:[^.?!;\n]*?\b(?:in|for|at) "
    r"(?P<city>[A-Z][\w'-]*(?: [A-Z][\w'-]*)*))?"
)
_STOP_WORDS: Final = frozenset(
    "a according an and are can check did do does docs documentation documents for from how i in "
    "is it me my of on or our please say search tell the there to us what when where which who "
    "with you your".split()
)


def calls(message: str, offered: dict[str, Json]) -> list[Call]:
    """The calls that answer `message`, in the order in which it asks; empty when none fits."""
    message = message.translate(_PLAIN)
    found: list[tuple[int, Call]] = []
    used = set()
    for at, kind, argument, purpose in _wishes(message):
        tool = _tool_for(kind, offered)
        if tool is not None:
            used.add(tool)
            input = arguments(offered[tool], message, _ARGUMENTS[kind], argument)
            found.append((at, Call(tool, input, purpose)))
    for name in offered:
        mentioned = _mention(name, message)
        if mentioned is not None and name not in used:
            purpose = f"use {name.replace('_', ' ')}"
            found.append(
                (mentioned, Call(name, named_arguments(name, offered[name], message), purpose))
            )
    found.sort(key=lambda one: one[0])
    unique: list[Call] = []
    for _, call in found:
        if all((call.tool, call.input) != (other.tool, other.input) for other in unique):
            unique.append(call)
    return unique


def expressions(message: str) -> Iterator[tuple[int, str]]:
    """The arithmetic in a message, in Python's notation, with its place."""
    plain = _ROOT.sub(r"sqrt(\1)", message.translate(_PLAIN))
    blanked = _DATE.sub(lambda date: " " * len(date.group()), plain)
    for match in _ARITHMETIC.finditer(blanked):
        expression = match.group().strip()
        if len(expression) > MAX_EXPRESSION:
            continue
        for word, operator in _WORD_OPERATORS.items():
            expression = re.sub(re.escape(word), f" {operator} ", expression, flags=re.IGNORECASE)
        expression = re.sub(r"(?<=\d)\s*x\s*(?=\d)", " * ", expression, flags=re.IGNORECASE)
        expression = re.sub(r"(?<=\d),(?=\d{3}\b)", "", expression)
        yield match.start(), _balanced(" ".join(expression.split()))


def arguments(tool: Json, message: str, preferred: tuple[str, ...], value: str | None) -> Json:
    """Input for `tool`: `value` under the name its schema has for it, the rest filled in."""
    schema = tool.get("input_schema") or {}
    properties = schema.get("properties") or {}
    required = [name for name in schema.get("required") or [] if isinstance(name, str)]
    input: Json = {}
    if value is not None:
        names = [name for name in preferred if name in properties]
        strings = [
            name for name in required if (properties.get(name) or {}).get("type") == "string"
        ]
        free = preferred[:1] if not properties else ()
        for name in (*names, *strings, *free):
            input[name] = value
            break
    for name in required:
        if name not in input:
            input[name] = _filled(name, properties.get(name) or {}, message)
    return input


def named_arguments(name: str, tool: Json, message: str) -> Json:
    """Input for a tool that the message names: the JSON object after the name, or a guess."""
    at = _mention(name, message) or 0
    brace = message.find("{", at)
    if brace >= 0:
        for end in range(len(message), brace, -1):
            if message[end - 1] == "}":
                try:
                    given = orjson.loads(message[brace:end])
                except orjson.JSONDecodeError:
                    continue
                return given if isinstance(given, dict) else {}
    return arguments(tool, message, (), None)


def _wishes(message: str) -> Iterator[tuple[int, str, str | None, str]]:
    for at, expression in expressions(message):
        yield at, "arithmetic", expression, "work that out"
    time = _TIME.search(message)
    if time:
        for zone in _zones(message) or ["UTC"]:
            yield time.start(), "time", zone, "check the time"
    searched = _search(message)
    if searched:
        yield searched[0], "search", searched[1], "search the docs"
    for weather in _WEATHER.finditer(message):
        city = weather.group("city") or "here"
        yield weather.start(), "weather", city, "check the weather"


def _search(message: str) -> tuple[int, str] | None:
    for pattern in _SEARCHES:
        match = pattern.search(message)
        if match:
            query = re.sub(r"^(?:the|our|any|an?) ", "", match.group("query").strip(" \"'"))
            if query:
                return match.start(), query
    mention = _MENTIONS_DOCS.search(message)
    if mention:
        words = [w for w in re.findall(r"[\w'-]+", message.lower()) if w not in _STOP_WORDS]
        if words:
            return mention.start(), " ".join(words[:8])
    return None


def _zones(message: str) -> list[str]:
    zones = [match.group(1) for match in _ZONE.finditer(message)]
    lower = message.lower()
    zones += [
        zone
        for city, zone in _CITIES.items()
        if re.search(rf"(?:\bin|\band|\bor|,) {city}\b", lower)
    ]
    return list(dict.fromkeys(zones))


def _tool_for(kind: str, offered: dict[str, Json]) -> str | None:
    exact, hints = _KINDS[kind]
    if exact in offered:
        return exact
    for hint in hints:
        for name in offered:
            if hint in name.lower():
                return name
    return None


def _mention(name: str, message: str) -> int | None:
    pattern = r"\b" + r"[\s_-]".join(re.escape(part) for part in re.split(r"[_-]", name)) + r"\b"
    match = re.search(pattern, message, re.IGNORECASE)
    return match.start() if match else None


def _balanced(expression: str) -> str:
    surplus = expression.count("(") - expression.count(")")
    if surplus > 0:
        return expression.replace("(", "", surplus)
    for _ in range(-surplus):
        expression = expression[::-1].replace(")", "", 1)[::-1]
    return expression


def _filled(name: str, schema: Json, message: str) -> Any:
    """A sensible value for a required property that no pattern found."""
    if "const" in schema:
        return schema["const"]
    options = schema.get("enum")
    if isinstance(options, list) and options:
        named = [one for one in options if str(one).lower() in message.lower()]
        return named[0] if named else options[0]
    if "default" in schema:
        return schema["default"]
    given = re.search(rf"\b{re.escape(name)}\s*[=:]\s*(\"[^\"]*\"|\S+)", message)
    said = given.group(1).strip('",.;') if given else None
    kind = schema.get("type")
    if kind in ("integer", "number"):
        number = re.search(r"-?\d+(?:\.\d+)?", said or message)
        value = float(number.group()) if number else 1.0
        value = min(max(value, schema.get("minimum", value)), schema.get("maximum", value))
        return int(value) if kind == "integer" or value.is_integer() else value
    if kind == "boolean":
        return said != "false"
    if kind == "array":
        items = schema.get("items") or {}
        return [_filled(name, items, message)] if schema.get("minItems") else []
    if kind == "object":
        properties = schema.get("properties") or {}
        wanted = schema.get("required") or []
        return {key: _filled(key, properties.get(key) or {}, message) for key in wanted}
    if said is not None:
        return said
    quoted = re.search(r"[\"“]([^\"”]+)[\"”]", message)
    return quoted.group(1) if quoted else message.strip()[:200] or name
