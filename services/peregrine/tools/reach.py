"""What the tools of a worker reach: settings and wiring of the outside.

Files, the SQL database and secrets belong to one tenant, because a folder, a role and a directory
of secrets know no tenants: tools of others are refused. A connection to each declared host is made
when its tool is applied or the worker starts, so that the first call need not wait for it; with an
MCP server, at first need.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry, Counter

from peregrine.api.tools.v1 import tools_pb2
from peregrine.kit.postgres import Database
from peregrine.kit.settings import Secret, setting
from peregrine.tools import contract, declared, egress, guard, http_tools, outbound, templates
from peregrine.tools.applied import Change
from peregrine.tools.builtin.http_get import http_get
from peregrine.tools.builtin.read_file import read_file
from peregrine.tools.builtin.sql_query import sql_query
from peregrine.tools.declared import Violations
from peregrine.tools.definition import Definition
from peregrine.tools.mcp_servers import Keep, Server, Servers
from peregrine.tools.mcp_tools import Offering
from peregrine.tools.outbound import Outbound
from peregrine.tools.registry import Registry

EXAMPLE_URL = "PEREGRINE_EXAMPLE_HTTP_URL"

_SQL_CONNECTIONS = 4
_MAX_WARMING = 64

log = structlog.get_logger(__name__)


def _open(text: str) -> tuple[str, ...]:
    entries = tuple(part.strip() for part in text.split(",") if part.strip())
    egress.rules(entries)
    return entries


def _base(text: str) -> str:
    try:
        return egress.parse(text.strip()).url.rstrip("/")
    except egress.Refused as problem:
        raise ValueError(f"cannot be used: {problem}") from None


@dataclass(frozen=True, kw_only=True)
class ReachSettings:
    """Part of a worker's settings."""

    egress_allow: tuple[str, ...] = setting(
        "PEREGRINE_EGRESS_ALLOW",
        default=(),
        parse=_open,
        help="what tools may reach besides the public internet, comma separated: networks, "
        "addresses and host names, each with a port or without (10.1.0.0/16, 10.1.2.3:8080, "
        "[fd00::1]:443, crm.internal:443)",
    )
    http_seconds: float = setting(
        "PEREGRINE_TOOLS_HTTP_SECONDS",
        default=outbound.DEFAULT_SECONDS,
        minimum=0.1,
        maximum=300,
        help="seconds for a whole HTTP request of a tool whose own timeout says nothing shorter",
    )
    tenant: str = setting(
        "PEREGRINE_TOOLS_TENANT",
        default="local",
        help="tenant that the files, the SQL database and the secrets of this worker belong to; "
        "tools of other tenants cannot use them",
    )
    files_dir: Path | None = setting(
        "PEREGRINE_FILES_DIR",
        default=None,
        help="folder that read_file reads below; without it there is no such tool",
    )
    sql_dsn: Secret | None = setting(
        "PEREGRINE_SQL_TOOL_DSN",
        default=None,
        secret=True,
        help="PostgreSQL that sql_query asks, under a role that may do nothing but SELECT; without "
        "it there is no such tool",
    )
    example_url: str | None = setting(
        EXAMPLE_URL,
        default=None,
        parse=_base,
        help="what stands for ${PEREGRINE_EXAMPLE_HTTP_URL} at the beginning of a declared tool's "
        "URL, as in the examples; without it these tools are off",
    )


