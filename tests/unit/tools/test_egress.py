"""The rules of egress over their corpus, and what settings open."""

from ipaddress import ip_address
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peregrine.tools import egress
from peregrine.tools.egress import Refused, Rules

CORPUS = Path(__file__).with_name("egress_corpus.txt")
NOTHING_OPENED = Rules()


def cases() -> list[tuple[str, str]]:
    lines = CORPUS.read_text(encoding="utf-8").splitlines()
    found = [line.split("\t", 1) for line in lines if line and not line.startswith("#")]
    return [(expected, url) for expected, url in found]


def verdict(url: str) -> str:
    try:
        target = egress.parse(url)
    except Refused:
        return "malformed"
    if target.address is None:
        return "named"
    try:
        NOTHING_OPENED.check(target.host, target.port, target.address)
    except Refused:
        return "closed"
    return "open"


@pytest.mark.parametrize(("expected", "url"), cases())
def test_the_corpus_is_judged_as_it_says(expected: str, url: str) -> None:
    assert verdict(url) == expected


def test_the_corpus_is_read_whole() -> None:
    found = cases()
    assert {expected for expected, _ in found} == {"malformed", "closed", "open", "named"}
    assert len(found) > 150


@pytest.mark.parametrize("url", [url for expected, url in cases() if expected != "malformed"])
def test_the_client_reads_an_accepted_url_in_the_same_way(url: str) -> None:
    target = egress.parse(url)
    read = httpx.URL(target.url)
    port = read.port or {"http": 80, "https": 443}[read.scheme]
    assert (read.scheme, read.raw_host.decode(), port) == (target.scheme, target.host, target.port)
    assert egress.parse(target.url) == target


@given(st.text(alphabet="htps:/@[]%.#?\\0127xX\uff11\u3002\u0660-a\t \x00\u00e9", max_size=40))
def test_whatever_is_accepted_is_read_in_the_same_way_by_the_client(text: str) -> None:
    try:
        target = egress.parse(f"http://{text}")
    except Refused:
        return
    assert httpx.URL(target.url).raw_host.decode() == target.host


@given(st.ip_addresses())
def test_every_address_of_the_special_purpose_registries_is_closed(address: object) -> None:
    # Python knows the registries of IANA, too; whatever it calls not global, we must not open.
    found = ip_address(str(address))
    if not found.is_global or found.is_multicast:
        assert egress.kind(found)


@pytest.mark.parametrize(
    ("entries", "host", "port", "address"),
    [
        ("10.1.0.0/16", "db.internal", 5432, "10.1.2.3"),
        ("127.0.0.1:8080", "127.0.0.1", 8080, "127.0.0.1"),
        ("[::1]:8080", "::1", 8080, "::1"),
        ("fd00::/8", "x", 443, "fd00::7"),
        ("crm.internal:443", "crm.internal", 443, "10.9.9.9"),
        ("crm.internal", "crm.internal", 8443, "127.0.0.1"),
        ("CRM.internal.", "crm.internal", 80, "192.168.1.1"),
        ("169.254.169.254", "169.254.169.254", 80, "169.254.169.254"),
        ("64:ff9b::/96", "v4.example", 443, "64:ff9b::8.8.8.8"),
        ("64:ff9b::/96,10.0.0.0/8", "x", 443, "64:ff9b::10.0.0.1"),
    ],
)
def test_settings_open_what_they_name(entries: str, host: str, port: int, address: str) -> None:
    egress.rules(entries.split(",")).check(host, port, ip_address(address))


@pytest.mark.parametrize(
    ("entries", "host", "port", "address"),
    [
        ("10.1.0.0/16", "x", 80, "10.2.0.1"),
        ("127.0.0.1:8080", "127.0.0.1", 8081, "127.0.0.1"),
        ("127.0.0.1", "x", 80, "::ffff:127.0.0.1"),
        ("crm.internal:443", "crm.internal", 80, "10.9.9.9"),
        ("crm.internal", "evil.crm.internal", 80, "10.9.9.9"),
        # A name does not open what would give away credentials, even when it resolves to it.
        ("crm.internal", "crm.internal", 80, "169.254.169.254"),
        ("crm.internal", "crm.internal", 80, "fe80::1"),
        ("crm.internal", "crm.internal", 80, "64:ff9b::10.0.0.1"),
        # Who opens the translation prefix has not opened what lies behind it.
        ("64:ff9b::/96", "x", 80, "64:ff9b::127.0.0.1"),
        ("2002::/16", "x", 80, "2002:a9fe:a9fe::"),
    ],
)
def test_settings_open_nothing_else(entries: str, host: str, port: int, address: str) -> None:
    with pytest.raises(Refused):
        egress.rules(entries.split(",")).check(host, port, ip_address(address))


@pytest.mark.parametrize(
    "entry", ["10.0.0.1/8", "http://x/", "*.internal", "a b", "2130706433", "x:99999", "[::1", ""]
)
def test_a_broken_entry_of_the_settings_is_named(entry: str) -> None:
    with pytest.raises(ValueError, match="no network or host"):
        egress.rules([entry])


def test_a_refusal_tells_no_address_that_was_found() -> None:
    with pytest.raises(Refused) as caught:
        NOTHING_OPENED.check("intranet.example", 80, ip_address("10.20.30.40"))
    assert "10.20.30.40" not in str(caught.value)
    assert "private" in str(caught.value)
