"""The client library of Peregrine.

    async with PeregrineClient("127.0.0.1:50051") as client:
        async for event in client.chat("assistant", "What is 25 * 17?"):
            print(event.text_delta.text, end="")

One class per service that applications speak to, each an async context manager over a small pool
of warm connections. Events, runs, agents and the like are the protobuf messages of `peregrine.api`;
what fails raises `peregrine.kit.errors` (`NotFound`, `Unavailable`, …) with the service's reason.

Where identity is on, `PeregrineClient(target, api_key="pk_…", tls=True)` says who calls. The other
services take no keys: their clients are given the key and an `Exchange`.

`PeregrineClient.chat` and `watch_run` read on by position when their connection is lost, so that a
reader sees every event once, in order. `Transcript` folds events into text, tool calls and state.
`resources` reads the custom resources of `peregrine.dev/v1alpha1` from YAML; `jsonl` writes
messages as JSON.
"""

from peregrine.client import jsonl, resources
from peregrine.client._cache import CacheClient
from peregrine.client._cached import cached
from peregrine.client._connection import Tls
from peregrine.client._exchange import Exchange, Exchanged
from peregrine.client._identity import IdentityClient
from peregrine.client._memory import MemoryClient
from peregrine.client._orchestrator import PeregrineClient
from peregrine.client._reading import Patience
from peregrine.client._tools import ToolsClient
from peregrine.client._transcript import ToolActivity, Transcript, collect, text_of
from peregrine.client._values import Cached, CacheKey, Look
from peregrine.kit.context import Identity

__all__ = [
    "CacheClient",
    "CacheKey",
    "Cached",
    "Exchange",
    "Exchanged",
    "Identity",
    "IdentityClient",
    "Look",
    "MemoryClient",
    "Patience",
    "PeregrineClient",
    "Tls",
    "ToolActivity",
    "ToolsClient",
    "Transcript",
    "cached",
    "collect",
    "jsonl",
    "resources",
    "text_of",
]
