"""Where requests may go: pure rules, from the text of a URL to an address that may be connected to.

Two questions, asked at two moments. `parse` asks whether a URL says plainly where it leads: one
parser decides, and the request is made from its answer (`Target.url`), so that no second reader can
understand the text differently. What some programs would take for an address and others for a name
(2130706433, 0x7f.1, 127.1, full-width digits) is refused, not interpreted. `Rules.check` asks
whether an address may be reached. It is asked for every address that a name resolved to, right
before the connection, and the connection is made to the address that was asked about.

Only globally reachable unicast is open. Everything else is refused by kind (loopback, private,
link-local, carrier NAT, metadata, multicast …), and so is every IPv6 form that carries an IPv4
address inside, because who translates it decides where it goes. Settings may open single networks
and hosts. Sources: the IANA special-purpose address registries, RFC 6890, 6052, 8215, 3056, 4380;
https://url.spec.whatwg.org for what a URL's host may look like.
"""

import ipaddress
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias
from urllib.parse import quote

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_URL_CHARACTERS = 8_192

_PORTS = {"http": 80, "https": 443}
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([^?#]*)(\?[^#]*)?(?:#.*)?")
_BROKEN = re.compile(r"[\x00-\x20\x7f\\]")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
# A host whose last label is a number is an address for whoever follows the URL standard.
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_MAX_NAME = 253
_KEPT = "/?:@!$&'()*+,;=%-._~[]|"

_METADATA, _LINK_LOCAL = "a metadata service", "link-local"
_DISGUISED = "an IPv4 address inside an IPv6 one"

# The first that contains an address says what it is; what is nowhere here is open.
_KINDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        _METADATA,
        (
            "169.254.169.254/32",
            "169.254.170.2/32",
            "169.254.170.23/32",
            "100.100.100.200/32",
            "168.63.129.16/32",
            "192.0.0.192/32",
            "fd00:ec2::/32",
            "fd20:ce::254/128",
        ),
    ),
    ("loopback", ("127.0.0.0/8", "::1/128")),
    ("unspecified", ("0.0.0.0/8", "::/128")),
    ("private", ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fec0::/10")),
    (_LINK_LOCAL, ("169.254.0.0/16", "fe80::/10")),
    ("shared by a carrier", ("100.64.0.0/10",)),
    ("multicast", ("224.0.0.0/4", "ff00::/8")),
    (
        "reserved",
        (
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.88.99.0/24",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "240.0.0.0/4",
            "2001:db8::/32",
            "3fff::/20",
        ),
    ),
    (
        _DISGUISED,
        (
            "::ffff:0:0/96",
            "::ffff:0:0:0/96",
            "::/96",
            "64:ff9b::/96",
            "64:ff9b:1::/48",
            "2002::/16",
            "2001::/32",
        ),
    ),
    ("reserved", ("2001::/23",)),
)
_NETWORKS: tuple[tuple[str, Network], ...] = tuple(
    (kind, ipaddress.ip_network(text)) for kind, texts in _KINDS for text in texts
)
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_6TO4 = ipaddress.IPv6Network("2002::/16")
_TEREDO = ipaddress.IPv6Network("2001::/32")


class Refused(Exception):
    """The request may not go there. The text says why, to a model, and names no found address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a URL leads. `host` is a lower-case ASCII name, or an address without brackets.

    `target` is what follows the authority: path and query, ASCII.
    """

    scheme: str
    host: str
    port: int
    target: str
    address: Address | None = None

    @property
    def origin(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}"

    @property
    def url(self) -> str:
        return self.origin + self.target


def parse(url: str) -> Target:
    """Reads an absolute http or https URL.

    Raises:
      Refused: it is none, or not plain about where it leads.
    """
    if len(url) > MAX_URL_CHARACTERS:
        raise Refused(f"The URL is longer than {MAX_URL_CHARACTERS} characters.")
    if _BROKEN.search(url):
        raise Refused("The URL holds a blank, a control character or a backslash.")
    match = _URL.fullmatch(url)
    if match is None:
        raise Refused("That is not an absolute URL such as https://example.com/page.")
    scheme, authority, path, query = match.groups()
    scheme = scheme.lower()
    if scheme not in _PORTS:
        raise Refused("Only http and https URLs can be reached.")
    if "@" in authority:
        raise Refused("The URL names a user before its host, which is not allowed.")
    host, port = _split(authority)
    name, address = _host(host)
    return Target(
        scheme=scheme,
        host=name,
        port=_PORTS[scheme] if port is None else port,
        target=_quoted((path or "/") + (query or "")),
        address=address,
    )


def kind(address: Address) -> str:
    """What keeps `address` from being reached; empty for a public one."""
    for name, network in _NETWORKS:
        if address in network:
            return name
    if isinstance(address, ipaddress.IPv6Address) and address not in _GLOBAL_UNICAST:
        return "reserved"
    return ""


def embedded(address: Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 one carries, where its form says that it carries one."""
    if isinstance(address, ipaddress.IPv4Address) or kind(address) != _DISGUISED:
        return None
    number = int(address)
    if address in _6TO4:
        number >>= 80
    elif address in _TEREDO:
        number = ~number
    return ipaddress.IPv4Address(number & 0xFFFFFFFF)


@dataclass(frozen=True, slots=True)
class Rules:
    """What is open besides the public internet. An entry without a port opens every port.

    A name opens whatever private address it resolves to, but never a metadata service or a
    link-local address: these take a network entry, which cannot be meant by accident.
    """

    networks: tuple[tuple[Network, int | None], ...] = ()
    names: frozenset[tuple[str, int | None]] = field(default_factory=frozenset)

    def check(self, host: str, port: int, address: Address) -> None:
        """Whether `host`, which resolved to `address`, may be reached at `port`.

        Raises:
          Refused
        """
        found = kind(address)
        if not found:
            return
        if self._lists(address, port):
            inside = embedded(address)
            if inside is None or not kind(inside) or self._lists(inside, port):
                return
        elif found not in (_METADATA, _LINK_LOCAL, _DISGUISED) and (
            {(host, port), (host, None)} & self.names
        ):
            return
        raise Refused(f"{host} is not open to tools: its address is {found}.")

    def _lists(self, address: Address, port: int) -> bool:
        return any(address in network and open in (None, port) for network, open in self.networks)


def rules(entries: Iterable[str]) -> Rules:
    """Reads what settings open: `10.1.0.0/16`, `10.1.2.3:80`, `[fd00::1]:443`, `crm.internal:443`.

    Raises:
      ValueError: an entry is none of these.
    """
    networks: list[tuple[Network, int | None]] = []
    names: set[tuple[str, int | None]] = set()
    for entry in entries:
        try:
            text, port = _split(entry) if entry.count(":") < 2 or "[" in entry else (entry, None)
            text = text.removeprefix("[").removesuffix("]")
            if "/" in text or ":" in text:
                networks.append((ipaddress.ip_network(text), port))
                continue
            name, address = _host(text)
        except (Refused, ValueError) as problem:
            raise ValueError(f"has the entry {entry!r}, which is no network or host") from problem
        if address is None:
            names.add((name, port))
        else:
            networks.append((ipaddress.ip_network(address), port))
    return Rules(tuple(networks), frozenset(names))


def _split(authority: str) -> tuple[str, int | None]:
    match = re.fullmatch(r"(\[[^\]]*\]|[^:\[\]]*)(?::([0-9]{1,5}))?", authority)
    if match is None:
        raise Refused("The URL's host and port are malformed.")
    host, port = match.groups()
    if port is not None and not 1 <= int(port) <= 65_535:
        raise Refused("The URL's port is not between 1 and 65535.")
    return host, None if port is None else int(port)


def _host(text: str) -> tuple[str, Address | None]:
    if text.startswith("["):
        return _ipv6(text[1:-1])
    if "%" in text:
        raise Refused("The URL's host is percent-encoded.")
    name = _name(text)
    if _NUMBER.fullmatch(name.rpartition(".")[2]) is None:
        return name, None
    try:
        # The standard library takes four decimal numbers without leading zeros only.
        address = ipaddress.IPv4Address(text)
    except ValueError:
        raise Refused(
            "The URL's host is a number in an unusual form; write an address as four decimal "
            "numbers, such as 192.0.2.1."
        ) from None
    return str(address), address


def _ipv6(text: str) -> tuple[str, Address | None]:
    if "%" in text:
        raise Refused("The URL's address has a zone.")
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        raise Refused("The URL's host is not an IPv6 address.") from None
    return str(address), address


def _name(text: str) -> str:
    """`text` as a lower-case ASCII name without the dot at its end."""
    name = unicodedata.normalize("NFKC", text).replace("\u3002", ".").lower().removesuffix(".")
    if not name.isascii():
        try:
            name = name.encode("idna").decode("ascii")
        except UnicodeError:
            raise Refused("The URL's host is not a name.") from None
    if len(name) > _MAX_NAME or not all(map(_LABEL.fullmatch, name.split("."))):
        raise Refused("The URL's host is not a name.")
    return name


def _quoted(target: str) -> str:
    """Path and query with everything but ASCII's harmless characters percent-encoded."""
    path = target if target.startswith("/") else f"/{target}"
    return quote(path, safe=_KEPT)
