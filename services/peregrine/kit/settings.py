"""Settings: one frozen dataclass per service, read once from `PEREGRINE_*` variables.

Each field carries its own documentation (`setting(..., help=...)`: unit, meaning, reason), so the
class is the manual. `load` reads every field before it complains: a service that is started with
three mistakes names all three, each with what to do, and exits. Time spans are seconds in floats.

An empty variable counts as unset, because manifests and shells cannot always leave one out.
"""

import dataclasses
import math
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from peregrine.kit import keyring
from peregrine.kit.address import stays_here

SECRETS_DIRECTORY = Path("/etc/peregrine/secrets")

_METADATA = "peregrine.setting"
_SECRET_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,126}[A-Za-z0-9])?")
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


class Secret:
    """A string that shows itself only when asked: `repr`, `str` and formatting are masked."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret('***')"

    def __str__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> typing.NoReturn:
        raise TypeError("a Secret is not pickled")


@dataclass(frozen=True, slots=True)
class Problem:
    """One variable that cannot be used: what is wrong, and what to do about it."""

    variable: str
    wrong: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.variable}: {self.wrong}; {self.remedy}"


class SettingsError(Exception):
    """Everything that is wrong with the settings, at once."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


@dataclass(frozen=True, slots=True)
class Row:
    """One documented setting, as the manual shows it."""

    variable: str
    field: str
    type: str
    default: str
    required: bool
    secret: bool
    help: str


@dataclass(frozen=True, slots=True)
class _Source:
    variable: str
    help: str
    secret: bool
    parse: Callable[[str], Any] | None
    minimum: float | None
    maximum: float | None
    reference: str


def setting(
    variable: str,
    *,
    default: Any = dataclasses.MISSING,
    help: str,
    secret: bool = False,
    parse: Callable[[str], Any] | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    reference: str = "",
) -> Any:
    """Declares a dataclass field that is read from `variable`.

    Without a default the variable is required. `parse` replaces the conversion by type and raises
    `ValueError` with the reason. `minimum` and `maximum` are inclusive and for numbers only.
    `reference` is the name of a secret (`secret_ref`): then a mounted file of that name comes
    first, and the field is a `Secret`, or None.
    """
    source = _Source(variable, help, secret, parse, minimum, maximum, reference)
    if secret and isinstance(default, str):
        default = Secret(default)
    return dataclasses.field(default=default, metadata={_METADATA: source})


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Any]]


S = TypeVar("S", bound=_Dataclass)


def load(cls: type[S], environ: Mapping[str, str]) -> S:
    """Reads every setting of `cls`. Its method `problems`, if any, says what does not fit together.

    Raises:
      SettingsError: names every missing or malformed variable.
    """
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    for name, source, kind, default in _declared(cls):
        if source.reference:
            try:
                values[name] = _referenced(source.reference, environ, SECRETS_DIRECTORY)
            except SettingsError as error:
                problems += error.problems
            continue
        text = environ.get(source.variable, "")
        if not text.strip():
            if default is dataclasses.MISSING:
                problems.append(Problem(source.variable, "is not set", f"set it: {source.help}"))
            continue
        try:
            values[name] = _convert(text, kind, source)
        except ValueError as error:
            shown = "the given value" if _is_secret(kind, source) else repr(text)
            problems.append(
                Problem(source.variable, f"{shown} {error}", f"correct it: {source.help}")
            )
    if problems:
        raise SettingsError(problems)
    settings = cls(**values)
    found: Callable[[], Sequence[Problem]] | None = getattr(settings, "problems", None)
    if found is not None and (problems := list(found())):
        raise SettingsError(problems)
    return settings


def describe(cls: type[_Dataclass]) -> tuple[Row, ...]:
    """The settings of `cls` in the order of declaration, for the manual and for tests."""
    rows = []
    for name, source, kind, default in _declared(cls):
        required = default is dataclasses.MISSING
        rows.append(
            Row(
                variable=source.variable,
                field=name,
                type=_type_name(kind),
                default="" if required or default is None else _shown(default),
                required=required,
                secret=_is_secret(kind, source),
                help=source.help,
            )
        )
    return tuple(rows)


def secret_ref(
    name: str, environ: Mapping[str, str], *, directory: Path = SECRETS_DIRECTORY
) -> Secret:
    """The secret that a `secretRef: NAME` means: a mounted file, else a variable.

    Raises:
      SettingsError: the name is not a plain one, or neither place holds it.
    """
    found = _referenced(name, environ, directory)
    if found is None:
        variable = _secret_variable(name)
        remedy = f"create {directory / name} or set {variable}"
        raise SettingsError([Problem(variable, f"secret {name!r} is missing", remedy)])
    return found


