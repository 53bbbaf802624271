"""The public keys of the issuer: a JWKS (RFC 7517) from a file or an https URL.

The set is read when the first token wants it, and again behind the answers when it is five minutes
old. A token that names an unknown key makes it be read at once, so that a rotation is followed, but
not more than once in ten seconds: whoever makes up key ids must not make us ask. While it cannot be
read, the last good set serves.
"""

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import httpx
import jwt
import structlog
from prometheus_client import Counter

from peregrine.kit.errors import Unavailable

_FRESH_SECONDS: Final = 300.0
_COOL_SECONDS: Final = 10.0
_READ_SECONDS: Final = 5.0
_MAX_BYTES: Final = 256 * 1024
_MAX_KEYS: Final = 100
_MIN_RSA_BITS: Final = 2048

log = structlog.get_logger(__name__)


class KeySet:
    """The keys at `source`, a path or a URL.

    `failures` counts readings that failed. `monotonic`: seconds, for the age of the set.
    """

    def __init__(
        self,
        source: str,
        *,
        failures: Counter,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._failures = failures
        self._monotonic = monotonic
        self._keys: dict[str, jwt.PyJWK] | None = None
        self._read_at = self._tried_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None
        self._http: httpx.AsyncClient | None = None

    async def find(self, kid: str | None) -> jwt.PyJWK | None:
        """The key that a token names; for one that names none, the only key there is.

        Raises:
          Unavailable: JWKS_UNAVAILABLE, when no set was ever read.
        """
        now = self._monotonic()
        if self._keys is None:
            await self._read_now(now)
        elif now - self._read_at > _FRESH_SECONDS:
            self._begin(now)
        key = self._pick(kid)
        if key is None and kid is not None and self._may_try(now):
            await self._read_now(now)
            key = self._pick(kid)
        if self._keys is None:
            raise Unavailable(
                "the keys of the issuer cannot be read at the moment",
                reason="JWKS_UNAVAILABLE",
                retry_after=1.0,
            )
        return key

    async def close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        if self._http is not None:
            await self._http.aclose()

    def _pick(self, kid: str | None) -> jwt.PyJWK | None:
        keys = self._keys or {}
        if kid is None:
            return next(iter(keys.values())) if len(keys) == 1 else None
        return keys.get(kid)

    def _may_try(self, now: float) -> bool:
        return now - self._tried_at >= _COOL_SECONDS

    async def _read_now(self, now: float) -> None:
        task = self._begin(now)
        if task is not None:
            await asyncio.shield(task)

    def _begin(self, now: float) -> "asyncio.Task[None] | None":
        """The reading that is under way, or a new one; None when the last was just now."""
        if self._reading is None and self._may_try(now):
            self._tried_at = now
            self._reading = asyncio.create_task(self._read(), name="jwks")
        return self._reading

    async def _read(self) -> None:
        try:
            async with asyncio.timeout(_READ_SECONDS):
                text = await self._fetch()
            self._keys = usable(text)
            self._read_at = self._monotonic()
        except (TimeoutError, OSError, ValueError, httpx.HTTPError) as error:
            self._failures.inc()
            log.warning("jwks_unreadable", source=self._source, error=type(error).__name__)
        except Exception as error:
            # The top of a task: what a library makes of a strange document must not go unsaid.
            self._failures.inc()
            log.error("jwks_broke", source=self._source, exc_info=error)
        finally:
            self._reading = None

    async def _fetch(self) -> bytes:
        if not self._source.startswith(("https://", "http://")):
            return await asyncio.to_thread(_contents, Path(self._source))
        if self._http is None:
            self._http = httpx.AsyncClient(timeout=_READ_SECONDS, follow_redirects=False)
        async with self._http.stream("GET", self._source) as response:
            response.raise_for_status()
            text = b""
            async for chunk in response.aiter_bytes():
                text += chunk
                if len(text) > _MAX_BYTES:
                    raise ValueError("the document is too large")
        return text


def usable(text: bytes) -> dict[str, jwt.PyJWK]:
    """The keys of a document that can verify signatures, by id ("" for one without).

    Left out: symmetric keys, keys for encryption, RSA below 2048 bits, kinds that are not known.

    Raises:
      ValueError: it is not a JWKS, or holds no such key.
    """
    document = json.loads(text)
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list) or len(entries) > _MAX_KEYS:
        raise ValueError("not a JWKS")
    keys: dict[str, jwt.PyJWK] = {}
    for entry in entries:
        if isinstance(entry, dict) and (key := _usable(entry)) is not None:
            keys[str(entry.get("kid", ""))] = key
    if not keys:
        raise ValueError("no key of it can be used")
    return keys


def _usable(entry: Mapping[str, Any]) -> jwt.PyJWK | None:
    if entry.get("use", "sig") != "sig" or entry.get("kty") not in ("RSA", "EC", "OKP"):
        return None
    try:
        key = jwt.PyJWK(dict(entry))
    except (jwt.PyJWTError, NotImplementedError):
        return None
    if entry["kty"] == "RSA" and key.key.key_size < _MIN_RSA_BITS:
        return None
    return key


def _contents(path: Path) -> bytes:
    with path.open("rb") as file:
        text = file.read(_MAX_BYTES + 1)
    if len(text) > _MAX_BYTES:
        raise ValueError("the document is too large")
    return text
