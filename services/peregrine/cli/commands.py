"""What can be typed: every command with its arguments, options and help. Nothing else."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from peregrine.cli import cache_commands as caching
from peregrine.cli import tools_commands as tooling
from peregrine.cli.declaring import Json, Limit
from peregrine.cli.declaring import run as _run

Name = Annotated[str, typer.Argument(metavar="NAME")]
RunId = Annotated[str, typer.Argument(metavar="RUN")]
ConversationId = Annotated[str, typer.Argument(metavar="CONVERSATION")]


def app(*, prog_name: str = "peregrine") -> None:
    """Runs the command that the arguments of this process name, and exits with its code."""
    build()(prog_name=prog_name)


def build() -> typer.Typer:
    """The whole command line as a typer application."""
    root = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    root.callback()(options)
    for name, command in (("chat", chat), ("watch", watch), ("apply", apply)):
        root.command(name)(command)
    groups: dict[str, tuple[str, tuple[Callable[..., None], ...]]] = {
        "agents": ("Agents: what a run runs.", (agents_list, agents_get, agents_delete)),
        "runs": ("Runs: one message in, an answer out.", (runs_list, runs_get, runs_cancel)),
        "conversations": (
            "Conversations and their messages.",
            (conversations_list, conversations_get, conversations_delete),
        ),
        "tools": (
            "Tools that agents may use.",
            (
                tooling.tools_list,
                tooling.tools_get,
                tooling.tools_call,
                tooling.tools_stats,
                tooling.tools_approve,
                tooling.tools_invalidate,
                tooling.tools_delete,
            ),
        ),
        "cache": (
            "What is kept so that it is not computed twice.",
            (caching.cache_stats, caching.cache_invalidate, caching.cache_warm),
        ),
        "cache policies": (
            "For how long values are kept.",
            (
                caching.cache_policies_list,
                caching.cache_policies_get,
                caching.cache_policies_apply,
            ),
        ),
        "keys": ("API keys: who may call.", (keys_create, keys_list, keys_revoke)),
        "profile": ("What agents are told about you.", (profile_get, profile_put)),
    }
    made = {"": root}
    for group, (summary, members) in groups.items():
        made[group] = typed = typer.Typer(help=summary, no_args_is_help=True)
        prefix = f"{group.replace(' ', '_')}_"
        for member in members:
            typed.command(member.__name__.removeprefix(prefix))(member)
        outer, _, name = group.rpartition(" ")
        made[outer].add_typer(typed, name=name)
    return root


def options(
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            help="A file with the API key that says who you are. [env: PEREGRINE_API_KEY_FILE; the "
            "key itself may be in PEREGRINE_API_KEY]"
        ),
    ] = None,
    tls: Annotated[
        bool | None,
        typer.Option(
            "--tls/--no-tls",
            help="Whether connections are encrypted. Without either, a key is sent to this machine "
            "only. [env: PEREGRINE_TLS]",
            show_default=False,
        ),
    ] = None,
    tls_ca: Annotated[
        Path | None,
        typer.Option(help="A PEM file of the authorities to trust. [env: PEREGRINE_TLS_CA]"),
    ] = None,
) -> None:
    """Runs AI agents fast. Start everything on this machine with: make run"""
    given = {
        "PEREGRINE_API_KEY_FILE": api_key_file,
        "PEREGRINE_TLS": None if tls is None else str(tls).lower(),
        "PEREGRINE_TLS_CA": tls_ca,
    }
    # An option is its variable, said more loudly.
    os.environ.update({name: str(value) for name, value in given.items() if value is not None})


def chat(
    message: Annotated[
        str | None,
        typer.Argument(help="What to say. Without it: standard input, or a prompt."),
    ] = None,
    agent: Annotated[str, typer.Option("--agent", "-a", help="Who answers.")] = "assistant",
    conversation: Annotated[
        str | None, typer.Option("--conversation", "-c", help="Go on with this conversation.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One event a line, as JSON.")] = False,
    no_waterfall: Annotated[
        bool, typer.Option("--no-waterfall", help="Do not show where the time went.")
    ] = False,
) -> None:
    """Talks to an agent: streams its answer, shows its tools, and where the time went."""
    from peregrine.cli import chat as chatting

    chatting.run(
        message,
        agent=agent,
        conversation_id=conversation,
        as_json=as_json,
        waterfall=not no_waterfall,
    )


def watch(
    run: RunId,
    after: Annotated[int, typer.Option("--after", min=0, help="Only events after this one.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One event a line, as JSON.")] = False,
    no_waterfall: Annotated[
        bool, typer.Option("--no-waterfall", help="Do not show where the time went.")
    ] = False,
) -> None:
    """Reads a run from any position, to its end. Ctrl-C stops reading; the run goes on."""
    from peregrine.cli import chat as chatting

    _run(chatting.watch(run, after=after, as_json=as_json, waterfall=not no_waterfall))


def apply(
    files: Annotated[
        list[Path],
        typer.Option("--filename", "-f", help="A YAML file, a directory of them, or - for stdin."),
    ],
    as_json: Json = False,
) -> None:
    """Creates or changes agents, tools and cache policies from YAML."""
    from peregrine.cli import apply as applying

    _run(applying.apply(files, as_json=as_json))


def agents_list(as_json: Json = False, limit: Limit = 200) -> None:
    """Lists the agents."""
    from peregrine.cli import things

    _run(things.list_agents(as_json=as_json, limit=limit))


def agents_get(name: Name, as_json: Json = False) -> None:
    """Shows an agent's definition."""
    from peregrine.cli import things

    _run(things.get_agent(name, as_json=as_json))


