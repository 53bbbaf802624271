"""A gRPC server from its first breath to its last, and the process around it.

Start: bind, answer health checks with NOT_SERVING, wait until `ready()` says that the backends
answered, then SERVING. Stop (SIGTERM or SIGINT): NOT_SERVING, wait for load balancers to notice,
`drain()` (hand over what runs), let calls in flight end, exit 0. A second signal cuts it short.

`run(build)` is the whole of a service's process: `build` is an async context manager that reads the
settings, opens what the service needs, and yields a `Server`; leaving it closes everything in turn.
"""

import asyncio
import contextlib
import errno
import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeAlias

import grpc
import grpc.aio
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import CollectorRegistry

from peregrine.kit import identity, telemetry
from peregrine.kit.context import ContextInterceptor, Door
from peregrine.kit.errors import ErrorInterceptor, PeregrineError, StartRefused, Unavailable
from peregrine.kit.options import server_options
from peregrine.kit.settings import InnerSettings, ServeSettings, SettingsError, load
from peregrine.kit.starting import patiently

Servicer: TypeAlias = tuple[Callable[[Any, Any], None], Any, str]
"""(add_XServicer_to_server, the servicer, the full name of the service)."""
Build: TypeAlias = Callable[[Mapping[str, str]], AbstractAsyncContextManager["Serving"]]

EXIT_CLEAN, EXIT_FAILED, EXIT_SETTINGS = 0, 1, 2
LIVENESS = "liveness"
"""The name under which health says SERVING while the process runs, whatever its backends do."""

_READY_RETRY_SECONDS = 0.5
_LAST_GRACE_SECONDS = 0.5
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

log = structlog.get_logger(__name__)


class Serving(Protocol):
    """What `run` drives through its life: a `Server`, or one that speaks another protocol."""

    async def start(self) -> int: ...

    async def serving(self) -> None: ...

    async def stop(self) -> None: ...


