"""Prometheus, asked: several instant queries for one moment, each with its own deadline.

An answer is a vector or a failure with its reason. A number that is none (NaN, +Inf) is passed on
as it is: what it means is decided by whoever asked.
"""

import asyncio
from collections.abc import Mapping
from types import TracebackType

import httpx

from peregrine_operator.signals import Failure, Series

TIMEOUT = 2.0
_MAX_SERIES = 20_000
_MAX_MESSAGE = 300


class Prometheus:
    """Open it with `async with`. An empty `url` means that there is none: all queries fail."""

    def __init__(self, url: str, *, timeout: float = TIMEOUT) -> None:
        self._url = url.rstrip("/")
        self._timeout = timeout
        self._client: httpx.AsyncClient | None = None

    async def __aenter__(self) -> "Prometheus":
        limits = httpx.Limits(max_connections=16, max_keepalive_connections=16)
        self._client = httpx.AsyncClient(timeout=self._timeout, limits=limits, trust_env=False)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def ask(
        self, queries: Mapping[str, str], *, at: float
    ) -> dict[str, list[Series] | Failure]:
        """The answers by name, all for the moment `at` (seconds since 1970)."""
        answers = await asyncio.gather(*(self._one(query, at) for query in queries.values()))
        return dict(zip(queries, answers, strict=True))

    async def _one(self, query: str, at: float) -> list[Series] | Failure:
        if not self._url:
            return Failure("no Prometheus is known: set PEREGRINE_PROMETHEUS_URL")
        if self._client is None:
            raise RuntimeError("Prometheus is not open: use it with `async with`")
        form = {"query": query, "time": f"{at:.3f}", "timeout": f"{self._timeout:g}s"}
        try:
            async with asyncio.timeout(self._timeout):
                response = await self._client.post(f"{self._url}/api/v1/query", data=form)
            answer = response.json()
        except TimeoutError:
            return Failure(f"no answer within {self._timeout:g} s")
        except (httpx.HTTPError, ValueError) as error:
            return Failure(f"{type(error).__name__}: {error}"[:_MAX_MESSAGE])
        try:
            return _vector(response.status_code, answer)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError):
            return Failure("an answer of an unknown form")


def _vector(status: int, answer: dict[str, object]) -> list[Series] | Failure:
    if status != 200 or answer["status"] != "success":
        said = answer.get("error", "no reason was given")
        return Failure(f"{status}: {said}"[:_MAX_MESSAGE])
    data = answer["data"]
    if not isinstance(data, dict) or data["resultType"] != "vector":
        return Failure("the answer is no vector")
    if len(data["result"]) > _MAX_SERIES:
        return Failure(f"more than {_MAX_SERIES} series")
    return [Series(dict(each["metric"]), float(each["value"][1])) for each in data["result"]]
