"""What can be typed after `peregrine tools`: arguments, options and help. Nothing else."""

from typing import Annotated

import typer

from peregrine.cli.declaring import Json, Limit, run

Name = Annotated[str, typer.Argument(metavar="NAME")]


def tools_list(as_json: Json = False, limit: Limit = 200) -> None:
    """Lists the tools, built-in ones too."""
    from peregrine.cli import tools

    run(tools.list_all(as_json=as_json, limit=limit))


def tools_get(name: Name, as_json: Json = False) -> None:
    """Shows a tool as it is in force, with its schema."""
    from peregrine.cli import tools

    run(tools.get(name, as_json=as_json))


def tools_call(
    name: Name,
    arguments: Annotated[str, typer.Argument(metavar="JSON", help="A JSON object.")] = "{}",
    as_json: Json = False,
) -> None:
    """Runs one tool, without any agent."""
    from peregrine.cli import tools

    run(tools.call(name, arguments, as_json=as_json))


def tools_stats(as_json: Json = False) -> None:
    """Shows what a worker has executed since it began, by tool."""
    from peregrine.cli import tools

    run(tools.stats(as_json=as_json))


def tools_approve(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A tool of an MCP server, or the server.")
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Shows what an MCP server says anew of its tools, which are off for that, and approves it."""
    from peregrine.cli import tools

    run(tools.approve(name, yes=yes))


def tools_invalidate(
    name: Name,
    arguments: Annotated[
        str | None,
        typer.Argument(metavar="JSON", help="Only the result for these.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Forgets the kept results of a tool, everywhere."""
    from peregrine.cli import tools

    run(tools.invalidate(name, arguments, as_json=as_json))


def tools_delete(name: Name) -> None:
    """Deletes a tool that was applied; calls under way finish."""
    from peregrine.cli import tools

    run(tools.delete(name))
