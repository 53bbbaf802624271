"""`peregrine cache`, against a real cache service."""

import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from peregrine.cache import main
from peregrine.client import CacheClient
from peregrine.kit import context
from peregrine.kit.settings import Secret
from tests.component.cache import loaders_module
from tests.component.cli.program import Program
from tests.support.eventually import eventually


@pytest.fixture
async def address(migrated_dsn: str, redis_url: str) -> AsyncIterator[str]:
    loaders_module.loaded.clear()
    settings = main.Settings(
        auth_required=False,
        listen="127.0.0.1:0",
        postgres_dsn=Secret(migrated_dsn),
        cache_redis_url=Secret(redis_url),
        redis_timeout_seconds=1.0,
        postgres_timeout_seconds=1.0,
        loaders=("tests.component.cache.loaders_module",),
    )
    async with main.build(settings) as server, server:
        await server.serving()
        yield server.address


@pytest.fixture
async def client(address: str) -> AsyncIterator[CacheClient]:
    """Without a near cache, so that it says what the service has."""
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(
            CacheClient(address, identity=context.LOCAL, near_bytes=0, entry_timeout=5.0)
        )


@pytest.fixture
def peregrine(address: str) -> Program:
    return Program({"PEREGRINE_CACHE_TARGET": address})


async def test_stats_say_what_was_asked(peregrine: Program, client: CacheClient) -> None:
    assert (await peregrine("cache", "stats")).out == "nothing was asked\n"
    key = client.key("rates", b"EUR")
    assert await client.get(key) is None
    assert await client.set(key, b"0.94" * 500, ttl=60) == ""
    for _ in range(3):
        assert await client.get(key) is not None
    assert await client.get(client.key("other", b"k")) is None
    shown = await peregrine("cache", "stats")
    heading, other, rates = (line.split() for line in shown.out.splitlines())
    assert heading[:4] == ["NAMESPACE", "HIT", "RATE", "ASKED"]
    assert other[:3] == ["other", "0.0%", "1"]
    assert rates[:7] == ["rates", "75.0%", "4", "0", "3", "0", "1"]
    (only,) = (await peregrine("cache", "stats", "rates", "--json")).lines
    assert (only["namespace"], only["total"], only["redis_hits"]) == ("rates", 4, 3)
    none = await peregrine("cache", "stats", "nobody")
    assert (none.code, none.out) == (0, "nobody has asked for anything in nobody\n")


async def test_values_are_made_untrue_by_tag_namespace_and_key(
    peregrine: Program, client: CacheClient
) -> None:
    names = [b"a", b"b", b"c"]
    keys = [client.key("prices", each, shared=True) for each in names]
    mine = client.key("prices", b"a")

    async def there() -> list[bool]:
        return [await client.get(each) is not None for each in (*keys, mine)]

    for key in keys:
        assert await client.set(key, b"1", ttl=60, tags=[f"price:{key.message.key.decode()}"]) == ""
    assert await client.set(mine, b"1", ttl=60) == ""
    assert await there() == [True, True, True, True]

    struck = await peregrine("cache", "invalidate", "--tag", "price:a", "--tag", "price:x")
    assert (struck.code, struck.out) == (0, "tag/price:a invalidated\ntag/price:x invalidated\n")
    assert await there() == [False, True, True, True]
    struck = await peregrine("cache", "invalidate", "-n", "prices", "-k", "b")
    assert struck.out == "key/prices/b invalidated\n"
    assert await there() == [False, False, True, True]
    struck = await peregrine("cache", "invalidate", "-n", "prices", "-k", "a", "--mine")
    assert await there() == [False, False, True, False]
    (said,) = (await peregrine("cache", "invalidate", "-n", "prices", "--json")).lines
    assert (said["kind"], said["name"]) == ("namespace", "prices") and said["sequence"] > 0
    assert await there() == [False, False, False, False]


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--tag", "a", "--namespace", "b"),
        ("--tag", "a", "--key", "b"),
        ("--key", "b"),
        ("--namespace", "a", "--mine"),
    ],
)
async def test_what_is_to_be_untrue_must_be_clear(arguments: tuple[str, ...]) -> None:
    assert (await Program()("cache", "invalidate", *arguments)).code == 2


async def test_warming_by_keys_file_and_frequency(
    peregrine: Program, client: CacheClient, tmp_path: Path
) -> None:
    warmed = await peregrine("cache", "warm", "made", "--keys", "a", "--keys", "b")
    assert (warmed.code, warmed.err) == (0, "")
    assert warmed.out == "made: 2 loaded, 0 were there, 0 could not be loaded\n"
    assert await client.get(client.key("made", b"a", shared=True)) is not None
    assert await client.get(client.key("made", b"a")) is None

    file = tmp_path / "keys"
    file.write_text("a\n\nc\nnothing\n")
    warmed = await peregrine("cache", "warm", "made", "--file", str(file), "--rate", "1000")
    assert warmed.code == 1  # not all of it
    assert warmed.out == "made: 1 loaded, 1 were there, 1 could not be loaded\n"
    warmed = await peregrine("cache", "warm", "made", "-f", "-", "--mine", "--json", stdin="d\n")
    assert warmed.lines[-1] == {"loaded": 1, "failed": 0, "total": 1, "present": 0}
    assert await client.get(client.key("made", b"d")) is not None

    nothing = await peregrine("cache", "warm", "made", "--most-frequent", "5")
    assert (nothing.code, nothing.out) == (0, "made: nothing was asked for in the last day\n")
    unknown = await peregrine("cache", "warm", "unknown", "--keys", "a")
    assert unknown.code == 1 and "LOADER_UNKNOWN" in unknown.err


