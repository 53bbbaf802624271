"""Callers inside the cluster, and the web service that their tools call: one program, in one pod.

It runs from Peregrine's own image, of which it uses the client library. Callers are what users are:
runs are asked for at the edge and read to their end, and read on when the stream breaks off; calls
go to the workers themselves, several at once (ExecuteTools), and what found no place is asked for
again after the delay that was told. A call fails when it ends in any other way, and is counted
under its reason. Who calls steadily does so however long the answers take.

    GET  /work?seconds=0.4      answers after that time
    POST /note?number=7         the same, and remembers that it was told 7
    GET  /shelf?number=7        a value that never changes
    POST /load                  {"runs": 2, "calls": 5, "reads": 0}: how many a second from now on
    POST /forget                counts from nothing
    GET  /counts                what was seen: finished, failed by reason, notes told twice
"""

import asyncio
import itertools
import json
import os
import random
import time
import uuid
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from peregrine.api.common.v1 import common_pb2 as common
from peregrine.api.tools.v1 import tools_pb2 as pb
from peregrine.client import Exchange, IdentityClient, ToolsClient
from peregrine.kit.errors import PeregrineError, ResourceExhausted

PORT = 8099
EDGE = "http://edge:8080"
ORCHESTRATOR = "dns:///orchestrator:50051"
TOOLS = "dns:///tools:50053"
# What a caller waits for at most, refusals and all.
PATIENCE = 60.0
WORK_SECONDS = 0.4
MOST_AT_ONCE = 300
CALLS_OF_A_RUN = 3
SHELF = 64
BATCH_OF_READS = 8


class GaveUp(Exception):
    """A call that did not end as it should have; the message is the reason it is counted under."""