class Server:
    """A gRPC server with health, reflection (when set), typed errors and the call's context.

    Args:
      name: of the service, as in logs.
      servicers: what it serves.
      door: where callers say who they are; by default they show the identity that services sign.
      ready: returns when the backends answered; raises `Unavailable` to be asked again soon.
      drain: hands over what would outlive the process; gets at most the drain time.
      interceptors: further ones, innermost (admission control).
      registry: served on the metrics port, when one is set.
    """

    def __init__(
        self,
        *,
        name: str,
        settings: InnerSettings,
        servicers: Sequence[Servicer],
        door: Door | None = None,
        ready: Callable[[], Awaitable[None]] | None = None,
        drain: Callable[[], Awaitable[None]] | None = None,
        interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
        registry: CollectorRegistry | None = None,
    ) -> None:
        self.name = name
        self.settings = settings
        self.port = 0
        self._servicers = tuple(servicers)
        self._door = door or identity.door(settings)
        self._ready = ready
        self._drain = drain
        self._interceptors = tuple(interceptors)
        self._registry = registry
        self._health = _Health()
        self._grpc: grpc.aio.Server | None = None
        self._readiness: asyncio.Task[None] | None = None
        self._stopping = False
        self._metrics = contextlib.ExitStack()

    async def start(self) -> int:
        """Binds and serves; returns the port (0 for a Unix socket). Readiness follows by itself.

        Raises:
          StartRefused: the address or the metrics port cannot be bound, or others could reach a
            server that asks nobody who they are.
        """
        settings = self.settings
        refuse_open_address(settings)
        server = grpc.aio.server(
            interceptors=[
                ErrorInterceptor(),
                ContextInterceptor(door=self._door),
                *self._interceptors,
            ],
            options=server_options(settings),
        )
        names = [name for _, _, name in self._servicers]
        for add, servicer, _ in self._servicers:
            add(servicer, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        await self._announce(_NOT_SERVING)
        await self._health.set(LIVENESS, _SERVING)
        if settings.reflection:
            reflection.enable_server_reflection(
                [*names, health.SERVICE_NAME, reflection.SERVICE_NAME], server
            )
        self.port = _bind(server, settings.listen)
        if self._registry is not None:
            self._metrics.enter_context(
                telemetry.start_metrics_server(
                    settings.metrics_port, self._registry, host=settings.metrics_host
                )
            )
        await server.start()
        self._grpc = server
        self._readiness = asyncio.create_task(self._become_ready(), name=f"{self.name}-readiness")
        log.info("listening", address=self.address)
        return self.port

    @property
    def address(self) -> str:
        """What a client on this machine connects to."""
        listen = self.settings.listen
        return listen if listen.startswith("unix:") else f"{listen.rpartition(':')[0]}:{self.port}"

    async def serving(self) -> None:
        """Waits until health says SERVING; raises what `ready` raised when it gave up."""
        if self._readiness is None:
            raise RuntimeError("the server is not started")
        await asyncio.shield(self._readiness)

    async def stop(self, grace: float | None = None) -> None:
        """Stops in order; `grace` (seconds, default: the drain setting) bounds drain and calls."""
        if self._stopping:
            return
        self._stopping = True
        grace = self.settings.drain_seconds if grace is None else grace
        try:
            if self._readiness is not None:
                self._readiness.cancel()
                # What it raised is for whoever waits in `serving`.
                await asyncio.gather(self._readiness, return_exceptions=True)
            await self._health.enter_graceful_shutdown()
            log.info("not_serving")
            await asyncio.sleep(self.settings.endpoint_grace_seconds)
            deadline = time.monotonic() + grace
            await self._run_drain(grace)
            self._health.end_watches()
            if self._grpc is not None:
                await self._grpc.stop(max(deadline - time.monotonic(), _LAST_GRACE_SECONDS))
        finally:
            if self._grpc is not None:
                await self._grpc.stop(None)
            self._metrics.close()
        log.info("stopped")

    async def __aenter__(self) -> "Server":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _become_ready(self) -> None:
        waiting = False
        while self._ready is not None:
            try:
                await self._ready()
                break
            except Unavailable as error:
                if not waiting:
                    log.warning("waiting_for_backends", reason=error.reason, error=error.message)
                waiting = True
                await asyncio.sleep(_READY_RETRY_SECONDS)
        await self._announce(_SERVING)
        log.info("serving", address=self.address)

    async def _announce(self, status: Any) -> None:
        for service in (health.OVERALL_HEALTH, *(name for _, _, name in self._servicers)):
            await self._health.set(service, status)

    async def _run_drain(self, grace: float) -> None:
        if self._drain is None:
            return
        try:
            async with asyncio.timeout(grace):
                await self._drain()
        except TimeoutError:
            log.warning("drain_cut", seconds=grace)
        except Exception as error:
            # The top of a shutdown: what is left must still be stopped and closed.
            log.error("drain_failed", error=type(error).__name__, exc_info=error)


class _Health(health.aio.HealthServicer):  # type: ignore[misc]  # grpc_health has no types
    """Ends its Watch streams at shutdown; left open they would hold the server for its grace."""

    def __init__(self) -> None:
        super().__init__()
        self._ended = asyncio.Event()

    def end_watches(self) -> None:
        self._ended.set()

    async def Watch(self, request: Any, context: Any) -> None:
        watching = asyncio.ensure_future(super().Watch(request, context))
        ended = asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait({watching, ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
            watching.cancel()
            await asyncio.wait({watching, ended})


def run(build: Build, *, name: str | None = None, environ: Mapping[str, str] | None = None) -> int:
    """Runs a service until SIGTERM or SIGINT. Returns the exit code.

    0: stopped in order. 1: it failed (a backend away at start, a bug), said on stderr. 2: settings
    are wrong or the start is refused as configured, each problem in one line on stderr.

    Args:
      name: of the service in logs; by default the package that `build` stands in.
    """
    environ = os.environ if environ is None else environ
    start_wait = 0.0
    name = name or build.__module__.rpartition(".")[0].rpartition(".")[2] or "peregrine"
    try:
        settings = load(ServeSettings, environ)
        telemetry.configure_logging(name, settings.log_level)
        start_wait = settings.start_wait_seconds
    except SettingsError:
        # `build` knows all settings of the service and names every problem at once.
        telemetry.configure_logging(name)
    try:
        return asyncio.run(_Life(build, environ, start_wait).run())
    except Exception as raised:
        return _report(name, raised)


def _report(name: str, raised: Exception) -> int:
    error: BaseException = raised
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    match error:
        case SettingsError():
            _say(name, *(str(problem) for problem in error.problems))
            return EXIT_SETTINGS
        case StartRefused():
            _say(name, error.message)
            return EXIT_SETTINGS
        case PeregrineError():
            _say(name, f"{error.message} ({error.reason})")
            return EXIT_FAILED
    log.error("service_failed", error=type(error).__name__, exc_info=error)
    return EXIT_FAILED


class _Life:
    """One life of a service, in a task of its own, so that a signal reaches it in every phase.

    The first signal ends a start that is under way, or begins the orderly stop; the second cuts the
    stop short.
    """

    def __init__(self, build: Build, environ: Mapping[str, str], start_wait: float) -> None:
        self._build = build
        self._environ = environ
        self._start_wait = start_wait
        self._asked = asyncio.Event()
        self._started = False

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        living = asyncio.create_task(self._live(), name="service")

        def on_signal() -> None:
            if self._asked.is_set() or not self._started:
                living.cancel()
            self._asked.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal)
        try:
            await asyncio.wait([living])
            if living.cancelled():
                return EXIT_FAILED if self._started else EXIT_CLEAN
            living.result()
            return EXIT_CLEAN
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    async def _live(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            server = await patiently(
                lambda: stack.enter_async_context(self._build(self._environ)),
                seconds=self._start_wait,
            )
            try:
                await server.start()
                self._started = True
                await self._until_asked(server)
            finally:
                await server.stop()

    async def _until_asked(self, server: Serving) -> None:
        asked = asyncio.create_task(self._asked.wait())
        serving = asyncio.create_task(server.serving())
        try:
            await asyncio.wait({asked, serving}, return_when=asyncio.FIRST_COMPLETED)
            if not asked.done():
                serving.result()
                _freeze()
                await asked
        finally:
            asked.cancel()
            serving.cancel()
            await asyncio.wait({asked, serving})


def refuse_open_address(settings: ServeSettings) -> None:
    """Raises StartRefused where identity is off and more than this machine could call."""
    # Once more, for settings that were not read from variables.
    for problem in ServeSettings.problems(settings):
        raise StartRefused(str(problem))


def _freeze() -> None:
    """Spares the garbage collector what is there for good: modules, classes, descriptors.

    A full collection of the gateway under load stopped it for 276 ms with them and 43 ms without.
    """
    gc.collect()
    gc.freeze()


def _bind(server: grpc.aio.Server, listen: str) -> int:
    # Asked beforehand, because gRPC does not tell its reason but writes to stderr.
    reason = _obstacle(listen)
    try:
        if not reason:
            return server.add_insecure_port(listen)
    except RuntimeError:
        reason = "refused by gRPC"
    raise StartRefused(
        f"cannot listen on {listen} ({reason}): set PEREGRINE_LISTEN to a free address"
    )


def _obstacle(listen: str) -> str:
    """Why `listen` cannot be bound, by binding each of its addresses; empty when it can."""
    if listen.startswith("unix:"):
        return ""
    host, _, port = listen.rpartition(":")
    if not host or not port.isdigit():
        return "host:port or unix:/path is expected"
    try:
        addresses = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except (OSError, OverflowError) as error:
        return str(error)
    failures: list[OSError] = []
    for kind, _, _, _, address in addresses:
        try:
            with socket.socket(kind, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
        except OSError as error:
            failures.append(error)
    taken = [error for error in failures if error.errno == errno.EADDRINUSE]
    if taken or len(failures) == len(addresses):
        return ((taken or failures)[0].strerror or "not a usable address").lower()
    return ""


def _say(name: str, *lines: str) -> None:
    for line in lines:
        sys.stderr.write(f"{name}: {line}\n")
    sys.stderr.flush()