def agents_delete(name: Name) -> None:
    """Deletes an agent; its runs under way finish."""
    from peregrine.cli import things

    _run(things.delete_agent(name))


def runs_list(
    as_json: Json = False,
    limit: Limit = 20,
    agent: Annotated[str, typer.Option("--agent", "-a", help="Only of this agent.")] = "",
    conversation: Annotated[
        str, typer.Option("--conversation", "-c", help="Only of this conversation.")
    ] = "",
) -> None:
    """Lists your runs, newest first."""
    from peregrine.cli import things

    _run(things.list_runs(as_json=as_json, limit=limit, agent=agent, conversation_id=conversation))


def runs_get(run: RunId, as_json: Json = False) -> None:
    """Shows a run's state."""
    from peregrine.cli import things

    _run(things.get_run(run, as_json=as_json))


def runs_cancel(run: RunId, as_json: Json = False) -> None:
    """Asks a run to end."""
    from peregrine.cli import things

    _run(things.cancel_run(run, as_json=as_json))


def conversations_list(as_json: Json = False, limit: Limit = 20) -> None:
    """Lists your conversations, the one changed last first."""
    from peregrine.cli import things

    _run(things.list_conversations(as_json=as_json, limit=limit))


def conversations_get(conversation: ConversationId, as_json: Json = False) -> None:
    """Shows a conversation's messages, oldest first."""
    from peregrine.cli import things

    _run(things.get_conversation(conversation, as_json=as_json))


def conversations_delete(conversation: ConversationId) -> None:
    """Deletes a conversation with all it holds."""
    from peregrine.cli import things

    _run(things.delete_conversation(conversation))


def keys_create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the key is for.")],
    scope: Annotated[
        list[str] | None,
        typer.Option("--scope", "-s", help="read, run or admin; run when not given."),
    ] = None,
    tenant: Annotated[
        str, typer.Option("--tenant", help="Whose; another than yours with the bootstrap key only.")
    ] = "",
    user: Annotated[str, typer.Option("--user", help="Whose; yours when not given.")] = "",
    expires: Annotated[
        str, typer.Option("--expires", help="When it ends: 90d, 12h, 30m, or an ISO date.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Makes an API key. It is printed once, alone on standard output, and kept nowhere."""
    from peregrine.cli import keys

    _run(
        keys.create(
            name,
            scopes=scope or ["run"],
            tenant=tenant,
            user=user,
            expires=expires,
            as_json=as_json,
        )
    )


def keys_list(
    as_json: Json = False,
    limit: Limit = 200,
    tenant: Annotated[
        str, typer.Option("--tenant", help="Another than yours with the bootstrap key only.")
    ] = "",
) -> None:
    """Lists the API keys of your tenant, newest first."""
    from peregrine.cli import keys

    _run(keys.list_all(as_json=as_json, limit=limit, tenant=tenant))


def keys_revoke(
    key_id: Annotated[str, typer.Argument(metavar="KEY", help="The id, as the list shows it.")],
    tenant: Annotated[
        str, typer.Option("--tenant", help="Another than yours with the bootstrap key only.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Ends an API key, for good, within half a minute everywhere."""
    from peregrine.cli import keys

    _run(keys.revoke(key_id, tenant=tenant, as_json=as_json))


def profile_get(as_json: Json = False) -> None:
    """Shows your profile."""
    from peregrine.cli import things

    _run(things.get_profile(as_json=as_json))


def profile_put(
    data: Annotated[str, typer.Argument(metavar="JSON", help="A JSON object, or - for stdin.")],
    as_json: Json = False,
) -> None:
    """Replaces your profile."""
    from peregrine.cli import things

    _run(things.put_profile(data, as_json=as_json))
