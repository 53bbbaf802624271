"""Starts everything in order, watches it, and stops it in order: each level is a context.

    state directory ▸ children ▸ PostgreSQL, Redis ▸ tables ▸ services ▸ examples ▸ watch

Whatever ends a level (a dead child, a stage that fails, a signal) unwinds those that were entered:
the edge first, then the orchestrator, as it needs the others to hand its runs over, then the other
services, then the stores. A second Ctrl-C kills what is left, which the stores are made to survive;
and when this process is killed, the watchdog of `processes` does it. So nothing is ever left
running.
"""

import asyncio
import contextlib
import os
import shlex
import shutil
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from peregrine.kit import postgres
from peregrine.kit.errors import PeregrineError
from peregrine.local import health, plan, servers, stand_in, state
from peregrine.local.migrations import COMPONENTS
from peregrine.local.plan import Service, Stores
from peregrine.local.processes import Child, Children, ProcessFailed, until_ready
from peregrine.local.settings import LocalSettings
from peregrine.local.terminal import Terminal

QUESTION = "What is 25 * 17, what time is it in UTC, and what do our docs say about refunds?"

_STOP_SECONDS = plan.DRAIN_SECONDS + 3.0
_APPLY_SECONDS = 60.0
_WATCH_SECONDS = 0.1


