"""What others say, made fit for one terminal: without control characters, and short."""

import json

_CONTROLS = {code: None for code in (*range(32), *range(127, 160)) if code not in (9, 10)}


def printable(text: str) -> str:
    """The text without control characters other than tab and newline."""
    return text.translate(_CONTROLS)


def arguments(text: str) -> str:
    """A tool's arguments in short: the value alone when there is one, else name=value pairs."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    if not isinstance(value, dict):
        return text
    words = {
        name: entry if isinstance(entry, str) else json.dumps(entry, ensure_ascii=False)
        for name, entry in value.items()
    }
    if len(words) == 1:
        return next(iter(words.values()))
    return ", ".join(f"{name}={word}" for name, word in words.items())
