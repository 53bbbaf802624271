"""The HTTP server from its first breath to its last, in the steps that every service has.

Start: bind, answer probes with 503, ready when the backends answered. Stop: not ready, wait for
load balancers to notice, send the readers of streams elsewhere, let requests in flight end.
uvicorn serves; signals, logs and the exit code are `kit.serve`'s, as for the other services.
"""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterator

import structlog
import uvicorn
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from peregrine.edge.streaming import Streams
from peregrine.kit import telemetry
from peregrine.kit.errors import StartRefused, Unavailable
from peregrine.kit.serve import refuse_open_address
from peregrine.kit.settings import ServeSettings

_READY_RETRY_SECONDS = 0.5
_BACKLOG = 1024
# What the kernel holds for one reader; without it, it grows to megabytes for one that stalls.
_SEND_BUFFER_BYTES = 128 * 1024
_KEEP_ALIVE_SECONDS = 75

log = structlog.get_logger(__name__)


class EdgeServer:
    """Serves `app` on the address of the settings.

    Args:
      backends: returns when they answered; raises `Unavailable` to be asked again soon.
    """

    def __init__(
        self,
        *,
        app: ASGIApp,
        settings: ServeSettings,
        streams: Streams,
        backends: Callable[[], Awaitable[None]],
        protocol: type[H11Protocol],
        registry: CollectorRegistry,
    ) -> None:
        self.settings = settings
        self.port = 0
        self.ready = False
        self._app = app
        self.streams = streams
        self._backends = backends
        self._protocol = protocol
        self.registry = registry
        self._uvicorn: _Uvicorn | None = None
        self._serving: asyncio.Task[None] | None = None
        self._readiness: asyncio.Task[None] | None = None
        self._stopping = False
        self._metrics = contextlib.ExitStack()

    async def start(self) -> int:
        """Binds and serves; returns the port. Readiness follows by itself.

        Raises:
          StartRefused: the address or the metrics port cannot be bound, or others could reach an
            edge that asks nobody who they are.
        """
        settings = self.settings
        refuse_open_address(settings)
        listening = _bind(settings.listen)
        self.port = listening.getsockname()[1]
        self._metrics.enter_context(
            telemetry.start_metrics_server(
                settings.metrics_port, self.registry, host=settings.metrics_host
            )
        )
        self._uvicorn = _Uvicorn(
            uvicorn.Config(
                self._app,
                http=self._protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=_BACKLOG,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=max(int(settings.drain_seconds), 1),
                reset_contextvars=True,
            )
        )
        self._serving = asyncio.create_task(self._uvicorn.serve([listening]), name="edge-http")
        self._readiness = asyncio.create_task(self._become_ready(), name="edge-readiness")
        log.info("listening", address=self.address)
        return self.port

    @property
    def address(self) -> str:
        return f"{self.settings.listen.rpartition(':')[0]}:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    async def serving(self) -> None:
        """Waits until it is ready; raises what ended it before."""
        if self._readiness is None or self._serving is None:
            raise RuntimeError("the server is not started")
        await asyncio.wait({self._readiness, self._serving}, return_when=asyncio.FIRST_COMPLETED)
        for ended in (self._readiness, self._serving):
            if ended.done():
                ended.result()

    async def stop(self, grace: float | None = None) -> None:
        """Stops in order; `grace` seconds (default: the drain setting) bound what is in flight."""
        if self._stopping or self._uvicorn is None or self._serving is None:
            return
        self._stopping = True
        self.ready = False
        grace = self.settings.drain_seconds if grace is None else grace
        try:
            if self._readiness is not None:
                self._readiness.cancel()
                await asyncio.gather(self._readiness, return_exceptions=True)
            log.info("not_serving")
            await asyncio.sleep(self.settings.endpoint_grace_seconds)
            self._uvicorn.config.timeout_graceful_shutdown = max(int(grace), 1)
            self._uvicorn.should_exit = True
            self.streams.send_elsewhere()
            await asyncio.wait({self._serving})
            self._serving.result()
        finally:
            self._serving.cancel()
            await asyncio.gather(self._serving, return_exceptions=True)
            self._metrics.close()
        log.info("stopped")

    async def _become_ready(self) -> None:
        waiting = False
        while True:
            try:
                await self._backends()
                break
            except Unavailable as error:
                if not waiting:
                    log.warning("waiting_for_backends", reason=error.reason, error=error.message)
                waiting = True
                await asyncio.sleep(_READY_RETRY_SECONDS)
        self.ready = True
        log.info("serving", address=self.address)


class _Uvicorn(uvicorn.Server):
    """Leaves signals to the process it is part of."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _bind(listen: str) -> socket.socket:
    host, _, port = listen.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        reason = "host:port is expected"
        raise StartRefused(f"cannot listen on {listen} ({reason}): correct PEREGRINE_LISTEN")
    host = host.strip("[]")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, int(port)), family=family, backlog=_BACKLOG)
    except OSError as error:
        reason = (error.strerror or "not a usable address").lower()
        raise StartRefused(
            f"cannot listen on {listen} ({reason}): set PEREGRINE_LISTEN to a free address"
        ) from None
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
    listening.setblocking(False)
    return listening
