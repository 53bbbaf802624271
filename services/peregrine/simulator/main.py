"""Settings and wiring of the simulator: as a process, and inside the process of a test.

async with Simulator.running(settings) as simulator:
    client = AsyncAnthropic(base_url=simulator.base_url, api_key="any")
"""

import asyncio
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import structlog

from peregrine.kit.settings import Problem, Secret, SettingsError, load, setting
from peregrine.kit.telemetry import configure_logging
from peregrine.simulator import clock
from peregrine.simulator.api import MessagesApi, State
from peregrine.simulator.control import ControlApi
from peregrine.simulator.latency import Latency
from peregrine.simulator.listener import CannotListen, Tls, listen
from peregrine.simulator.prefix_cache import PrefixCache
from peregrine.simulator.record import Records

log = structlog.get_logger(__name__)

EXIT_CANNOT_LISTEN: Final = 1
EXIT_SETTINGS: Final = 2


def _log_level(text: str) -> str:
    level = text.strip().lower()
    if level not in ("debug", "info", "warning", "error"):
        raise ValueError("is not one of debug, info, warning, error")
    return level


@dataclass(frozen=True, kw_only=True)
class SimulatorSettings:
    """What the simulator reads from its environment. Times are in seconds."""

    listen: str = setting(
        "PEREGRINE_LISTEN",
        default="127.0.0.1:50060",
        help="host:port of the Messages API; port 0 picks a free one",
    )
    control_listen: str = setting(
        "PEREGRINE_SIMULATOR_CONTROL_LISTEN",
        default="127.0.0.1:50061",
        help="host:port of the control endpoints, apart so that they can stay private",
    )
    tls_cert_file: Path | None = setting(
        "PEREGRINE_SIMULATOR_TLS_CERT_FILE",
        default=None,
        help="PEM certificate chain; with the key file the API speaks TLS and offers h2 by ALPN",
    )
    tls_key_file: Path | None = setting(
        "PEREGRINE_SIMULATOR_TLS_KEY_FILE", default=None, help="PEM key of the certificate"
    )
    api_key: Secret | None = setting(
        "PEREGRINE_SIMULATOR_API_KEY",
        default=None,
        secret=True,
        help="the one x-api-key that is accepted; unset accepts any, but never none",
    )
    models: tuple[str, ...] = setting(
        "PEREGRINE_SIMULATOR_MODELS",
        default=("claude-opus-5-5", "claude-sonnet-5-5", "claude-haiku-5-5"),
        help="models that are listed; others are known when their names start with claude-",
    )
    seed: int | None = setting(
        "PEREGRINE_SIMULATOR_SEED",
        default=None,
        help="makes ids and jitter repeatable; unset, so that ids differ from process to process",
    )
    first_token_seconds: float = setting(
        "PEREGRINE_SIMULATOR_FIRST_TOKEN_SECONDS",
        default=0.3,
        minimum=0,
        help="seconds until the first token, prompt reading apart",
    )
    tokens_per_second: float = setting(
        "PEREGRINE_SIMULATOR_TOKENS_PER_SECOND",
        default=80.0,
        minimum=0,
        help="decoding speed; 0 is unlimited",
    )
    seconds_per_prompt_token: float = setting(
        "PEREGRINE_SIMULATOR_SECONDS_PER_PROMPT_TOKEN",
        default=0.0,
        minimum=0,
        help="seconds per prompt token that the prefix cache did not have",
    )
    jitter: float = setting(
        "PEREGRINE_SIMULATOR_JITTER",
        default=0.0,
        minimum=0,
        maximum=1,
        help="share of the first-token seconds by which they vary, uniformly",
    )
    cache_minimum_tokens: int = setting(
        "PEREGRINE_SIMULATOR_CACHE_MINIMUM_TOKENS",
        default=1024,
        minimum=0,
        help="prefixes shorter than this are not cached by the provider",
    )
    ping_seconds: float = setting(
        "PEREGRINE_SIMULATOR_PING_SECONDS",
        default=10.0,
        minimum=0,
        help="seconds of silence after which a stream gets a ping; 0 sends none",
    )
    max_body_bytes: int = setting(
        "PEREGRINE_SIMULATOR_MAX_BODY_BYTES",
        default=32 * 1024 * 1024,
        minimum=1,
        help="bytes of a request body beyond which it is answered with 413",
    )
    log_level: str = setting(
        "PEREGRINE_LOG_LEVEL",
        default="info",
        parse=_log_level,
        help="least level that is logged: debug, info, warning or error",
    )
    max_records: int = setting(
        "PEREGRINE_SIMULATOR_MAX_RECORDS",
        default=10_000,
        minimum=1,
        help="requests that are remembered for the control port",
    )

    @property
    def tls(self) -> Tls | None:
        if self.tls_cert_file is None or self.tls_key_file is None:
            return None
        return Tls(certificate=self.tls_cert_file, key=self.tls_key_file)


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulator:
    """A running simulator: where it is, and its state for a test in the same process."""

    base_url: str
    control_url: str
    state: State

    @classmethod
    @asynccontextmanager
    async def running(cls, settings: SimulatorSettings) -> AsyncIterator[Self]:
        """Serve both ports until the block ends. Raises `CannotListen`."""
        state = _state(settings)
        api = MessagesApi(
            state=state,
            models=settings.models,
            api_key=settings.api_key.reveal() if settings.api_key else None,
            max_body_bytes=settings.max_body_bytes,
            ping_seconds=settings.ping_seconds,
        )
        scheme = "https" if settings.tls else "http"
        async with (
            listen(api, settings.listen, variable="PEREGRINE_LISTEN", tls=settings.tls) as public,
            listen(
                ControlApi(state=state),
                settings.control_listen,
                variable="PEREGRINE_SIMULATOR_CONTROL_LISTEN",
            ) as control,
        ):
            yield cls(
                base_url=_url(scheme, *public),
                control_url=_url("http", *control),
                state=state,
            )


