"""Connections to the outside, to checked addresses only: below HTTP and TLS, above TCP.

The pool of the HTTP client asks for a connection to a name. The guard resolves the name, checks
*every* address by the rules of `egress`, and connects to one of those addresses: there is no second
resolution that could answer otherwise. What is above keeps the name: `Host` is that of the URL, and
so is the name that TLS verifies.
"""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from ipaddress import ip_address
from typing import Any, TypeAlias

import httpcore

from peregrine.tools import egress
from peregrine.tools.egress import Address, Rules

_SECONDS = 10.0

Resolve: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]
# Of an address, a port and seconds.
Connect: TypeAlias = Callable[[str, int, float | None], Awaitable[httpcore.AsyncNetworkStream]]


async def resolve(host: str, port: int) -> Sequence[str]:
    """The addresses of a name, as the system gives them."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


async def connect(address: str, port: int, timeout: float | None) -> httpcore.AsyncNetworkStream:
    """A TCP connection to an address; nothing is resolved."""
    return await httpcore.AnyIOBackend().connect_tcp(address, port, timeout=timeout)


class Guard(httpcore.AsyncNetworkBackend):
    """Makes the pool's connections, to checked addresses only."""

    def __init__(self, *, rules: Rules, resolve: Resolve, connect: Connect) -> None:
        self._rules = rules
        self._resolve = resolve
        self._connect = connect

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Raises `egress.Refused` when any address of `host` may not be reached."""
        until = time.monotonic() + (_SECONDS if timeout is None else timeout)
        try:
            async with asyncio.timeout(until - time.monotonic()):
                addresses = await self._addresses(host, port)
        except TimeoutError:
            raise httpcore.ConnectTimeout("the name was not resolved in time") from None
        for address in addresses:
            self._rules.check(host, port, address)
        failure: Exception = httpcore.ConnectError("the name has no address")
        for number, address in enumerate(addresses):
            # An address that does not answer leaves time for those after it.
            share = (until - time.monotonic()) / (len(addresses) - number)
            try:
                return await self._connect(str(address), port, max(share, 0.0))
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.AsyncNetworkStream:
        raise egress.Refused("Tools reach no Unix sockets.")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def _addresses(self, host: str, port: int) -> list[Address]:
        try:
            return [ip_address(host)]
        except ValueError:
            pass
        try:
            return [ip_address(found) for found in await self._resolve(host, port)]
        except OSError as error:
            raise httpcore.ConnectError("the name cannot be resolved") from error
