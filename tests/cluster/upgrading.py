"""Another version of every service under load, and a backup that brings a conversation back."""

import subprocess
import uuid
from pathlib import Path
from typing import IO

from tests.cluster.callers import Callers
from tests.cluster.installing import ROOT, Cluster
from tests.cluster.kubectl import NAMESPACE, Failed, kubectl
from tests.cluster.using import user

DEPLOYMENTS = ("memory", "cache", "llm-gateway", "tools", "orchestrator", "edge", "operator")
STORES = ("orchestrator", "tools", "cache", "memory")
ROLLED_SECONDS = 300
PART = "app.kubernetes.io/part-of=peregrine"


def upgrade(crowd: Callers, overlay: Path) -> str:
    """As docs/operations.md says: the Jobs of before away, apply, wait; runs and calls go on."""
    crowd.forget()
    crowd.rates(runs=0.7, calls=1.0, reads=0.5)
    kubectl("--namespace", NAMESPACE, "delete", "jobs", "--selector", PART)
    kubectl("apply", "--kustomize", str(overlay))
    for name in DEPLOYMENTS:
        kubectl(
            *("--namespace", NAMESPACE, "rollout", "status", f"deployment/{name}"),
            f"--timeout={ROLLED_SECONDS}s",
            seconds=ROLLED_SECONDS + 10,
        )
    Cluster(overlay).become_ready()
    crowd.quiet()
    return crowd.finished(at_least=20)


def back_up_and_restore(directory: Path) -> str:
    """Everything is lost but a dump; afterwards the conversation is there, and goes on."""
    conversation = str(uuid.uuid4())
    with user() as somebody:
        run = somebody.run("My name is Ada. What is 6 * 7?", conversation)
    dump = directory / "peregrine.dump"
    with dump.open("wb") as file:
        _in_postgres("pg_dump", "--format=custom", "--dbname=peregrine", into=file)
    for name in STORES:
        kubectl("--namespace", NAMESPACE, "scale", f"deployment/{name}", "--replicas=0")
    kubectl("--namespace", NAMESPACE, "delete", "pod", "--selector", _POSTGRES, "--wait=true")
    kubectl(
        *("--namespace", NAMESPACE, "rollout", "status", "deployment/postgres", "--timeout=120s"),
        seconds=130,
    )
    with dump.open("rb") as file:
        _in_postgres("pg_restore", "--exit-on-error", "--dbname=peregrine", given=file)
    for name in STORES:
        kubectl("--namespace", NAMESPACE, "scale", f"deployment/{name}", "--replicas=1")
    Cluster(ROOT).become_ready()
    with user() as somebody:
        remembered = somebody.remembers(run, conversation)
    return f"a dump of {dump.stat().st_size / 1024:.0f} KiB; {remembered}"


_POSTGRES = "app.kubernetes.io/name=postgres"


def _in_postgres(
    program: str, *arguments: str, into: IO[bytes] | None = None, given: IO[bytes] | None = None
) -> None:
    """As the superuser, whom row-level security does not hold back."""
    command = ["kubectl", "--namespace", NAMESPACE, "exec", "deployment/postgres"]
    command += [] if given is None else ["--stdin"]
    command += ["--", program, "--host=/tmp", "--username=postgres", *arguments]
    done = subprocess.run(
        command,
        stdin=given,
        stdout=into or subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
        timeout=300,
    )
    if done.returncode:
        raise Failed(f"{program}: {done.stderr.decode()[-2000:]}")