class Reach:
    """The outside, as the tools of one worker see it. Made by `reaching`."""

    def __init__(
        self,
        *,
        http: Outbound,
        builtin: tuple[Definition, ...],
        tenant: str,
        secret: Callable[[str], Secret],
        variables: Mapping[str, str],
        failures: Counter,
    ) -> None:
        self.builtin = builtin
        self.servers = Servers(changed=self._offer, failures=failures)
        self._failures = failures
        self._http = http
        self._tenant = tenant
        self._secret = secret
        self._variables = variables
        self._warm: set[str] = set()
        self._warming: set[asyncio.Task[None]] = set()

    def serve(self, registry: Registry, keep: Keep) -> None:
        """Says where tools are put, and how what MCP servers offer is kept. Before any other."""
        self._registry = registry
        self._keep = keep
        self._offering = Offering(registry)

    def check(self, tool: tools_pb2.Tool, tenant: str) -> Violations:
        """What is wrong with a declaration of `tenant`."""
        return declared.check(
            tool,
            variables=self._variables,
            secrets_allowed=tenant == self._tenant,
            written=self._registry.written,
        )

    def follow(self, change: Change) -> None:
        """Puts an applied tool in force, or takes it out."""
        registry = self._registry
        if change.tool is None or not change.tool.tool.HasField("mcp"):
            self.servers.drop(change.tenant, change.name)
            self._offering.drop(change.tenant, change.name)
        if change.tool is None:
            registry.drop(change.tenant, change.name)
            return
        tool = change.tool.tool
        # What another version or another worker's settings let through, this one may not serve.
        if problems := self.check(tool, change.tenant):
            log.warning(
                "tool_not_served",
                tool=change.name,
                tenant=change.tenant,
                problems=[f"{field} {what}" for field, what in problems],
            )
            registry.drop(change.tenant, change.name)
            return
        if tool.HasField("mcp"):
            server = Server(
                tenant=change.tenant,
                registered=change.tool,
                pool=self._http.pool,
                secret=lambda name, reference: http_tools.found(name, self._secret, reference),
                keep=self._keep,
                failures=self._failures,
            )
            self.servers.put(server)
            return
        if (written := registry.written(tool)) is not None:
            definition = declared.over(written, tool, change.tool.version)
            change.tool.tool.CopyFrom(contract.over(definition, tool))
            registry.put(change.tenant, definition, change.tool)
            return
        change.tool.disabled_reason = http_tools.disabled(tool, variables=self._variables)
        definition = http_tools.definition(
            tool,
            version=change.tool.version,
            fetch=self._http.fetch,
            secret=self._secret,
            variables=self._variables,
        )
        registry.put(change.tenant, definition, change.tool)
        if not change.tool.disabled_reason:
            self._warm_up(tool.http.url)

    def _offer(self, server: Server) -> None:
        self._offering.update(server)

    def _warm_up(self, template: str) -> None:
        """Connects to the host of a declared tool, once for each, in the background."""
        start = templates.split(template)[0]
        name = templates.variable(template)
        origin = self._variables[name] if name else start
        if origin in self._warm or len(self._warming) >= _MAX_WARMING:
            return
        self._warm.add(origin)
        task = asyncio.create_task(self._connect(origin), name="tools-warm")
        self._warming.add(task)
        task.add_done_callback(self._warming.discard)

    async def _connect(self, origin: str) -> None:
        if not await self._http.warm(origin):
            log.info("host_not_warmed", host=origin)

    async def close(self) -> None:
        await self.servers.close()
        for task in self._warming:
            task.cancel()
        if self._warming:
            await asyncio.wait(self._warming)


@asynccontextmanager
async def reaching(
    settings: ReachSettings,
    *,
    secret: Callable[[str], Secret],
    failures: Counter,
    registry: CollectorRegistry | None = None,
    resolve: guard.Resolve = guard.resolve,
    connect: guard.Connect = guard.connect,
) -> AsyncIterator[Reach]:
    """Opens what the settings name.

    Args:
      secret: finds a secret by its name, or raises `SettingsError`.
      failures: counts work on MCP servers that broke in the background.

    Raises:
      StartRefused, Unavailable: as `Database.connect`, of the database that `sql_query` asks.
    """
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(
            outbound.opened(
                rules=egress.rules(settings.egress_allow),
                seconds=settings.http_seconds,
                registry=registry,
                resolve=resolve,
                connect=connect,
            )
        )
        builtin = [http_get(http.fetch)]
        if settings.files_dir is not None:
            builtin.append(read_file(settings.files_dir, tenant=settings.tenant))
        if settings.sql_dsn is not None:
            database = await Database.connect(
                settings.sql_dsn, size=_SQL_CONNECTIONS, application_name="peregrine-sql-tool"
            )
            await stack.enter_async_context(database)
            builtin.append(sql_query(database, tenant=settings.tenant))
        reach = Reach(
            http=http,
            builtin=tuple(builtin),
            tenant=settings.tenant,
            secret=secret,
            variables={EXAMPLE_URL: settings.example_url or ""},
            failures=failures,
        )
        stack.push_async_callback(reach.close)
        yield reach
