"""The control port: what the model is told to do, and what it saw. JSON in, JSON out.

GET    /health          {"status": "serving"}
POST   /script          add a script (see script.py); answers {"id": n}
GET    /script          the scripts in force, newest first
DELETE /script[/{id}]   remove all, or one
GET    /latency         the latency model
POST   /latency         change some of its fields for all requests from now on
GET    /requests        records, oldest first; ?limit (100, the newest), after (an id),
                        contains (in the body), ended (completed, client_closed, error, cut,
                        running), prompts=0 (leave the prompts out)
GET    /requests/{id}   one record
DELETE /requests        forget what is over
DELETE /cache           empty the prefix cache
GET    /stats           requests, how they ended, concurrency now and at most, lateness
"""

from dataclasses import asdict
from typing import Any, Final
from urllib.parse import parse_qs

import orjson

from peregrine.simulator.api import State
from peregrine.simulator.exchange import ClientClosed, Exchange
from peregrine.simulator.wire import ApiError, Json, invalid

_MAX_BODY_BYTES: Final = 8 * 1024 * 1024


class ControlApi:
    def __init__(self, *, state: State) -> None:
        self._state = state

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        exchange = Exchange(scope, receive, send)
        try:
            body = await exchange.body(_MAX_BODY_BYTES)
            status, answer = 200, self._answer(exchange, body)
        except ClientClosed:
            return
        except ApiError as error:
            status, answer = error.status, {"error": error.message}
        await exchange.respond(status, [], orjson.dumps(answer))

    def _answer(self, exchange: Exchange, body: bytes) -> Json:
        state = self._state
        resource, _, id = exchange.path.strip("/").partition("/")
        query = {key: values[-1] for key, values in parse_qs(exchange.query.decode()).items()}
        match exchange.method, resource:
            case "GET", "health":
                return {"status": "serving"}
            case "POST", "script":
                return state.scripts.add(_loaded(body)).describe()
            case "GET", "script":
                return {"scripts": [script.describe() for script in state.scripts]}
            case "DELETE", "script":
                if not id:
                    state.scripts.clear()
                elif not state.scripts.remove(_integer(id, "id")):
                    raise ApiError(404, f"no script {id}")
                return {}
            case "GET", "latency":
                return asdict(state.latency)
            case "POST", "latency":
                changes = _loaded(body)
                if not isinstance(changes, dict):
                    raise invalid("latency: expected an object")
                state.latency = state.latency.with_changes(changes)
                return asdict(state.latency)
            case "GET", "requests":
                return self._one(id) if id else self._requests(query)
            case "DELETE", "requests":
                state.records.clear()
                return {}
            case "DELETE", "cache":
                state.cache.clear()
                return {}
            case "GET", "stats":
                return state.records.stats()
        raise ApiError(404, f"no {exchange.method} {exchange.path} on the control port")

    def _one(self, id: str) -> Json:
        wanted = _integer(id, "id")
        for record in self._state.records:
            if record.id == wanted:
                return record.describe()
        raise ApiError(404, f"no request {id}")

    def _requests(self, query: dict[str, str]) -> Json:
        limit = _integer(query.get("limit", "100"), "limit")
        after = _integer(query.get("after", "0"), "after")
        contains = query.get("contains", "").encode()
        ended = query.get("ended")
        chosen = [
            record
            for record in self._state.records
            if record.id > after
            and contains in record.body
            and (ended is None or (record.ended or "running") == ended)
        ]
        shown = chosen[-limit:] if limit else []
        prompts = query.get("prompts", "1") != "0"
        return {
            "total": len(chosen),
            "requests": [record.describe(prompts=prompts) for record in shown],
        }


def _loaded(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise invalid(f"the body is not JSON: {error}") from None


def _integer(text: str, name: str) -> int:
    if not text.isdecimal():
        raise invalid(f"{name}: expected a number, got {text!r}")
    return int(text)