class Supervisor:
    """One local Peregrine. `run` lasts until it is cancelled or something fails."""

    def __init__(
        self, *, settings: LocalSettings, environ: Mapping[str, str], terminal: Terminal
    ) -> None:
        self._settings = settings
        self._environ = environ
        self._terminal = terminal
        self._state = settings.state_dir
        self._logs = settings.state_dir / "logs"
        self._children: Children | None = None
        self._watched: list[Child] = []

    async def run(self) -> None:
        """Raises `ProcessFailed` in one line."""
        async with (
            state.hold(self._state) as lock,
            Children(grace=_STOP_SECONDS, keep_open=[lock]) as children,
        ):
            self._children = children
            ports = plan.ports(self._settings)
            async with self._stores(children) as stores, stand_in.serving() as web:
                await self._migrate(stores)
                services = plan.services(
                    self._settings,
                    ports=ports,
                    stores=stores,
                    environ=self._environ,
                    stand_in=web,
                )
                async with self._services(children, services):
                    await self._apply(children, plan.targets(ports))
                    self._summarize(ports)
                    await self._watch(children)

    def kill(self) -> None:
        """End every child at once."""
        if self._children is not None:
            self._children.kill()

    @contextlib.asynccontextmanager
    async def _stores(self, children: Children) -> AsyncIterator[Stores]:
        settings = self._settings
        async with contextlib.AsyncExitStack() as stack:
            if settings.postgres_dsn is not None:
                dsn = settings.postgres_dsn.reveal()
            else:
                with self._terminal.stage("PostgreSQL") as stage:
                    database = await stack.enter_async_context(
                        servers.postgres(
                            children,
                            directory=self._state / "pg",
                            log_path=self._logs / "postgres.log",
                            deadline=settings.start_seconds,
                        )
                    )
                    dsn = database.dsn()
                    self._watched.append(database.child)
                    stage.detail = str(self._state / "pg")
            if settings.redis_url is not None:
                url = cache_url = settings.redis_url.reveal()
            else:
                with self._terminal.stage("Redis (Valkey)") as stage:
                    store = await stack.enter_async_context(
                        servers.redis(
                            children,
                            directory=self._state / "redis",
                            log_path=self._logs / "redis.log",
                            deadline=settings.start_seconds,
                        )
                    )
                    url, cache_url = store.url(0), store.url(1)
                    self._watched.append(store.child)
                    stage.detail = str(self._state / "redis")
            if settings.cache_redis_url is not None:
                cache_url = settings.cache_redis_url.reveal()
            yield Stores(postgres_dsn=dsn, redis_url=url, cache_redis_url=cache_url)

    async def _migrate(self, stores: Stores) -> None:
        with self._terminal.stage("tables") as stage:
            try:
                applied = await postgres.migrate(stores.postgres_dsn, COMPONENTS)
            except PeregrineError as problem:
                raise ProcessFailed(f"the tables could not be made: {problem}") from problem
            stage.detail = f"{len(applied)} migrations applied" if applied else "up to date"

    @contextlib.asynccontextmanager
    async def _services(
        self, children: Children, services: Sequence[Service]
    ) -> AsyncIterator[None]:
        """Start all at once, wait until each is ready; at the end stop them in order."""
        running: dict[str, Child] = {}
        try:
            for service in services:
                running[service.name] = children.spawn(
                    service.name,
                    service.command,
                    log_path=self._logs / f"{service.name}.log",
                    env=service.environ,
                )
            self._watched.extend(running.values())
            try:
                async with asyncio.TaskGroup() as starting:
                    for service in services:
                        starting.create_task(self._ready(service, running[service.name]))
            except ExceptionGroup as problems:
                # Not `except*`: before Python 3.11.4 it wraps what is raised inside it.
                failures, others = problems.split(ProcessFailed)
                if failures is None or others is not None:
                    raise
                raise failures.exceptions[0] from None
            yield
        except ProcessFailed as problem:
            # A stage that failed because another child died is told as that child's end.
            raise self._death() or problem from None
        finally:
            self._terminal.say("Stopping …", style="dim")
            for name in ("edge", "orchestrator"):
                if first := running.pop(name, None):
                    await first.stop(grace=_STOP_SECONDS)
            async with asyncio.TaskGroup() as stopping:
                for child in running.values():
                    stopping.create_task(child.stop(grace=_STOP_SECONDS))

    async def _ready(self, service: Service, child: Child) -> None:
        with self._terminal.stage(service.name) as stage:
            await until_ready(
                child, lambda: health.answers(service), deadline=self._settings.start_seconds
            )
            stage.detail = service.address

    async def _apply(self, children: Children, targets: Mapping[str, str]) -> None:
        examples = self._settings.examples_dir
        with self._terminal.stage("examples") as stage:
            child = children.spawn(
                "applying the examples",
                [sys.executable, "-m", "peregrine", "apply", "-f", examples],
                log_path=self._logs / "apply.log",
                env={
                    **self._environ,
                    **targets,
                    "PYTHONPATH": plan.import_path(self._environ),
                },
            )
            try:
                code = await child.wait(_APPLY_SECONDS)
            except TimeoutError:
                await child.kill()
                raise ProcessFailed(
                    f"applying {examples} took longer than {_APPLY_SECONDS:g} s"
                    f" (log: {child.log_path})"
                ) from None
            stage.detail = str(examples)
        if code != 0:
            # A mistake in a file of one's own is no reason to take everything down.
            self._terminal.warning(f"not all examples could be applied: {child.ended()}")

    async def _watch(self, children: Children) -> None:
        """Until a child ends, which it should not."""
        while True:
            if death := self._death():
                raise death
            if not children.guarded:
                raise ProcessFailed("the watchdog, without which children could be left, was ended")
            await asyncio.to_thread(state.bound_logs, self._logs)
            await asyncio.sleep(_WATCH_SECONDS)

    def _death(self) -> ProcessFailed | None:
        dead = next((child for child in self._watched if child.returncode is not None), None)
        return dead.ended() if dead else None

    def _summarize(self, ports: Mapping[str, Sequence[plan.Port]]) -> None:
        rows = [(name, plan.address(own)) for name, own in ports.items()]
        moved = plan.moved_targets(ports)
        self._terminal.summary(
            page=f"http://{plan.address(ports['edge'])}/",
            simulated=self._settings.simulated,
            rows=[*rows, ("state", str(self._state)), ("logs", str(self._logs))],
            commands=[
                *(f"export {variable}={target}" for variable, target in moved.items()),
                f"{_command()} chat {shlex.quote(QUESTION)}",
            ],
        )


def _command() -> str:
    """How the CLI is called from here: by its name if the path finds it."""
    own = Path(sys.executable).with_name("peregrine")
    if (found := shutil.which("peregrine")) and os.path.samefile(found, own):
        return "peregrine"
    if not own.exists():
        return f"{sys.executable} -m peregrine"
    relative = os.path.relpath(own)
    return str(own) if relative.startswith("..") else relative
