"""Which addresses stay on this machine."""

import pytest

from peregrine.kit.address import stays_here


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:0",
        "127.8.9.1:50051",
        "localhost:1",
        "LOCALHOST:1",
        "a.localhost:1",
        "[::1]:50051",
        "unix:/run/x",
        "unix:///run/x",
        "dns:///localhost:1",
        "dns:///127.0.0.1:1",
        "ipv4:127.0.0.1:1",
        "localhost",
        "127.0.0.1",
    ],
)
def test_these_do(address: str) -> None:
    assert stays_here(address)


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0:0",
        "[::]:0",
        ":0",
        "",
        "127.0.0.1.example.org:1",
        "127.example:1",
        "localhost.example.org:1",
        "notlocalhost:1",
        "10.0.0.1:1",
        "[::ffff:10.0.0.1]:1",
        "orchestrator:50051",
        "dns:///orchestrator:50051",
        "2130706433:1",
        "0x7f.1:1",
        "xds:///localhost:1",
    ],
)
def test_these_may_not(address: str) -> None:
    assert not stays_here(address)
