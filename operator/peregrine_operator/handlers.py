"""kopf's part: the watches. What they deliver is a hint that goes into the view, nothing more.

kopf runs in a thread of its own, with an event loop of its own: it takes the signals of the process
and every task of its loop for its own, and here both belong to the service around it. Its handlers
are the raw ones, without finalizers, annotations or retries of kopf's: these are ours, because a
look at a resource may be due for reasons that no event of that resource tells.

A watch can go silent without an end, so it gets deadlines on every level, and `Watches.silent` says
when a change was listed that no watch has told of.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import kopf
import structlog

from peregrine_operator.kubernetes import GROUP, PLURALS, VERSION, Key, Login
from peregrine_operator.metrics import Metrics
from peregrine_operator.view import Object, read

# A watch that works tells of a change within this many seconds.
SILENT_AFTER = 45.0

_CONNECT, _SERVER, _CLIENT, _INACTIVE = 10.0, 60.0, 90.0, 90.0
_AGAIN_SECONDS = 5.0
# kopf may take five more to give up what it had begun; its thread is a daemon, and told nothing.
_JOIN_SECONDS = 2.0

log = structlog.get_logger(__name__)

Changed = Callable[[str, Object], None]
"""Told the type of an event (ADDED, MODIFIED, DELETED, or empty at a first list) and its object."""


def login() -> Login:
    """From the service account of the pod, else from KUBECONFIG or ~/.kube/config.

    Raises:
      LoginError: there is neither.
    """
    settings = kopf.OperatorSettings()
    found = kopf.login_with_service_account(settings=settings) or kopf.login_with_kubeconfig(
        settings=settings
    )
    if found is None:
        raise kopf.LoginError("neither a service account nor a kubeconfig is here: set KUBECONFIG")
    return found


class Watches:
    """Watches all our kinds, in these namespaces or (when there are none) in all.

    `changed` is called on the loop of whoever runs this.
    """

    def __init__(
        self,
        *,
        namespaces: Sequence[str],
        changed: Changed,
        metrics: Metrics,
        login: Callable[[], Login],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._namespaces = tuple(namespaces)
        self._changed = changed
        self._metrics = metrics
        self._login = login
        self._clock = clock
        self._awaited: dict[Key, tuple[int, float]] = {}
        self._failing_since: float | None = None

    @property
    def failing_for(self) -> float:
        """Seconds since watches began to fail, restarts included; 0 while they work."""
        return 0.0 if self._failing_since is None else self._clock() - self._failing_since

    async def run(self) -> None:
        """For ever; what fails is begun anew."""
        while True:
            failure = await self._watch()
            if self._failing_since is None:
                self._failing_since = self._clock()
            self._metrics.watch_restarts.inc()
            log.error("watches_failed", error=failure, again_after=_AGAIN_SECONDS)
            await asyncio.sleep(_AGAIN_SECONDS)

    def listed(self, news: Object) -> None:
        """A list showed a version that no watch had told of: one should, soon."""
        if news.version:
            self._awaited.setdefault(news.key, (news.version, self._clock()))

    def forget(self, key: Key) -> None:
        self._awaited.pop(key, None)

    @property
    def silent(self) -> str:
        """The resource whose change no watch told of in time; empty while all is well."""
        late = self._clock() - SILENT_AFTER
        return next((str(key) for key, (_, since) in self._awaited.items() if since < late), "")

    def reset(self) -> None:
        """Forgets what was awaited, for watches that begin anew."""
        for key, (_, since) in self._awaited.items():
            if since < self._clock() - SILENT_AFTER:
                self._metrics.watch_missed.labels(key.kind).inc()
        self._awaited.clear()

    def _told(self, kind: str, event: str, body: dict[str, Any]) -> None:
        self._metrics.watch_events.labels(kind).inc()
        one = read(kind, body)
        awaited = self._awaited.get(one.key)
        if awaited is not None and (one.version >= awaited[0] or event == "DELETED"):
            del self._awaited[one.key]
        self._changed(event, one)

    async def _watch(self) -> str:
        """Until kopf ends, or a watch is silent; returns why."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[BaseException | None] = loop.create_future()
        stop = threading.Event()
        self.reset()

        def told(kind: str, event: str, body: dict[str, Any]) -> None:
            if not stop.is_set():
                loop.call_soon_threadsafe(self._told, kind, event, body)

        def tell_end(error: BaseException | None) -> None:
            if not ended.done():
                ended.set_result(error)

        def live() -> None:
            error: BaseException | None = None
            try:
                asyncio.run(self._kopf(told, stop))
            except BaseException as raised:
                error = raised  # the top of a thread: told to the loop
            if not stop.is_set():
                loop.call_soon_threadsafe(tell_end, error)

        thread = threading.Thread(target=live, name="kopf", daemon=True)
        thread.start()
        began = self._clock()
        try:
            while not ended.done() and not self.silent:
                await asyncio.wait([ended], timeout=SILENT_AFTER / 9)
                if self._clock() - began > SILENT_AFTER and not ended.done():
                    self._failing_since = None
            if not ended.done():
                return f"a watch is silent about {self.silent}"
            error = ended.result()
            return f"{type(error).__name__}: {error}" if error else "kopf ended"
        finally:
            stop.set()
            await asyncio.shield(asyncio.to_thread(thread.join, _JOIN_SECONDS))

    async def _kopf(
        self, told: Callable[[str, str, dict[str, Any]], None], stop: threading.Event
    ) -> None:
        registry = kopf.OperatorRegistry()
        kopf.on.login(registry=registry, backoff=_AGAIN_SECONDS)(self._kopf_login)
        for kind, plural in PLURALS.items():
            register(registry, kind, plural, told)
        await kopf.operator(
            registry=registry,
            settings=settings(),
            standalone=True,
            clusterwide=not self._namespaces,
            namespaces=self._namespaces,
            stop_flag=stop,
        )

    def _kopf_login(self, **_: Any) -> Any:
        return self._login()


def register(
    registry: kopf.OperatorRegistry,
    kind: str,
    plural: str,
    told: Callable[[str, str, dict[str, Any]], None],
) -> None:
    """The handler of one kind: every event, raw."""

    async def seen(event: kopf.RawEvent, **_: Any) -> None:
        told(kind, event["type"] or "", dict(event["object"]))

    kopf.on.event(GROUP, VERSION, plural, registry=registry, id=f"seen-{plural}")(seen)


def settings() -> kopf.OperatorSettings:
    """kopf with deadlines, and quiet: its log lines are not posted, nothing else is scanned."""
    # That it gets no signals in its thread is what we want, and no news.
    logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)
    made = kopf.OperatorSettings()
    made.posting.enabled = False
    made.scanning.disabled = True
    made.networking.connect_timeout = _CONNECT
    made.networking.request_timeout = _SERVER
    made.watching.server_timeout = int(_SERVER)
    made.watching.client_timeout = _CLIENT
    made.watching.inactivity_timeout = _INACTIVE
    made.watching.chunk_size = 250
    made.process.ultimate_exiting_timeout = None
    return made
