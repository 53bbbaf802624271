"""Scripts: what the simulated model is told to do, turn by turn.

A script is JSON, sent to the control port:

    {"match": {"contains": "order 17"},          which requests it plays for; absent: all
     "times": 100,                               how many requests it plays in all; absent: no end
     "pick": "round",                            how a request finds its turn, see below
     "latency": {"first_token": 0.04},           for all its turns
     "turns": [
       {"blocks": [
          {"type": "thinking", "text": "Let me see."},
          {"type": "text", "text": "I will look.", "delay": 0.1},
          {"type": "tool_use", "name": "lookup", "input": {"order": 17},
           "delay_before": 0.5, "chunks": 3}]},
       {"blocks": [{"type": "text", "tokens": 200}],
        "stalls": [{"after_tokens": 50, "seconds": 2}],
        "cut": {"after_tokens": 120}}]}

*match* holds when all of its keys hold: `contains` (text in the last message the user wrote),
`prompt_contains` (text anywhere in system and messages), `model`, `tool` (a tool offered).

*pick* keeps no state where it can be avoided, so that concurrent runs do not disturb one another:
`round` (the default) counts the assistant messages since the user last wrote something (0 for the
first model call of a run, 1 after its first tool results …); `conversation` counts all assistant
messages of the request; `sequence` takes the turns in order of arrival, one per request. A request
past the last turn is answered by the next matching script, in the end by the small talker; so a
script of one turn with a tool call is followed by a sensible answer.

A *turn* has blocks and how they end: `error` ({"status": 529, "type"?, "message"?, "retry_after"?,
"delay"?}; with `after_tokens` or `after_events` it comes as an event in the middle of the stream),
`cut` ({"after_tokens" | "after_events", "scope": "stream" | "connection"}; without either, before
any response; over HTTP/1.1 both scopes close the connection), `stalls`, `latency`, `stop_reason`,
`usage` (fields that replace those counted). Instead it may be {"attempts": [turn, turn, …]}: the
n-th identical request plays the n-th, the last from then on; so
{"attempts": [{"error": {"status": 529}}, {"blocks": […]}]} fails once per run and then works.

`tokens: n` in a text or thinking block makes up n numbered tokens; `chunks` is the number of
`input_json_delta` events; `json` instead of `input` streams raw, possibly broken, JSON.
The newest script is asked first. Pure but for the counters of `Scripts`.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from peregrine.simulator import conversation
from peregrine.simulator.request import MessagesRequest
from peregrine.simulator.turn import Attempts, Turn, check_fields, parse_turn
from peregrine.simulator.wire import Json, invalid

MAX_SCRIPTS: Final = 1_000
MAX_ATTEMPTS: Final = 20_000
_PICKS: Final = ("round", "conversation", "sequence")
_MATCHES: Final = ("contains", "prompt_contains", "model", "tool")


@dataclass(slots=True, kw_only=True)
class Script:
    id: int
    match: dict[str, str]
    pick: str
    times: int | None
    turns: list[Attempts]
    played: int = 0
    _tried: OrderedDict[tuple[int, bytes], int] = field(default_factory=OrderedDict)

    def describe(self) -> Json:
        return {
            "id": self.id,
            "match": self.match,
            "pick": self.pick,
            "times": self.times,
            "turns": len(self.turns),
            "played": self.played,
        }

    def matches(self, request: MessagesRequest) -> bool:
        wanted = self.match
        if "model" in wanted and wanted["model"] != request.model:
            return False
        if "tool" in wanted and wanted["tool"] not in request.offered:
            return False
        if "contains" in wanted and wanted["contains"] not in conversation.user_text(request):
            return False
        return "prompt_contains" not in wanted or any(
            wanted["prompt_contains"] in text for text in conversation.all_texts(request)
        )

    def turn_for(self, request: MessagesRequest) -> Turn | None:
        """The turn this request plays, or None when the script has no more to say to it."""
        if self.times is not None and self.played >= self.times:
            return None
        if self.pick == "round":
            index = conversation.rounds(request)
        elif self.pick == "conversation":
            index = conversation.assistant_messages(request)
        else:
            index = self.played
        if index >= len(self.turns):
            return None
        self.played += 1
        return self._attempt(index, request)

    def _attempt(self, index: int, request: MessagesRequest) -> Turn:
        attempts = self.turns[index]
        if len(attempts) == 1:
            return attempts[0]
        key = (index, conversation.fingerprint(request))
        tried = self._tried.get(key, 0)
        self._tried[key] = tried + 1
        self._tried.move_to_end(key)
        while len(self._tried) > MAX_ATTEMPTS:
            self._tried.popitem(last=False)
        return attempts[min(tried, len(attempts) - 1)]


class Scripts:
    """The scripts in force, newest first."""

    def __init__(self) -> None:
        self._scripts: list[Script] = []
        self._next_id = 1

    def __iter__(self) -> Iterator[Script]:
        return iter(self._scripts)

    def add(self, raw: Any) -> Script:
        """Add a script given as JSON; raises `ApiError` 400 naming what is wrong."""
        if len(self._scripts) >= MAX_SCRIPTS:
            raise invalid(f"more than {MAX_SCRIPTS} scripts: DELETE /script first")
        script = _parse(raw, self._next_id)
        self._next_id += 1
        self._scripts.insert(0, script)
        return script

    def remove(self, id: int) -> bool:
        before = len(self._scripts)
        self._scripts = [script for script in self._scripts if script.id != id]
        return len(self._scripts) < before

    def clear(self) -> None:
        self._scripts.clear()

    def play(self, request: MessagesRequest) -> tuple[Script, Turn] | None:
        for script in self._scripts:
            if script.matches(request):
                turn = script.turn_for(request)
                if turn is not None:
                    return script, turn
        return None


def _parse(raw: Any, id: int) -> Script:
    check_fields(raw, "script", ("match", "times", "pick", "latency", "turns"))
    match = raw.get("match") or {}
    check_fields(match, "match", _MATCHES)
    for name, value in match.items():
        if not isinstance(value, str):
            raise invalid(f"match.{name}: expected a string")
    pick = raw.get("pick", "round")
    if pick not in _PICKS:
        raise invalid(f"pick: expected one of {', '.join(_PICKS)}")
    times = raw.get("times")
    if times is not None and (not isinstance(times, int) or times < 1):
        raise invalid("times: expected a positive integer")
    turns = raw.get("turns")
    if not isinstance(turns, list) or not turns:
        raise invalid("turns: expected at least one turn")
    latency = raw.get("latency") or {}
    parsed = [parse_turn(turn, f"turns.{i}", latency) for i, turn in enumerate(turns)]
    return Script(id=id, match=match, pick=pick, times=times, turns=parsed)