def _secret_variable(name: str) -> str:
    return "PEREGRINE_SECRET_" + re.sub(r"[^A-Za-z0-9]", "_", name).upper()


def _referenced(name: str, environ: Mapping[str, str], directory: Path) -> Secret | None:
    variable = _secret_variable(name)
    if not _SECRET_NAME.fullmatch(name):
        remedy = "use letters, digits, '.', '_' and '-', at most 128 of them"
        raise SettingsError([Problem(variable, f"the secret name {name!r} is not usable", remedy)])
    path = directory / name
    try:
        return Secret(path.read_text(encoding="utf-8").rstrip("\r\n"))
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, UnicodeDecodeError) as error:
        wrong = f"{path} cannot be read ({type(error).__name__})"
        raise SettingsError(
            [Problem(variable, wrong, "make it readable UTF-8 for this user")]
        ) from None
    value = environ.get(variable)
    return Secret(value) if value else None


def _declared(cls: type[_Dataclass]) -> list[tuple[str, _Source, Any, Any]]:
    hints = typing.get_type_hints(cls)
    declared = []
    for field in dataclasses.fields(cls):
        source = field.metadata.get(_METADATA)
        if source is None:
            raise TypeError(f"{cls.__name__}.{field.name} is not declared with setting(...)")
        declared.append((field.name, source, hints[field.name], field.default))
    return declared


def _convert(text: str, kind: Any, source: _Source) -> Any:
    if source.parse is not None:
        return source.parse(text)
    kind = _without_none(kind)
    if kind is Secret:
        return Secret(text.strip())
    text = text.strip()
    if typing.get_origin(kind) is tuple:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if kind is bool:
        return _boolean(text)
    if kind is int or kind is float:
        return _number(text, kind, source)
    if kind is str or kind is Path:
        return kind(text)
    raise TypeError(f"{source.variable} has the type {kind}, which settings cannot hold")