async def test_more_keys_than_the_service_takes_at_once(
    peregrine: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peregrine.cli import cache

    monkeypatch.setattr(cache, "_BATCH", 2)
    keys = [word for name in "abcde" for word in ("--keys", name)]
    warmed = await peregrine("cache", "warm", "made", *keys, "--rate", "1000", "--json")
    assert warmed.lines[-1] == {"loaded": 5, "failed": 0, "total": 5, "present": 0}
    done = [each["loaded"] for each in warmed.lines]
    assert done == sorted(done)


@pytest.mark.parametrize("arguments", [(), ("--keys", "a", "--most-frequent", "1"), ("-f", "/no")])
async def test_what_to_load_must_be_clear(arguments: tuple[str, ...]) -> None:
    assert (await Program()("cache", "warm", "made", *arguments)).code == 2


async def test_warming_shows_how_far_it_is_on_a_terminal(peregrine: Program) -> None:
    keys = [word for number in range(12) for word in ("--keys", f"k{number}")]
    async with peregrine.on_terminal("cache", "warm", "made", *keys, "--rate", "10") as screen:
        await eventually(lambda: "/12" in screen.seen, timeout=30)
        assert await screen.ended() == 0
        await eventually(lambda: "made: 12 loaded" in screen.seen)


async def test_policies_are_changed_listed_and_shown(peregrine: Program, tmp_path: Path) -> None:
    listed = await peregrine("cache", "policies", "list")
    assert listed.out.startswith("no policies")
    made = await peregrine(
        *("cache", "policies", "apply", "rates", "--ttl", "90s", "--max-ttl", "1h30m")
    )
    assert (made.code, made.out) == (0, "cachepolicy/rates created\n")
    changed = await peregrine("cache", "policies", "apply", "rates", "--ttl", "2m", "--mode=Active")
    assert changed.out == "cachepolicy/rates configured\n"
    same = await peregrine("cache", "policies", "apply", "rates", "--ttl", "2m")
    assert same.out == "cachepolicy/rates unchanged\n"
    (shown,) = (await peregrine("cache", "policies", "get", "rates", "--json")).lines
    # What was not named stays.
    assert (shown["ttl"], shown["max_ttl"]) == ("120s", "5400s")
    assert (shown["mode"], shown["version"]) == ("POLICY_MODE_ACTIVE", 2)
    heading, rates = (await peregrine("cache", "policies", "list")).out.splitlines()
    assert heading.split()[:4] == ["NAMESPACE", "TTL", "BOUNDS", "MODE"]
    assert rates.split()[:4] == ["rates", "2m", "..1h30m", "Active"]
    text = (await peregrine("cache", "policies", "get", "rates")).out
    assert text.startswith("cache policy rates\n") and "120s" in text
    gone = await peregrine("cache", "policies", "get", "nobody")
    assert gone.code == 1 and "POLICY_NOT_FOUND" in gone.err

    off = await peregrine("cache", "policies", "apply", "rates", "--never", "--json")
    assert off.lines[0]["never"] is True
    on = await peregrine("cache", "policies", "apply", "rates", "--keep", "--json")
    assert on.lines[0]["never"] is False

    file = tmp_path / "policy.yaml"
    shutil.copy("examples/cache-policy.yaml", file)
    applied = await peregrine("cache", "policies", "apply", "-f", str(file))
    assert (applied.code, applied.out) == (0, "cachepolicy/knowledge-search created\n")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "NAMESPACE"),
        (("rates",), "what to change"),
        (("rates", "--ttl", "soon"), "ttl: must be a duration"),
        (("rates", "--ttl", "2h", "--max-ttl", "1h"), "ttl: is longer"),
        (("rates", "-f", "x.yaml"), "-f"),
        (("-f", "examples/assistant.yaml"), "no CachePolicy"),
    ],
)
async def test_a_policy_that_cannot_be_is_said_what_is_wrong(
    arguments: tuple[str, ...], says: str
) -> None:
    ended = await Program()("cache", "policies", "apply", *arguments)
    assert ended.code == 2 and says in ended.err


async def test_a_cache_that_is_away_is_named() -> None:
    ended = await Program()("cache", "stats")
    assert ended.code == 3 and "cannot reach the cache service" in ended.err
