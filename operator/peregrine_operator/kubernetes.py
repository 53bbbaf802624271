"""The API server, as the operator uses it: a handful of requests, each with a deadline.

kopf keeps its own connection for watches. Everything else goes through here, so that what the
operator reads and writes, and the rights it needs for that, can be seen in one place. Nothing is
retried: whoever asks will look again.
"""

import asyncio
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol
from urllib.parse import quote

import aiohttp
import structlog

from peregrine_operator.metrics import Metrics

GROUP, VERSION = "peregrine.dev", "v1alpha1"
PLURALS: Mapping[str, str] = {
    "Agent": "agents",
    "Tool": "tools",
    "ToolPool": "toolpools",
    "CachePolicy": "cachepolicies",
}
OURS = f"/apis/{GROUP}/{VERSION}"

MERGE = "application/merge-patch+json"
_PAGE = 250
_MAX_MESSAGE = 1000

log = structlog.get_logger(__name__)


class Login(Protocol):
    """Where the API server is and how to be let in; kopf's `ConnectionInfo` is one."""

    @property
    def server(self) -> str: ...

    @property
    def default_namespace(self) -> str | None: ...

    @property
    def proxy_url(self) -> str | None: ...

    def as_http_headers(self) -> dict[str, str]: ...

    def as_ssl_context(self) -> ssl.SSLContext: ...


class ApiError(Exception):
    """The API server refused. `reason` is its own word: NotFound, Conflict, Forbidden, Invalid …"""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        return f"{self.message} ({self.status} {self.reason})"


class ApiAway(ApiError):
    """It did not answer, or not now: no connection, no answer in time, 429 or 5xx."""


@dataclass(frozen=True, slots=True)
class Key:
    """Which resource. `kind` is the singular name in capitals, as in YAML."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"

    @property
    def path(self) -> str:
        return f"{OURS}/namespaces/{quote(self.namespace)}/{PLURALS[self.kind]}/{quote(self.name)}"


class Kubernetes:
    """Open it with `async with`.

    Args:
      login: asked at the start and whenever the API server no longer lets us in: the token of a
        service account is renewed under the running process.
      timeout: seconds for each request.
    """

    def __init__(
        self, *, login: Callable[[], Login], metrics: Metrics, timeout: float = 10.0
    ) -> None:
        self._login = login
        self._metrics = metrics
        self._timeout = timeout
        self._lock = asyncio.Lock()
        self._info: Login | None = None
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "Kubernetes":
        await self._connect(None)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    @property
    def namespace(self) -> str:
        """The namespace of this process, or of the context of the kubeconfig."""
        return (self._info.default_namespace if self._info else None) or "default"

    # ---- Resources of ours ----

    async def kinds(self) -> frozenset[str]:
        """The plural names of our kinds that the API server serves."""
        try:
            found = await self.request("GET", OURS)
        except ApiError as error:
            if error.status == 404:
                return frozenset()
            raise
        return frozenset(each["name"] for each in found.get("resources", ()))

    async def list(self, kind: str, namespace: str | None) -> tuple[list[dict[str, Any]], str]:
        """All objects of a kind, in one or in every namespace, and the version of the list."""
        where = f"/namespaces/{quote(namespace)}" if namespace else ""
        items: list[dict[str, Any]] = []
        token = ""
        while True:
            params = {"limit": str(_PAGE)} | ({"continue": token} if token else {})
            page = await self.request("GET", f"{OURS}{where}/{PLURALS[kind]}", params=params)
            items.extend(page["items"])
            metadata = page.get("metadata", {})
            token = metadata.get("continue", "")
            if not token:
                return items, metadata.get("resourceVersion", "")

    async def patch(self, key: Key, body: Mapping[str, Any], *, status: bool) -> dict[str, Any]:
        """Merges `body` into a resource, or into its status; returns the resource."""
        path = f"{key.path}/status" if status else key.path
        return await self.request("PATCH", path, body=body, content_type=MERGE)

    # ---- Anything ----

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        params: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        """One request.

        Raises:
          ApiError: refused; ApiAway: not answered.
        """
        session = self._session
        try:
            return await self._once(method, path, body, params, content_type)
        except ApiError as error:
            if error.status != 401:
                raise
        await self._connect(session)
        return await self._once(method, path, body, params, content_type)

    async def _once(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        params: Mapping[str, str] | None,
        content_type: str,
    ) -> dict[str, Any]:
        session, info = self._session, self._info
        if session is None or info is None:
            raise RuntimeError("Kubernetes is not open: use it with `async with`")
        status = 0
        try:
            async with session.request(
                method,
                info.server.rstrip("/") + path,
                json=body,
                params=params,
                headers={"Content-Type": content_type} if body is not None else None,
                proxy=info.proxy_url,
            ) as response:
                status = response.status
                answer = await response.json(content_type=None)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            what = type(error).__name__ if isinstance(error, TimeoutError) else str(error)
            raise ApiAway(0, "Unreachable", f"the API server does not answer: {what}") from None
        except ValueError:
            answer = {"message": "the answer is not JSON"}
            status = status if status >= 400 else 502
        finally:
            self._metrics.api_requests.labels(method, str(status)).inc()
        if status < 400:
            return answer if isinstance(answer, dict) else {}
        raise _error(status, answer if isinstance(answer, dict) else {})

    async def _connect(self, stale: aiohttp.ClientSession | None) -> None:
        async with self._lock:
            if self._session is not stale:
                return  # somebody else was quicker
            info = await asyncio.to_thread(self._login)
            secure = info.server.startswith("https:")
            context = await asyncio.to_thread(info.as_ssl_context) if secure else False
            self._info = info
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=32, ssl=context),
                headers={**info.as_http_headers(), "User-Agent": "peregrine-operator"},
                timeout=aiohttp.ClientTimeout(total=self._timeout, sock_connect=self._timeout),
            )
            if stale is not None:
                await stale.close()


def _error(status: int, answer: Mapping[str, Any]) -> ApiError:
    kind = ApiAway if status == 429 or status >= 500 else ApiError
    message = str(answer.get("message", ""))[:_MAX_MESSAGE] or "no reason was given"
    return kind(status, str(answer.get("reason") or "Unknown"), message)
