"""What can be typed after `peregrine cache`: arguments, options and help. Nothing else."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from peregrine.cli.declaring import Json, Limit, run

Namespace = Annotated[
    str, typer.Argument(metavar="NAMESPACE", help="Results of a tool are in tool:NAME.")
]
Mine = Annotated[
    bool, typer.Option("--mine", help="The keys are your own; without it, your whole tenant's.")
]


def cache_stats(
    namespace: Annotated[
        str, typer.Argument(metavar="NAMESPACE", help="Only this one.", show_default=False)
    ] = "",
    as_json: Json = False,
) -> None:
    """Shows hits by tier, misses and bytes of each namespace, since the cache service began."""
    from peregrine.cli import cache

    run(cache.stats(namespace, as_json=as_json))


def cache_invalidate(
    tag: Annotated[
        list[str] | None, typer.Option("--tag", "-t", help="All that carries it. May be repeated.")
    ] = None,
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", help="All that is in it; or where the keys are.")
    ] = "",
    key: Annotated[
        list[str] | None,
        typer.Option("--key", "-k", help="One entry of the namespace. May be repeated."),
    ] = None,
    mine: Mine = False,
    as_json: Json = False,
) -> None:
    """Makes kept values untrue, everywhere, also those that are being computed now."""
    from peregrine.cli import cache

    run(cache.invalidate(tags=tag or [], namespace=namespace, keys=key, mine=mine, as_json=as_json))


def cache_warm(
    namespace: Namespace,
    keys: Annotated[
        list[str] | None,
        typer.Option("--keys", "-k", help="What to load; of a tool, arguments. May be repeated."),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="A file with a key a line; - for stdin.")
    ] = None,
    most_frequent: Annotated[
        int | None,
        typer.Option(
            "--most-frequent",
            min=1,
            max=10_000,
            show_default=False,
            help="So many of the keys that were most asked for in the last day.",
        ),
    ] = None,
    rate: Annotated[int, typer.Option("--rate", min=1, max=1_000, help="Loads a second.")] = 50,
    mine: Mine = False,
    as_json: Json = False,
) -> None:
    """Loads values before they are asked for, with the namespace's loader.

    What is there already is left alone. Ctrl-C stops it.
    """
    from peregrine.cli import cache

    run(
        cache.warm(
            namespace,
            keys=keys,
            file=file,
            most_frequent=most_frequent or 0,
            rate=rate,
            mine=mine,
            as_json=as_json,
        )
    )


def cache_policies_list(as_json: Json = False, limit: Limit = 200) -> None:
    """Lists your tenant's policies: how long the values of a namespace live."""
    from peregrine.cli import cache_policies

    run(cache_policies.list_all(as_json=as_json, limit=limit))


def cache_policies_get(namespace: Namespace, as_json: Json = False) -> None:
    """Shows the policy of a namespace."""
    from peregrine.cli import cache_policies

    run(cache_policies.get(namespace, as_json=as_json))


def cache_policies_apply(
    namespace: Annotated[
        str, typer.Argument(metavar="NAMESPACE", show_default=False, help="Whose policy.")
    ] = "",
    file: Annotated[
        Path | None,
        typer.Option("--filename", "-f", help="A CachePolicy as YAML instead; - for stdin."),
    ] = None,
    ttl: Annotated[str, typer.Option(metavar="TIME", help="How long: 90s, 10m, 1h30m.")] = "",
    min_ttl: Annotated[
        str, typer.Option(metavar="TIME", help="The tuned TTL is at least this.")
    ] = "",
    max_ttl: Annotated[str, typer.Option(metavar="TIME", help="And at most this.")] = "",
    max_stale_fraction: Annotated[
        float | None, typer.Option(help="The share of answers that may be older than the truth.")
    ] = None,
    stale_while_revalidate: Annotated[
        str,
        typer.Option(metavar="TIME", help="Serve it for so long after, while it is computed anew."),
    ] = "",
    stale_if_error: Annotated[
        str, typer.Option(metavar="TIME", help="Likewise, when that fails.")
    ] = "",
    mode: Annotated[
        Literal["Observe", "Active"] | None,
        typer.Option(help="Active: the operator tunes the TTL."),
    ] = None,
    warm_at_start: Annotated[
        bool | None,
        typer.Option(
            "--warm-at-start/--cold",
            help="Whether a cache that starts loads what is asked for most.",
        ),
    ] = None,
    never: Annotated[
        bool | None, typer.Option("--never/--keep", help="Whether to keep nothing here at all.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Changes what is named of a namespace's policy, or makes one; in force within a second."""
    from peregrine.cli import cache_policies

    given = {
        "ttl": ttl or None,
        "minTtl": min_ttl or None,
        "maxTtl": max_ttl or None,
        "maxStaleFraction": max_stale_fraction,
        "staleWhileRevalidate": stale_while_revalidate or None,
        "staleIfError": stale_if_error or None,
        "mode": mode,
        "warmAtStart": warm_at_start,
        "never": never,
    }
    run(
        cache_policies.apply(
            namespace,
            {name: value for name, value in given.items() if value is not None},
            file=file,
            as_json=as_json,
        )
    )
