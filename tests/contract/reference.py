"""The reference pages, made from what they describe: the protos and the source.

    python -m tests.contract.reference

writes `docs/api.md`, `docs/settings.md` and `docs/metrics.md`, and the CRDs (see
`tests.contract.crds`); a test compares the committed pages with what it makes.
"""

import ast
import importlib
import itertools
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from peregrine.kit import settings
from peregrine.kit.settings import Row
from tests.contract import crds, metric_rules
from tests.contract.completeness import NOT_BUILT_YET
from tests.contract.protos import Contract, Rpc, compiled
from tests.contract.repository import PROTOS, ROOT, dotted, product

API, SETTINGS, METRICS = (ROOT / "docs" / name for name in ("api.md", "settings.md", "metrics.md"))
MADE = "<!-- Made by `python -m tests.contract.reference`; edit the source instead. -->"

ABOUT_API = """\
What each call does, whether it may be repeated, and how it fails: the comments of the protos in
[protos/peregrine/api](../protos/peregrine/api), where the messages are. A call fails with a gRPC
code and a `google.rpc.ErrorInfo` whose reason is stable; below they stand as CODE / REASON. Calls
that are *not built yet* answer UNIMPLEMENTED."""
ABOUT_SETTINGS = """\
Variables are read once, at the start; a service that finds any of them wrong names all that are,
and exits with 2. An empty variable counts as unset. Each service is a process of its own, so the
same name may have another default in another service."""
ABOUT_METRICS = """\
In Prometheus format on the port that `PEREGRINE_METRICS_PORT` names, for each process its own.
Label sets exist from the moment an agent or tool is applied, so no load is a present 0. Times are
seconds, sizes bytes."""

# What services have in common is told once, and first.
SHARED = {
    "ServeSettings": "Every service",
    "InnerSettings": "Services that others call by gRPC",
    "PostgresSettings": "Services with tables",
    "RedisSettings": "Services with logs",
}


def declared_settings() -> list[tuple[str, str]]:
    """(module, class) of each settings class, in the order of modules."""
    return sorted(
        (one.name, node.name)
        for one in product()
        for node in ast.walk(one.tree)
        if isinstance(node, ast.ClassDef) and _declares_settings(node)
    )


def described(name: str, cls: str) -> type:
    found: type = getattr(importlib.import_module(name), cls)
    return found


def api_page(contract: Contract) -> str:
    parts = ["# API", MADE, ABOUT_API]
    for file in contract.files:
        if not file.services:
            continue
        parts += [
            f"## {file.package}",
            f"[{file.path}](../protos/{file.path})",
            _prose(file.comment),
        ]
        for service in file.services:
            parts += [f"### {service.name.rpartition('.')[2]}", _prose(service.comment)]
            parts += [_call(rpc) for rpc in service.rpcs]
    return "\n\n".join(parts) + "\n"


def settings_page() -> str:
    parts = ["# Settings", MADE, ABOUT_SETTINGS]
    shared = {
        row.variable
        for cls in SHARED
        for row in settings.describe(described("peregrine.kit.settings", cls))
    }
    first = [("peregrine.kit.settings", cls) for cls in SHARED]
    # A part of a service's settings is told with the whole.
    parts_of_others = {
        each for name, cls in declared_settings() for each in described(name, cls).__mro__[1:]
    }
    for name, cls in [*first, *(pair for pair in declared_settings() if pair not in first)]:
        whole = described(name, cls)
        if cls not in SHARED and whole in parts_of_others:
            continue
        rows = settings.describe(whole)
        if cls in SHARED:
            inherited = {
                row.variable
                for base in whole.__mro__[1:]
                if base.__name__ in SHARED
                for row in settings.describe(base)
            }
            own = [row for row in rows if row.variable not in inherited]
        else:
            own = [row for row in rows if _differs(row, shared)]
        if own:
            parts += [f"## {SHARED.get(cls) or _title(name)}", _table(own)]
    return "\n\n".join(parts) + "\n"


def metrics_page() -> str:
    parts = ["# Metrics", MADE, ABOUT_METRICS]
    metrics = sorted(
        metric_rules.declared(product()), key=lambda metric: (metric.unit, metric.name)
    )
    for unit, group in itertools.groupby(metrics, key=lambda metric: metric.unit):
        lines = ["| metric | kind | labels | what |", "|---|---|---|---|"]
        for metric in group:
            labels = ", ".join(f"`{label}`" for label in metric.labels)
            what = metric.help.rstrip(".")
            lines.append(f"| `{metric.name}` | {metric.kind.lower()} | {labels} | {what} |")
        parts += [
            f"## {'Shared' if unit == 'kit' else _title(f'peregrine.{unit}')}",
            "\n".join(lines),
        ]
    return "\n\n".join(parts) + "\n"


def _call(rpc: Rpc) -> str:
    stream = " (a stream)" if rpc.server_streaming else ""
    missing = ", *not built yet*" if rpc.short in NOT_BUILT_YET else ""
    return f"**{rpc.name}**{stream}{missing}: {_prose(rpc.comment)}"


def _prose(comment: str) -> str:
    return re.sub(r"[ \n]*\n[ ]*", "\n", comment).replace("|", "or").replace("\n", " ").strip()


def _differs(row: Row, shared: set[str]) -> bool:
    """A shared setting is repeated only where the service has a default of its own."""
    return row.variable not in shared or row.variable == "PEREGRINE_LISTEN"


def _table(rows: list[Row]) -> str:
    lines = ["| variable | default | meaning |", "|---|---|---|"]
    for row in rows:
        default = "required" if row.required else f"`{row.default}`" if row.default else "unset"
        secret = " Secret." if row.secret else ""
        lines.append(f"| `{row.variable}` | {default} | {row.help.replace('|', 'or')}.{secret} |")
    return "\n".join(lines)


def _title(name: str) -> str:
    if name == "peregrine.local.stand_in":
        return "stand-in"
    unit = name.split(".")[1]
    return {"llm_gateway": "llm-gateway", "cli": "The command line", "local": "`make run`"}.get(
        unit, unit
    )


def _declares_settings(node: ast.ClassDef) -> bool:
    """A class with a `setting(...)`, or one that only puts together others' settings."""
    fields = (one.value for one in node.body if isinstance(one, ast.AnnAssign))
    return node.name == "Settings" or any(
        isinstance(value, ast.Call) and dotted(value.func) in {"setting", "settings.setting"}
        for value in fields
    )


def pages() -> Iterator[tuple[Path, str]]:
    with tempfile.TemporaryDirectory() as scratch:
        contract = compiled(PROTOS, Path(scratch))
    yield API, api_page(contract)
    yield from crds.pages(crds.comments_of(contract))
    yield SETTINGS, settings_page()
    yield METRICS, metrics_page()


if __name__ == "__main__":
    for path, text in pages():
        path.write_text(text, encoding="utf-8")