def _boolean(text: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise ValueError("is neither true nor false")


def _number(text: str, kind: type[int] | type[float], source: _Source) -> float:
    try:
        value = kind(text)
    except ValueError:
        noun = "a whole number" if kind is int else "a number"
        raise ValueError(f"is not {noun}") from None
    if not math.isfinite(value):
        raise ValueError("is not finite")
    if source.minimum is not None and value < source.minimum:
        raise ValueError(f"is below {source.minimum:g}")
    if source.maximum is not None and value > source.maximum:
        raise ValueError(f"is above {source.maximum:g}")
    return value


def _without_none(kind: Any) -> Any:
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        rest = [part for part in typing.get_args(kind) if part is not types.NoneType]
        if len(rest) == 1:
            return rest[0]
    return kind


def _is_secret(kind: Any, source: _Source) -> bool:
    return source.secret or _without_none(kind) is Secret


def _type_name(kind: Any) -> str:
    kind = _without_none(kind)
    return "list" if typing.get_origin(kind) is tuple else str(kind.__name__)


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return "true" if default else "false"
    if isinstance(default, tuple):
        return ",".join(default)
    return str(default)


def start_wait() -> Any:
    return setting(
        "PEREGRINE_START_WAIT_SECONDS",
        default=0.0,
        minimum=0,
        help="seconds that PostgreSQL gets to answer and its tables to be migrated, before a start "
        "is given up; 300 in a cluster, where everything starts at once, 0 locally",
    )


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """What every served process reads. A service overrides `listen` with its own default port."""

    listen: str = setting(
        "PEREGRINE_LISTEN",
        default="127.0.0.1:0",
        help="host:port or unix:/path that the gRPC server binds; port 0 picks a free one",
    )
    metrics_port: int = setting(
        "PEREGRINE_METRICS_PORT",
        default=0,
        minimum=0,
        maximum=65535,
        help="port of the Prometheus endpoint; 0 means none is opened",
    )
    metrics_host: str = setting(
        "PEREGRINE_METRICS_HOST",
        default="127.0.0.1",
        help="address that the Prometheus endpoint binds; 0.0.0.0 inside a cluster",
    )
    reflection: bool = setting(
        "PEREGRINE_REFLECTION",
        default=False,
        help="offer gRPC server reflection, for tools such as grpcurl; on locally",
    )
    auth_required: bool = setting(
        "PEREGRINE_AUTH_REQUIRED",
        default=True,
        help="ask every caller who it is; off means one tenant and user, both 'local', and is for "
        "this machine only: then nothing but loopback and Unix sockets is listened on",
    )
    log_level: str = setting(
        "PEREGRINE_LOG_LEVEL",
        default="info",
        parse=lambda text: _one_of(text, "debug", "info", "warning", "error"),
        help="least level that is logged: debug, info, warning or error",
    )
    start_wait_seconds: float = start_wait()
    drain_seconds: float = setting(
        "PEREGRINE_DRAIN_SECONDS",
        default=30.0,
        minimum=0,
        help="seconds that calls in flight get to end after SIGTERM; then they are cut",
    )
    endpoint_grace_seconds: float = setting(
        "PEREGRINE_ENDPOINT_GRACE_SECONDS",
        default=0.0,
        minimum=0,
        help="seconds between NOT_SERVING and draining, until load balancers noticed; "
        "5 to 15 in a cluster, 0 locally",
    )
    max_connection_age_seconds: float = setting(
        "PEREGRINE_MAX_CONNECTION_AGE_SECONDS",
        default=120.0,
        minimum=1,
        help="seconds after which a client is asked to connect anew, so that new pods get load",
    )
    max_connection_age_grace_seconds: float = setting(
        "PEREGRINE_MAX_CONNECTION_AGE_GRACE_SECONDS",
        default=900.0,
        minimum=1,
        help="seconds that streams on an aged connection get to end; at least the longest stream",
    )

    def problems(self) -> Sequence[Problem]:
        if self.auth_required or stays_here(self.listen):
            return ()
        return (
            Problem(
                "PEREGRINE_AUTH_REQUIRED",
                f"is off, so {self.listen} is not listened on",
                "switch it on, or set PEREGRINE_LISTEN to a loopback address or a Unix socket",
            ),
        )


@dataclass(frozen=True, kw_only=True)
class InnerSettings(ServeSettings):
    """For a service that others call with a signed identity."""

    identity_keys: Secret | None = setting(
        "PEREGRINE_SECRET_IDENTITY_KEYS",
        reference="IDENTITY_KEYS",
        default=None,
        help="keys that identities are signed with between services, one line kid:base64 (32 bytes "
        "or more) each: the first signs, all verify; needed unless PEREGRINE_AUTH_REQUIRED is off. "
        "A file /etc/peregrine/secrets/IDENTITY_KEYS comes first",
    )

    def problems(self) -> Sequence[Problem]:
        if not self.auth_required:
            return super().problems()
        if self.identity_keys is None:
            return (identity_keys_problem("is not set"),)
        try:
            keyring.read(self.identity_keys.reveal())
        except ValueError as error:
            return (identity_keys_problem(str(error)),)
        return ()


def identity_keys_problem(wrong: str) -> Problem:
    return Problem(
        "PEREGRINE_SECRET_IDENTITY_KEYS",
        wrong,
        "give it (or the file /etc/peregrine/secrets/IDENTITY_KEYS) a line kid:base64 of 32 random "
        "bytes; or switch identity off with PEREGRINE_AUTH_REQUIRED=false, on loopback only",
    )


@dataclass(frozen=True, kw_only=True)
class PostgresSettings:
    """For a service that keeps rows."""

    postgres_dsn: Secret = setting(
        "PEREGRINE_POSTGRES_DSN",
        secret=True,
        help="DSN of PostgreSQL with a plain role (no superuser, no BYPASSRLS)",
    )
    postgres_pool_size: int = setting(
        "PEREGRINE_POSTGRES_POOL_SIZE",
        default=8,
        minimum=1,
        maximum=100,
        help="connections of this process; the sum over all processes stays below max_connections",
    )


@dataclass(frozen=True, kw_only=True)
class RedisSettings:
    """For a service that uses the Redis of logs and leases (noeviction)."""

    redis_url: Secret = setting(
        "PEREGRINE_REDIS_URL",
        secret=True,
        help="redis://, rediss:// or unix:// URL of the Redis that holds logs and leases",
    )
    redis_pool_size: int = setting(
        "PEREGRINE_REDIS_POOL_SIZE",
        default=8,
        minimum=1,
        maximum=256,
        help="connections of this process to Redis",
    )


def _one_of(text: str, *choices: str) -> str:
    value = text.strip().lower()
    if value not in choices:
        raise ValueError(f"is not one of {', '.join(choices)}")
    return value
