"""A Prometheus that knows the answers to the queries it was told of, and nothing of PromQL."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from aiohttp import test_utils, web

Vector = list[tuple[Mapping[str, str], float]]


class FakePrometheus:
    """`answers` is by query. `status` other than 200 fails them all."""

    def __init__(self) -> None:
        self.answers: dict[str, Vector] = {}
        self.status = 200
        self.asked = 0
        self.url = ""

    async def query(self, request: web.Request) -> web.Response:
        self.asked += 1
        form = await request.post()
        if self.status != 200:
            return web.json_response({"status": "error", "error": "no"}, status=self.status)
        vector = self.answers.get(str(form["query"]), [])
        result = [
            {"metric": dict(labels), "value": [float(str(form["time"])), str(value)]}
            for labels, value in vector
        ]
        data = {"resultType": "vector", "result": result}
        return web.json_response({"status": "success", "data": data})


@asynccontextmanager
async def prometheus() -> AsyncIterator[FakePrometheus]:
    fake = FakePrometheus()
    application = web.Application()
    application.router.add_post("/api/v1/query", fake.query)
    async with test_utils.TestServer(application) as server:
        fake.url = str(server.make_url("")).rstrip("/")
        yield fake
