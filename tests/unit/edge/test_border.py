"""Who may call the edge by which name, and which readers take gzip."""

import pytest
from starlette.requests import Request

from peregrine.edge.answers import _takes_gzip
from peregrine.edge.border import allowed_hosts


@pytest.mark.parametrize(
    ("listen", "named", "allowed", "refused"),
    [
        ("127.0.0.1:8080", (), {"localhost", "127.0.0.1", "[::1]"}, {"evil.example", ""}),
        ("127.0.0.5:8080", (), {"127.0.0.5", "localhost"}, {"evil.example"}),
        ("[::1]:8080", ("door.example",), {"door.example", "[::1]"}, {"evil.example"}),
        ("0.0.0.0:8080", ("door.example",), {"door.example"}, {"localhost"}),
    ],
)
def test_on_loopback_only_its_own_names_are_answered_to(
    listen: str, named: tuple[str, ...], allowed: set[str], refused: set[str]
) -> None:
    hosts = allowed_hosts(listen, named)
    assert allowed <= hosts
    assert not refused & hosts


def test_on_a_network_any_name_will_do_unless_some_are_named() -> None:
    assert allowed_hosts("0.0.0.0:8080", ()) == frozenset()


@pytest.mark.parametrize(
    ("header", "takes"),
    [
        ("gzip", True),
        ("br, GZIP;q=0.5", True),
        ("*", True),
        ("br", False),
        ("", False),
        ("gzip; q=0", False),
        ("xgzip", False),
    ],
)
def test_gzip_is_for_who_takes_it(header: str, takes: bool) -> None:
    headers = [(b"accept-encoding", header.encode())]
    assert _takes_gzip(Request({"type": "http", "headers": headers})) is takes
