"""Settings and wiring of the llm-gateway."""

import secrets
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry

from peregrine.api.llm_gateway.v1 import llm_gateway_pb2_grpc
from peregrine.kit import serve, telemetry
from peregrine.kit.background import Failures
from peregrine.kit.settings import (
    InnerSettings,
    Problem,
    Secret,
    SettingsError,
    load,
    secret_ref,
    setting,
)
from peregrine.llm_gateway.calling import Limits
from peregrine.llm_gateway.generations import Generations
from peregrine.llm_gateway.metrics import Metrics
from peregrine.llm_gateway.provider import Provider
from peregrine.llm_gateway.service import LlmServicer
from peregrine.llm_gateway.transport import open_client

SERVICE = "peregrine.api.llm_gateway.v1.LlmService"
ANTHROPIC_URL = "https://api.anthropic.com"
# What is sent to a host that is not Anthropic's when no key was set: some want the header.
PLACEHOLDER_KEY = "no-key"


def _base_url(text: str) -> str:
    url = urlsplit(text.strip())
    if url.scheme not in ("http", "https") or not url.hostname or url.username or url.query:
        raise ValueError("is not an http:// or https:// URL without user, password and query")
    return text.strip().rstrip("/")


def _protocol(text: str) -> str:
    if text.strip().lower() not in ("auto", "1.1"):
        raise ValueError("is neither auto nor 1.1")
    return text.strip().lower()


@dataclass(frozen=True, kw_only=True)
class Settings(InnerSettings):
    listen: str = setting(
        "PEREGRINE_LISTEN",
        default="127.0.0.1:50052",
        help="host:port or unix:/path that the gRPC server binds; port 0 picks a free one",
    )
    api_key: Secret | None = setting(
        "ANTHROPIC_API_KEY",
        default=None,
        secret=True,
        help="key of the Anthropic API; without it PEREGRINE_ANTHROPIC_BASE_URL must be set",
    )
    api_key_ref: str | None = setting(
        "PEREGRINE_ANTHROPIC_API_KEY_REF",
        default=None,
        help="name of the secret that holds the key, instead of ANTHROPIC_API_KEY: the file "
        "/etc/peregrine/secrets/NAME or the variable PEREGRINE_SECRET_NAME",
    )
    base_url: str | None = setting(
        "PEREGRINE_ANTHROPIC_BASE_URL",
        default=None,
        parse=_base_url,
        help="URL of something that speaks the Messages API, such as the simulator; "
        f"{ANTHROPIC_URL} when unset",
    )
    http_protocol: str = setting(
        "PEREGRINE_ANTHROPIC_HTTP",
        default="auto",
        parse=_protocol,
        help="auto (HTTP/2 where the server speaks it, also over plain http) or 1.1",
    )
    connections: int = setting(
        "PEREGRINE_ANTHROPIC_CONNECTIONS",
        default=2,
        minimum=1,
        maximum=32,
        help="HTTP/2 connections to the provider that are kept open and warm; more are opened "
        "while all streams of these are taken (100 each, as a rule), up to 32",
    )
    connect_seconds: float = setting(
        "PEREGRINE_ANTHROPIC_CONNECT_SECONDS",
        default=5.0,
        minimum=0.05,
        help="seconds for a new connection to the provider, TLS included",
    )
    generation_seconds: float = setting(
        "PEREGRINE_LLM_GENERATION_SECONDS",
        default=600.0,
        minimum=1,
        help="longest generation, in seconds, for callers that set no deadline or a later one",
    )
    idle_seconds: float = setting(
        "PEREGRINE_LLM_IDLE_SECONDS",
        default=60.0,
        minimum=0.1,
        help="seconds without a byte from the provider, before or within an answer, after which "
        "it is given up with MODEL_TIMEOUT (the provider pings every few seconds)",
    )
    retry_wait_seconds: float = setting(
        "PEREGRINE_LLM_RETRY_WAIT_SECONDS",
        default=10.0,
        minimum=0,
        help="longest wait, in seconds, before a retry; if the provider asks for a longer one, "
        "the next fallback model is tried, or the caller is told how long to wait",
    )
    max_generations: int = setting(
        "PEREGRINE_LLM_MAX_GENERATIONS",
        default=512,
        minimum=1,
        help="generations at work at a time in this process; more are refused at once",
    )
    max_answer_bytes: int = setting(
        "PEREGRINE_LLM_MAX_ANSWER_BYTES",
        default=8 * 1024 * 1024,
        minimum=1024,
        help="bytes of one generation's log, after which it is ended with ANSWER_TOO_LARGE",
    )
    keep_seconds: float = setting(
        "PEREGRINE_LLM_KEEP_SECONDS",
        default=60.0,
        minimum=0,
        help="seconds that the log of a finished generation can still be read",
    )
    keep_generations: int = setting(
        "PEREGRINE_LLM_KEEP_GENERATIONS",
        default=1000,
        minimum=0,
        help="finished generations kept at most; the oldest go first",
    )
    keep_bytes: int = setting(
        "PEREGRINE_LLM_KEEP_BYTES",
        default=64 * 1024 * 1024,
        minimum=0,
        help="bytes of finished generations kept at most; the oldest go first",
    )
    instance: str | None = setting(
        "PEREGRINE_INSTANCE",
        default=None,
        help="name of this process in generation ids, unique among replicas; by default made of "
        "the host's name and a random part",
    )