class Seen:
    """What callers and the web service saw."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self.counts: Counter[str] = Counter()
        self.failures: deque[str] = deque(maxlen=40)
        self.slowest: dict[str, float] = {}
        self.notes: Counter[str] = Counter()

    def report(self) -> dict[str, Any]:
        return {
            "counts": dict(sorted(self.counts.items())),
            "failures": list(self.failures),
            "slowest": self.slowest,
            "told_twice": sum(times > 1 for times in self.notes.values()),
            "notes": len(self.notes),
        }


class Workers(ToolsClient):
    """Calls of several tools at once, as an application that has no orchestrator makes them."""

    async def execute(self, calls: Sequence[pb.ToolCall], timeout: float) -> list[pb.ToolResult]:
        request = pb.ExecuteToolsRequest(calls=calls)
        results: list[pb.ToolResult] = []
        with await self._identified():
            async for response in self._tools.ExecuteTools(request, timeout=timeout):
                results.extend(response.results)
        return results


class Crowd:
    """Makes calls at the rates in `load`, each kind of its own."""

    def __init__(self, *, http: httpx.AsyncClient, workers: Workers, seen: Seen, key: str) -> None:
        self._http = http
        self._workers = workers
        self._seen = seen
        self._headers = {"Authorization": f"Bearer {key}"}
        self._numbers = itertools.count(random.randrange(10**6) * 10**6)
        self.load = dict.fromkeys(("runs", "calls", "reads"), 0.0)

    async def steadily(self, kind: str, one: Callable[[], Awaitable[None]]) -> None:
        """For ever; a call that is late does not hold back the next one."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            under_way: set[asyncio.Task[None]] = set()
            due = loop.time()
            while True:
                rate = self.load[kind]
                if rate <= 0.0:
                    await asyncio.sleep(0.1)
                    due = loop.time()
                    continue
                due = max(due + 1.0 / rate, loop.time() - 1.0)
                await asyncio.sleep(due - loop.time())
                if len(under_way) >= MOST_AT_ONCE:
                    self._seen.counts[f"{kind} not made"] += 1
                    continue
                task = group.create_task(self._counted(kind, one))
                under_way.add(task)
                task.add_done_callback(under_way.discard)

    async def _counted(self, kind: str, one: Callable[[], Awaitable[None]]) -> None:
        counts, began = self._seen.counts, time.monotonic()
        counts[f"{kind} begun"] += 1
        try:
            await one()
            counts[f"{kind} ok"] += 1
        except GaveUp as problem:
            counts[f"{kind} failed"] += 1
            counts[f"{kind} failed: {problem}"] += 1
            now = time.strftime("%H:%M:%S")
            self._seen.failures.append(f"{now} {kind}: {problem} ({problem.__cause__})")
        took = time.monotonic() - began
        self._seen.slowest[kind] = max(self._seen.slowest.get(kind, 0.0), round(took, 2))
        for limit in (2, 5, 10):
            if took > limit:
                counts[f"{kind} over {limit} s"] += 1

    # Runs, at the edge.

    async def run(self) -> None:
        number = next(self._numbers)
        work = json.dumps({"seconds": WORK_SECONDS, "number": number})
        message = (
            f"Please use work_a {work} and work_b {work} and note {json.dumps({'number': number})}"
        )
        body = {"agent": "crowd", "message": message, "request_id": uuid.uuid4().hex}
        run, after, calls, until = "", 0, 0, time.monotonic() + PATIENCE
        while time.monotonic() < until:
            if run:
                request = self._http.build_request(
                    "GET", f"/v1/runs/{run}/events", params={"after": after}, headers=self._headers
                )
            else:
                request = self._http.build_request(
                    "POST", "/v1/chat/stream", json=body, headers=self._headers
                )
            try:
                answer = await self._http.send(request, stream=True)
                try:
                    if answer.status_code in (429, 502, 503, 504):
                        self._seen.counts[f"runs refused: {answer.status_code}"] += 1
                        await asyncio.sleep(_delay(answer))
                        continue
                    if answer.status_code != 200:
                        raise GaveUp(f"status {answer.status_code}")
                    async for line in answer.aiter_lines():
                        if not line.startswith("data: "):
                            continue
                        event = json.loads(line[6:])
                        after = int(event["sequence"])
                        if started := event.get("run_started"):
                            run = started["run_id"]
                        calls += "tool_call_finished" in event
                        if _ended(event):
                            if calls < CALLS_OF_A_RUN:
                                raise GaveUp(f"{calls} tool calls")
                            return
                finally:
                    await answer.aclose()
            except httpx.TransportError as error:
                self._seen.counts[f"runs broke off: {type(error).__name__}"] += 1
                await asyncio.sleep(0.25)
                continue
            self._seen.counts["runs read on elsewhere"] += 1
            await asyncio.sleep(0.25)
        raise GaveUp(f"no end within {PATIENCE:g} s")

    # Calls, at the workers.

    async def call(self) -> None:
        number = next(self._numbers)
        await self._executed(
            [
                _call("work_a", {"seconds": WORK_SECONDS, "number": number}),
                _call("note", {"number": number}),
            ]
        )

    async def read(self) -> None:
        wanted = random.sample(range(SHELF), BATCH_OF_READS)
        await self._executed([_call("shelf", {"number": number}) for number in wanted])

    async def _executed(self, calls: list[pb.ToolCall]) -> None:
        until, pause = time.monotonic() + PATIENCE, 0.1
        while calls:
            left = until - time.monotonic()
            if left <= 0:
                raise GaveUp(f"no place within {PATIENCE:g} s")
            try:
                results = await self._workers.execute(calls, left)
            except ResourceExhausted as error:
                self._seen.counts["calls refused"] += 1
                await asyncio.sleep(max(error.retry_after or 1.0, pause))
                pause = min(2 * pause, 5.0)
                continue
            except PeregrineError as error:
                raise GaveUp(error.reason) from error
            except httpx.HTTPError as error:
                raise GaveUp(type(error).__name__) from error
            except Exception as error:
                # Whatever else a stub raises is a failure to be counted, not the end of the crowd.
                code = getattr(error, "code", None)
                raise GaveUp(code().name if callable(code) else type(error).__name__) from error
            delay, calls = self._refused(results, calls)
            if calls:
                await asyncio.sleep(max(delay, pause))
                pause = min(2 * pause, 5.0)

    def _refused(
        self, results: Sequence[pb.ToolResult], calls: list[pb.ToolCall]
    ) -> tuple[float, list[pb.ToolCall]]:
        """What has to be asked for again, and after how long."""
        again, delay = {call.call_id: call for call in calls}, 0.0
        for result in results:
            if result.status == pb.TOOL_STATUS_SUCCEEDED:
                del again[result.call_id]
            elif result.error.reason == "TOOLS_OVERLOADED":
                self._seen.counts["calls refused"] += 1
                asked = result.error.retry_delay.ToNanoseconds() / 1e9
                delay = max(delay, asked * random.uniform(1.0, 1.5))
            else:
                raise GaveUp(f"{result.error.reason} {result.error.message[:80]}")
        if len(results) < len(calls):
            raise GaveUp(f"{len(calls) - len(results)} results are missing")
        return delay, list(again.values())


