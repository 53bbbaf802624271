"""Tool results as prose: one sentence or two per result, in the order of the calls.

A tool may answer in plain text or in JSON of its own shape; what counts is found by the names that
tools usually give it, and whatever is not recognised is quoted.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

import orjson

from peregrine.simulator.conversation import ToolResult
from peregrine.simulator.wire import Json

_VALUES: Final = ("result", "value", "answer", "output", "time", "datetime", "current_time", "iso")
_LISTS: Final = ("results", "hits", "passages", "documents", "matches", "items")
_TITLES: Final = ("title", "document_title", "name", "document", "source", "path")
_TEXTS: Final = ("snippet", "passage", "text", "content", "excerpt", "body", "summary")
_PASSAGE: Final = re.compile(
    r"^\[\d+\] (?P<title>[^\n]+?)(?: \(source: [^)\n]*\))?\n(?P<text>.*?)(?=^\[\d+\] |\Z)",
    re.MULTILINE | re.DOTALL,
)
_NOTHING: Final = re.compile(r"\b(?:nothing|no (?:results?|matches|documents?)|not found)\b", re.I)
_LONGEST: Final = 400


def from_results(results: list[ToolResult]) -> str:
    return " ".join(_sentence(result) for result in results)


def _sentence(result: ToolResult) -> str:
    label = result.name.replace("_", " ")
    if result.is_error:
        return f"The {label} failed: {_shortened(_error(result.text)).rstrip('.')}."
    name = result.name.lower()
    value = _loaded(result.text)
    if _first_string(result.input, ("expression", "expr", "formula")) and "search" not in name:
        expression = _first_string(result.input, ("expression", "expr", "formula"))
        return f"{expression} = {_shortened(_scalar(value))}."
    if "search" in name or "knowledge" in name or "docs" in name or _hits(value):
        return _found(result, value)
    if "time" in name or "clock" in name:
        zone = _first_string(result.input, ("timezone", "time_zone", "tz", "zone")) or "UTC"
        return f"The time in {zone} is {_shortened(_scalar(value))}."
    if "weather" in name:
        city = _first_string(result.input, ("city", "location", "place")) or "there"
        return f"The weather in {city}: {_shortened(_flat(value))}."
    return f"The {label} returned: {_shortened(_flat(value))}."


def _found(result: ToolResult, value: Any) -> str:
    query = _first_string(result.input, ("query", "q", "question", "text")) or "that"
    hits = _hits(value)
    if not hits and isinstance(value, str):
        hits = [match.groupdict() for match in _PASSAGE.finditer(value)]
    if not hits and not _first_string(value, _TEXTS) and _is_nothing(value):
        return f"The search for “{query}” found nothing."
    if not hits:
        hits = [value if isinstance(value, dict) else {"text": str(value)}]
    hit = hits[0]
    if isinstance(hit, str):
        hit = {"text": hit}
    title = _first_string(hit, _TITLES)
    text = _best_sentence(_first_string(hit, _TEXTS) or _flat(hit), query)
    source = f"according to “{title}”" if title else "according to our docs"
    return f"On {query}, {source}: {text}"


def _is_nothing(value: Any) -> bool:
    if isinstance(value, str):
        return not value.strip() or (len(value) < 100 and bool(_NOTHING.search(value)))
    return True


def _hits(value: Any) -> list[Any]:
    if isinstance(value, dict):
        value = next((value[key] for key in _LISTS if isinstance(value.get(key), list)), None)
    return [hit for hit in value if isinstance(hit, dict | str)] if isinstance(value, list) else []


def _best_sentence(text: str, query: str) -> str:
    """The sentence with most of the query's words; the first one of equals."""
    plain = re.sub(r"[*_`#>|]+|</?\w+>", "", text)
    sentences = [" ".join(s.split()) for s in re.split(r"(?<=[.!?])\s+|\n{2,}", plain) if s.strip()]
    stems = [word[:5] for word in re.findall(r"\w{3,}", query.lower())]

    def score(sentence: str) -> int:
        return sum(stem in sentence.lower() for stem in stems) + (len(sentence.split()) > 4)

    best = max(sentences, key=score, default=plain.strip())
    return _shortened(best) + ("" if best.endswith((".", "!", "?")) else ".")


def _loaded(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def _error(text: str) -> str:
    value = _loaded(text)
    if isinstance(value, dict):
        inner = value.get("error", value)
        if isinstance(inner, dict):
            return str(inner.get("message") or inner.get("reason") or _flat(inner))
        return str(inner)
    return text or "no reason was given"


def _scalar(value: Any) -> str:
    if isinstance(value, dict):
        for key in _VALUES:
            if isinstance(value.get(key), str | int | float):
                return str(value[key])
    return _flat(value)


def _flat(value: Any) -> str:
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, dict):
        return ", ".join(f"{key} {_flat(item)}" for key, item in value.items())
    return orjson.dumps(value).decode()


def _first_string(value: Any, keys: tuple[str, ...]) -> str | None:
    if not isinstance(value, dict):
        return None
    return next(_strings(value, keys), None)


def _strings(value: Json, keys: tuple[str, ...]) -> Iterator[str]:
    for key in keys:
        if isinstance(value.get(key), str) and value[key].strip():
            yield value[key].strip()


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1].rstrip() + "…"
