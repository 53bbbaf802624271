"""Requests to the outside: what the other side may do to us, and where no socket is opened."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from ipaddress import ip_address

import httpcore
import psutil
import pytest
from prometheus_client import CollectorRegistry

from peregrine.kit.settings import Secret
from peregrine.tools import egress, guard, outbound
from peregrine.tools.definition import ToolFailure
from peregrine.tools.outbound import AnswerLost, NothingSent, Outbound, Refused, Request
from tests.component.tools.unruly import Unruly, unruly
from tests.unit.tools.test_egress import cases

# Reading the system's certificates takes longer than a test.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@pytest.fixture
async def server() -> AsyncIterator[Unruly]:
    async with unruly() as running:
        yield running


class Wire:
    """The connect interface, with a record of every address a socket was opened to."""

    def __init__(self) -> None:
        self.opened: list[tuple[str, int]] = []

    async def connect(
        self, address: str, port: int, timeout: float | None
    ) -> httpcore.AsyncNetworkStream:
        self.opened.append((address, port))
        return await guard.connect(address, port, timeout)


class Names:
    """A resolver that answers as it is told; each answer of a name once, the last one for ever."""

    def __init__(self, **answers: Sequence[Sequence[str]]) -> None:
        self.answers = {name.replace("_", "."): list(each) for name, each in answers.items()}
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        answers = self.answers.get(host)
        if answers is None:
            raise OSError("no such name")
        return answers.pop(0) if len(answers) > 1 else answers[0]


@pytest.fixture
def wire() -> Wire:
    return Wire()


Client = Callable[..., AbstractAsyncContextManager[Outbound]]


@pytest.fixture
def client(server: Unruly, wire: Wire) -> Client:
    """A client that may reach the server, and nothing else of this machine."""

    @asynccontextmanager
    async def opened(
        allow: str = "", resolve: guard.Resolve = guard.resolve, seconds: float = 5.0
    ) -> AsyncIterator[Outbound]:
        rules = egress.rules((allow or f"127.0.0.1:{server.port}").split(","))
        async with outbound.opened(
            rules=rules, seconds=seconds, resolve=resolve, connect=wire.connect, tls=NO_TLS
        ) as http:
            yield http

    return opened


async def failure(http: Outbound, url: str, **options: object) -> ToolFailure:
    with pytest.raises(ToolFailure) as caught:
        await http.fetch(Request(url=url), **options)  # type: ignore[arg-type] # of fetch
    return caught.value


async def test_text_is_read_in_its_own_charset_and_unpacked(client: Client, server: Unruly) -> None:
    async with client() as http:
        assert (await http.fetch(Request(url=f"{server.url}/hello"))).text == "Grüße"
        assert (await http.fetch(Request(url=f"{server.url}/packed"))).text == "hello " * 40
        assert (await http.fetch(Request(url=f"{server.url}/nul"))).text == "a\ufffdb"
        assert server.connections == 1


@pytest.mark.parametrize(
    ("path", "reason", "kind"),
    [
        ("/cut", "CONNECTION_BROKEN", AnswerLost),
        ("/image", "CONTENT_REFUSED", ToolFailure),
        ("/brotli", "CONTENT_REFUSED", ToolFailure),
        ("/trailing", "CONTENT_REFUSED", ToolFailure),
        ("/hollow", "RESPONSE_TOO_LARGE", ToolFailure),
        ("/half", "CONNECTION_BROKEN", AnswerLost),
        ("/status/404", "HTTP_STATUS", ToolFailure),
        ("/status/500", "HTTP_STATUS", ToolFailure),
        ("/status/504", "HTTP_STATUS", AnswerLost),
        ("/loop/0", "TOO_MANY_REDIRECTS", ToolFailure),
    ],
)
async def test_a_bad_answer_is_a_failure_with_its_reason(
    client: Client, server: Unruly, path: str, reason: str, kind: type[ToolFailure]
) -> None:
    async with client() as http:
        failed = await failure(http, server.url + path)
    assert (failed.reason, type(failed)) == (reason, kind)


async def test_the_words_of_a_refusing_server_reach_the_model(
    client: Client, server: Unruly
) -> None:
    async with client() as http:
        assert "says the server" in (await failure(http, f"{server.url}/status/404")).message


@pytest.mark.parametrize("path", ["/drip", "/silent"])
async def test_a_server_that_takes_its_time_is_cut_at_the_deadline_of_the_whole(
    client: Client, server: Unruly, path: str
) -> None:
    async with client() as http:
        begun = time.monotonic()
        failed = await failure(http, server.url + path, timeout=0.4)
    assert failed.reason == "HTTP_TIMEOUT"
    assert 0.3 < time.monotonic() - begun < 20


async def test_a_gigabyte_is_cut_off_after_a_few_megabytes(client: Client, server: Unruly) -> None:
    async with client() as http:
        assert (await failure(http, f"{server.url}/flood")).reason == "RESPONSE_TOO_LARGE"
    # What sockets buffer on both sides comes on top of what was read.
    assert server.sent < 40 * 2**20


async def test_a_gzip_bomb_is_refused_without_being_unpacked(
    client: Client, server: Unruly
) -> None:
    before = psutil.Process().memory_info().rss
    async with client() as http:
        assert (await failure(http, f"{server.url}/bomb")).reason == "RESPONSE_TOO_LARGE"
    assert psutil.Process().memory_info().rss - before < 32 * 2**20


NOT_OPEN = [url for expected, url in cases() if expected in ("malformed", "closed")]


async def test_the_corpus_opens_no_socket(client: Client, wire: Wire) -> None:
    async with client() as http:
        for url in NOT_OPEN:
            failed = await failure(http, url)
            assert (failed.reason, type(failed)) == ("EGRESS_REFUSED", Refused), url
    assert wire.opened == []


async def test_the_corpus_opens_no_socket_behind_a_redirect(
    client: Client, server: Unruly, wire: Wire
) -> None:
    # What has no "://" would be a path of the server itself, and what has a blank no header.
    locations = [
        url for url in NOT_OPEN if url.isascii() and "://" in url and not set(url) & {" ", "#"}
    ]
    assert len(locations) > 100
    async with client() as http:
        for url in locations:
            assert (await failure(http, f"{server.url}/to?{url}")).reason == "EGRESS_REFUSED", url
    assert set(wire.opened) == {("127.0.0.1", server.port)}
    assert not [target for _, target, _, _ in server.requests if not target.startswith("/to?")]


FORBIDDEN = [
    "127.0.0.1",
    "10.0.0.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "::1",
    "fd00:ec2::254",
    "fe80::1%1",
    "::ffff:127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b:1::a00:1",
    "2002:7f00:1::",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
]


@pytest.mark.parametrize("address", FORBIDDEN)
async def test_a_name_that_leads_to_a_forbidden_address_opens_no_socket(
    client: Client, wire: Wire, address: str
) -> None:
    names = Names(evil_example=[[address]])
    async with client(allow="192.0.2.77", resolve=names) as http:
        assert (await failure(http, "http://evil.example/")).reason == "EGRESS_REFUSED"
    assert wire.opened == []


async def test_one_forbidden_address_among_several_closes_the_name(
    client: Client, wire: Wire
) -> None:
    names = Names(evil_example=[["93.184.216.34", "169.254.169.254"]])
    async with client(resolve=names) as http:
        assert (await failure(http, "http://evil.example/")).reason == "EGRESS_REFUSED"
    assert wire.opened == []


async def test_a_name_that_is_bound_anew_is_connected_to_where_it_was_checked(
    client: Client, server: Unruly, wire: Wire
) -> None:
    # First the server, which is open; from then on what must never be reached.
    names = Names(rebind_example=[["127.0.0.1"], ["169.254.169.254"]])
    async with client(resolve=names) as http:
        answer = await http.fetch(Request(url=f"http://rebind.example:{server.port}/echo"))
        assert '"host": "rebind.example:' in answer.text
        assert names.asked == ["rebind.example"]
        assert wire.opened == [("127.0.0.1", server.port)]
        # A connection that is kept is still the one to the checked address.
        await http.fetch(Request(url=f"http://rebind.example:{server.port}/hello"))
        assert names.asked == ["rebind.example"]
    async with client(resolve=names) as http:
        failed = await failure(http, f"http://rebind.example:{server.port}/echo")
    assert failed.reason == "EGRESS_REFUSED"
    assert wire.opened == [("127.0.0.1", server.port)]


async def test_an_address_that_does_not_answer_gives_way_to_the_next(
    client: Client, server: Unruly, wire: Wire
) -> None:
    names = Names(two_example=[["127.0.0.2", "127.0.0.1"]])
    async with client(allow=f"127.0.0.0/8:{server.port}", resolve=names) as http:
        assert (await http.fetch(Request(url=f"http://two.example:{server.port}/hello"))).text
    assert [address for address, _ in wire.opened] == ["127.0.0.2", "127.0.0.1"]


async def test_a_name_that_does_not_exist_is_unreachable(client: Client) -> None:
    async with client(resolve=Names()) as http:
        failed = await failure(http, "http://nowhere.example/")
    assert (failed.reason, type(failed)) == ("HOST_UNREACHABLE", NothingSent)


async def test_a_resolver_that_hangs_ends_at_the_deadline(client: Client) -> None:
    async def hang(host: str, port: int) -> Sequence[str]:
        await asyncio.Event().wait()
        return []

    async with client(resolve=hang) as http:
        failed = await failure(http, "http://slow.example/", timeout=0.2)
    assert isinstance(failed, NothingSent)


async def test_a_redirect_to_another_origin_takes_no_secret_along(
    client: Client, server: Unruly
) -> None:
    names = Names(other_example=[["127.0.0.1"]])
    other = f"http://other.example:{server.port}/echo"
    secrets = {"Authorization": Secret("Bearer s3cr3t-t0ken"), "X-Key": Secret("k3y-k3y")}
    async with client(resolve=names) as http:
        request = Request(url=f"{server.url}/to?{other}", headers={"X-Plain": "1"}, secrets=secrets)
        await http.fetch(request)
        same = Request(url=f"{server.url}/to?/echo", secrets=secrets)
        await http.fetch(same)
    seen = [headers for _, target, headers, _ in server.requests if target == "/echo"]
    assert not {"authorization", "x-key", "x-plain"} & seen[0].keys()
    assert seen[1]["authorization"] == "Bearer s3cr3t-t0ken"


async def test_a_secret_that_comes_back_is_blotted_out(client: Client, server: Unruly) -> None:
    secrets = {"Authorization": Secret("Bearer s3cr3t-t0ken"), "X-Key": Secret('q"uote\\d')}
    async with client() as http:
        answer = await http.fetch(Request(url=f"{server.url}/echo", secrets=secrets))
    assert server.requests[0][2]["x-key"] == 'q"uote\\d'
    assert "s3cr3t" not in answer.text and "uote" not in answer.text


async def test_cookies_of_one_call_do_not_reach_the_next(client: Client, server: Unruly) -> None:
    async with client() as http:
        await http.fetch(Request(url=f"{server.url}/cookie"))
        await http.fetch(Request(url=f"{server.url}/echo"))
    assert "cookie" not in server.requests[-1][2]


async def test_proxy_variables_are_not_obeyed(
    client: Client, server: Unruly, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    async with client() as http:
        await http.fetch(Request(url=f"{server.url}/hello"))
    assert wire.opened == [("127.0.0.1", server.port)]


async def test_a_warmed_host_costs_the_first_call_no_connection(
    client: Client, server: Unruly, wire: Wire
) -> None:
    async with client() as http:
        assert await http.warm(f"{server.url}/echo?x=1")
        await http.fetch(Request(url=f"{server.url}/hello"))
        assert not await http.warm("http://169.254.169.254/")
    assert len(wire.opened) == 1
    assert server.requests[0][:2] == ("HEAD", "/")


async def test_outcomes_are_counted(server: Unruly) -> None:
    registry = CollectorRegistry()
    rules = egress.rules([f"127.0.0.1:{server.port}"])
    async with outbound.opened(rules=rules, registry=registry) as http:
        await http.fetch(Request(url=f"{server.url}/hello"))
        await failure(http, "http://[::1]/")
    name = "peregrine_tool_outbound_requests_total"
    assert registry.get_sample_value(name, {"outcome": "success"}) == 1
    assert registry.get_sample_value(name, {"outcome": "EGRESS_REFUSED"}) == 1


def test_every_forbidden_address_of_these_tests_is_one() -> None:
    assert all(egress.kind(ip_address(address)) for address in FORBIDDEN)
