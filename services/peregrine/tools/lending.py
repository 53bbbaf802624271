"""Secrets that tools are lent by name; never those that Peregrine itself lives by.

A declared tool names a secret, and the worker sends it where the declaration says. So whoever may
apply tools could have any file of the worker's secrets sent to a host of their own, also the key
that services sign identities with, and then speak for every tenant. These names are refused when a
tool is applied and once more when it is called, in whatever spelling: as variables `identity.keys`
and `IDENTITY_KEYS` are one.
"""

import re
from collections.abc import Mapping

from peregrine.kit.settings import Problem, Secret, SettingsError, secret_ref

# Every secret that a setting refers to by name, or that the manifests mount.
OURS = frozenset({"ANTHROPIC_API_KEY", "BOOTSTRAP_API_KEY", "CA_CRT", "IDENTITY_KEYS"})


def is_ours(name: str) -> bool:
    return re.sub(r"[^A-Za-z0-9]", "_", name).upper() in OURS


def lend(name: str, environ: Mapping[str, str]) -> Secret:
    """The secret for a tool.

    Raises:
      SettingsError: it is not there, or it is Peregrine's own.
    """
    if is_ours(name):
        wrong = f"the secret {name!r} is Peregrine's own and not for tools"
        raise SettingsError([Problem(name, wrong, "give the tool a secret of its own")])
    return secret_ref(name, environ)