def run(environ: Mapping[str, str]) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code."""
    try:
        settings = load(SimulatorSettings, environ)
        if (settings.tls_cert_file is None) != (settings.tls_key_file is None):
            raise SettingsError(
                [
                    Problem(
                        "PEREGRINE_SIMULATOR_TLS_CERT_FILE",
                        "certificate and key go together, one is missing",
                        "set PEREGRINE_SIMULATOR_TLS_KEY_FILE too, or neither",
                    )
                ]
            )
        configure_logging("simulator", settings.log_level)
        with asyncio.Runner(loop_factory=clock.event_loop) as runner:
            runner.run(_serve(settings))
    except SettingsError as error:
        sys.stderr.writelines(f"simulator: {problem}\n" for problem in error.problems)
        return EXIT_SETTINGS
    except CannotListen as error:
        sys.stderr.write(f"simulator: {error}\n")
        return EXIT_CANNOT_LISTEN
    return 0


async def _serve(settings: SimulatorSettings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with Simulator.running(settings) as simulator:
        log.info("simulator_started", url=simulator.base_url, control_url=simulator.control_url)
        await stop.wait()


def _state(settings: SimulatorSettings) -> State:
    seeded = settings.seed is not None
    return State(
        ids="sim" if seeded else f"sim{secrets.token_hex(6)}",
        seed=settings.seed if settings.seed is not None else secrets.randbits(63),
        latency=Latency(
            first_token=settings.first_token_seconds,
            tokens_per_second=settings.tokens_per_second,
            seconds_per_prompt_token=settings.seconds_per_prompt_token,
            jitter=settings.jitter,
        ),
        cache=PrefixCache(minimum_tokens=settings.cache_minimum_tokens),
        records=Records(limit=settings.max_records),
    )


def _url(scheme: str, host: str, port: int) -> str:
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