@asynccontextmanager
async def build(
    settings: Settings,
    *,
    key: Secret | None = None,
    registry: CollectorRegistry | None = None,
) -> AsyncIterator[serve.Server]:
    """The gateway, ready to start. `key` is what `resolve_key` made of the settings.

    Raises:
      SettingsError: there is neither a key nor a base URL that needs none.
    """
    key = key or resolve_key(settings, {})
    registry = registry or telemetry.new_registry()
    metrics = Metrics(registry)
    base_url = settings.base_url or ANTHROPIC_URL
    async with open_client(
        base_url,
        protocol=settings.http_protocol,
        connections=settings.connections,
        connect_seconds=settings.connect_seconds,
    ) as client:
        generations = Generations(
            owner=settings.instance or f"{socket.gethostname()}-{secrets.token_hex(4)}",
            max_live=settings.max_generations,
            max_kept=settings.keep_generations,
            max_kept_bytes=settings.keep_bytes,
            max_bytes=settings.max_answer_bytes,
            keep_seconds=settings.keep_seconds,
            failures=Failures(registry).of("generations"),
        )
        servicer = LlmServicer(
            provider=Provider(api_key=key, base_url=base_url, client=client),
            generations=generations,
            metrics=metrics,
            limits=Limits(
                generation=settings.generation_seconds,
                idle=settings.idle_seconds,
                wait=settings.retry_wait_seconds,
            ),
        )
        try:
            yield serve.Server(
                name="llm-gateway",
                settings=settings,
                servicers=[
                    (llm_gateway_pb2_grpc.add_LlmServiceServicer_to_server, servicer, SERVICE)
                ],
                ready=client.warm,
                drain=generations.drain,
                registry=registry,
            )
        finally:
            await generations.close()


def resolve_key(settings: Settings, environ: Mapping[str, str]) -> Secret:
    """The key to send.

    Raises:
      SettingsError: there is neither a key nor a base URL that needs none.
    """
    if settings.api_key_ref:
        return secret_ref(settings.api_key_ref, environ)
    if settings.api_key is not None:
        return settings.api_key
    host = urlsplit(settings.base_url or ANTHROPIC_URL).hostname or ""
    if settings.base_url and not f".{host}".endswith(".anthropic.com"):
        return Secret(PLACEHOLDER_KEY)
    raise SettingsError(
        [
            Problem(
                "ANTHROPIC_API_KEY",
                "is not set",
                "set it, or set PEREGRINE_ANTHROPIC_BASE_URL to something else that speaks the "
                "Messages API, such as the simulator",
            )
        ]
    )


@asynccontextmanager
async def _process(environ: Mapping[str, str]) -> AsyncIterator[serve.Server]:
    settings = load(Settings, environ)
    async with build(settings, key=resolve_key(settings, environ)) as server:
        yield server


def run(environ: Mapping[str, str] | None = None) -> int:
    """The process entry."""
    return serve.run(_process, name="llm-gateway", environ=environ)