def _call(tool: str, arguments: dict[str, Any]) -> pb.ToolCall:
    identifier = uuid.uuid4().hex
    return pb.ToolCall(
        call_id=identifier,
        tool=tool,
        arguments=common.Json(utf8=json.dumps(arguments).encode()),
        idempotency_key=identifier,
    )


def _delay(answer: httpx.Response) -> float:
    try:
        return min(max(float(answer.headers.get("retry-after", "1")), 0.1), 10.0)
    except ValueError:
        return 1.0


def _ended(event: dict[str, Any]) -> bool:
    """Raises GaveUp when a tool or the run failed."""
    if call := event.get("tool_call_finished"):
        if call.get("status") != "TOOL_CALL_STATUS_SUCCEEDED":
            error = call.get("error", {})
            raise GaveUp(f"tool {call.get('tool')}: {error.get('reason')}")
    finished = event.get("run_finished")
    if finished is None:
        return False
    if "RUN_STATE_SUCCEEDED" not in json.dumps(finished):
        raise GaveUp(f"run: {json.dumps(finished)[:200]}")
    return True


def application(crowd: Crowd, seen: Seen) -> Starlette:
    async def work(request: Request) -> Response:
        await asyncio.sleep(min(float(request.query_params.get("seconds", WORK_SECONDS)), 30.0))
        return JSONResponse({"done": True})

    async def note(request: Request) -> Response:
        seen.notes[request.query_params["number"]] += 1
        await asyncio.sleep(WORK_SECONDS)
        return JSONResponse({"noted": True})

    async def shelf(request: Request) -> Response:
        return JSONResponse({"value": request.query_params["number"]})

    async def load(request: Request) -> Response:
        wanted = await request.json()
        crowd.load.update({kind: float(wanted[kind]) for kind in crowd.load if kind in wanted})
        return JSONResponse(crowd.load)

    async def forget(request: Request) -> Response:
        seen.forget()
        return JSONResponse({})

    async def counts(request: Request) -> Response:
        return JSONResponse(seen.report())

    return Starlette(
        routes=[
            Route("/work", work),
            Route("/note", note, methods=["POST"]),
            Route("/shelf", shelf),
            Route("/load", load, methods=["POST"]),
            Route("/forget", forget, methods=["POST"]),
            Route("/counts", counts),
        ]
    )


async def main() -> None:
    key = os.environ["PEREGRINE_API_KEY"]
    seen = Seen()
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(
            httpx.AsyncClient(
                base_url=EDGE,
                timeout=httpx.Timeout(10.0, read=30.0),
                limits=httpx.Limits(max_connections=MOST_AT_ONCE),
            )
        )
        identities = await stack.enter_async_context(
            IdentityClient(ORCHESTRATOR, api_key=key, tls=False)
        )
        exchange = Exchange(identities)
        stack.push_async_callback(exchange.aclose)
        workers = await stack.enter_async_context(
            Workers(TOOLS, api_key=key, tls=False, exchange=exchange)
        )
        crowd = Crowd(http=http, workers=workers, seen=seen, key=key)
        server = uvicorn.Server(
            uvicorn.Config(
                application(crowd, seen),
                host="0.0.0.0",
                port=PORT,
                log_level="warning",
                # Longer than any caller keeps a connection: no request meets one that just ended.
                timeout_keep_alive=600,
            )
        )
        callers = [
            asyncio.create_task(crowd.steadily(kind, one))
            for kind, one in (("runs", crowd.run), ("calls", crowd.call), ("reads", crowd.read))
        ]
        try:
            await server.serve()
        finally:
            for each in callers:
                each.cancel()
            await asyncio.gather(*callers, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(main())
