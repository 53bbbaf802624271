"""The steps of `make test-cluster`, each with what was seen and how long it took.

The order is that of a user: install, look whether it runs, apply it again (nothing may change),
apply the examples, use them, look at them with kubectl; then everything goes away again. A step
that fails says why, with the events of the namespace, and what was installed stays to be looked at.
"""

import argparse
import base64
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.cluster.kubectl import Failed, asked, forwarded, kubectl, overlay_with_image, until

ROOT = Path(__file__).resolve().parents[2]
NAMESPACE = "peregrine"
READY_SECONDS = 300.0
USABLE_SECONDS = 5.0
SERVICES = {"orchestrator", "llm-gateway", "tools", "cache", "memory", "edge", "operator"}
QUESTION = "What is 25 * 17, what time is it in UTC, and what do our docs say about refunds?"


class Cluster:
    def __init__(self, overlay: Path) -> None:
        self._overlay = str(overlay)

    def install(self) -> str:
        kubectl("apply", "--kustomize", self._overlay)
        return "accepted"

    def become_ready(self) -> str:
        """Every Job complete, every pod ready, and none that had to be started twice."""
        _, seconds = until(
            everything_ready, seconds=READY_SECONDS, what="everything is ready", interval=0.5
        )
        found = pods()
        restarted = {
            each["metadata"]["name"]: status["restartCount"]
            for each in found
            for status in each["status"]["containerStatuses"]
            if status["restartCount"]
        }
        if restarted:
            raise Failed(f"started more than once: {restarted}")
        return f"{len(found)} pods, no restart, after {seconds:.0f} s"

    def apply_again(self) -> str:
        said = kubectl("apply", "--kustomize", self._overlay).splitlines()
        changed = [line for line in said if not line.endswith(" unchanged")]
        if changed:
            raise Failed(f"a second apply changed: {changed}")
        difference = kubectl("diff", "--kustomize", self._overlay, accept=(0, 1))
        if difference:
            raise Failed(f"kubectl diff is not empty:\n{difference[:3000]}")
        return f"{len(said)} objects unchanged, kubectl diff empty"

    def remove(self) -> str:
        kubectl("delete", "--filename", str(ROOT / "examples"), "--ignore-not-found", "--wait=true")
        started = time.monotonic()
        kubectl(
            *("delete", "--kustomize", self._overlay, "--ignore-not-found", "--wait=true"),
            seconds=READY_SECONDS,
        )
        return f"gone after {time.monotonic() - started:.0f} s"


class User:
    """Somebody with the bootstrap key, on the other side of a port-forward."""

    def __init__(self, key: str, orchestrator: int, edge: int) -> None:
        self._edge = f"http://127.0.0.1:{edge}"
        self._key = key
        self._environ = {
            **os.environ,
            "PEREGRINE_API_KEY": key,
            "PEREGRINE_ORCHESTRATOR_TARGET": f"127.0.0.1:{orchestrator}",
        }

    def chat(self, question: str, *, agent: str = "assistant") -> str:
        """What `peregrine chat` shows, in one line."""
        done = subprocess.run(
            [sys.executable, "-m", "peregrine", "chat", "--agent", agent, question],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env=self._environ,
        )
        if done.returncode:
            raise Failed(f"peregrine chat: exit {done.returncode}: {done.stderr[-2000:]}")
        return " ".join(done.stdout.split())

    def get(self, path: str, *, credential: str | None = None) -> tuple[int, bytes]:
        request = urllib.request.Request(f"{self._edge}{path}")
        if credential:
            request.add_header("Authorization", f"Bearer {credential}")
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def knock(self) -> str:
        """The edge is open to probes and the page, and to nobody without a credential."""
        seen = {
            "/readyz": self.get("/readyz")[0],
            "/": self.get("/")[0],
            "/v1/agents": self.get("/v1/agents")[0],
            "/v1/agents forged": self.get("/v1/agents", credential="pk_a_" + "b" * 43)[0],
            "/v1/agents with the key": self.get("/v1/agents", credential=self._key)[0],
        }
        if list(seen.values()) != [200, 200, 401, 401, 200]:
            raise Failed(f"the edge answers {seen}")
        return ", ".join(f"{path} {status}" for path, status in seen.items())

    def answer(self) -> str:
        text = self.chat(QUESTION)
        wanted = ("simulated model", "25 * 17 = 425", "UTC is", "✓ knowledge_search", "refunded")
        if missing := [each for each in wanted if each not in text]:
            raise Failed(f"the answer has no {missing}: {text}")
        return (
            "25 * 17 = 425, the time, and what the documents say, from a model said to be simulated"
        )

    def answer_from_the_web(self) -> str:
        text = self.chat("What is the weather in Oslo?")
        if "✓ get_weather" not in text:
            raise Failed(f"get_weather gave nothing: {text}")
        return "get_weather, applied by kubectl, answered"


def pods() -> list[dict[str, Any]]:
    """Those of Deployments; those of Jobs come and go."""
    found: list[dict[str, Any]] = asked("--namespace", NAMESPACE, "get", "pods")["items"]
    return [each for each in found if "job-name" not in each["metadata"]["labels"]]


def everything_ready() -> bool:
    if left := unready():
        raise Failed(f"waiting for {', '.join(left)}")
    return True


def unready() -> list[str]:
    found = asked("--namespace", NAMESPACE, "get", "deployments,jobs")["items"]
    names = [
        f"{each['kind']} {each['metadata']['name']}"
        for each in found
        if not any(
            condition["type"] in ("Available", "Complete") and condition["status"] == "True"
            for condition in each["status"].get("conditions", ())
        )
    ]
    ready = [
        status["ready"]
        for each in pods()
        for status in each["status"].get("containerStatuses", [{"ready": False}])
    ]
    return names if names or all(ready) else ["a pod"]


def apply_examples(user: User) -> str:
    """From the moment that kubectl is done to the first answer of an agent that was not there."""
    kubectl("apply", "--filename", str(ROOT / "examples"))
    _, usable = until(
        lambda: b'"support"' in user.get("/v1/agents", credential=user._key)[1],
        seconds=60,
        what="the agent `support` is known",
        interval=0.05,
    )
    user.chat("How do I get a refund?", agent="support")
    if usable > USABLE_SECONDS:
        raise Failed(f"the agent was usable after {usable:.1f} s, which is more than 5")
    return f"usable {usable:.2f} s after the apply, and it answers"


def look_at_examples() -> str:
    def ready() -> str:
        found = asked("get", "agents,tools")["items"]
        conditions = {
            f"{each['kind']} {each['metadata']['name']}": condition["status"]
            for each in found
            for condition in each.get("status", {}).get("conditions", ())
            if condition["type"] == "Ready"
        }
        if len(conditions) < 4 or set(conditions.values()) != {"True"}:
            raise Failed(str(conditions))
        return kubectl("get", "agents,tools")

    table, _ = until(ready, seconds=60, what="agents and tools say that they are ready")
    return f"ready:\n{table.rstrip()}"


def scrape() -> str:
    """Prometheus has heard every service of ours."""

    def up() -> set[str]:
        with forwarded(NAMESPACE, "service/prometheus", 9090) as port:
            url = f"http://127.0.0.1:{port}/api/v1/query?query=up==1"
            with urllib.request.urlopen(url, timeout=10) as answer:
                found = json.load(answer)["data"]["result"]
        heard = {each["metric"]["service"] for each in found}
        if missing := SERVICES - heard:
            raise Failed(f"not heard: {missing}")
        return heard

    heard, _ = until(up, seconds=60, what="Prometheus hears every service", interval=2)
    return f"{len(heard)} services are scraped"


def bootstrap_key() -> str:
    secret = asked("--namespace", NAMESPACE, "get", "secret", "peregrine-identity")
    return base64.b64decode(secret["data"]["BOOTSTRAP_API_KEY"]).decode()


@contextmanager
def user() -> Iterator[User]:
    with (
        forwarded(NAMESPACE, "service/orchestrator", 50051) as orchestrator,
        forwarded(NAMESPACE, "service/edge", 8080) as edge,
    ):
        yield User(bootstrap_key(), orchestrator, edge)


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def step(name: str, work: Callable[[], str]) -> None:
    started = time.monotonic()
    seen = work()
    say(f"  ok   {time.monotonic() - started:6.1f} s  {name}: {seen}")


def refuse_what_is_not_ours() -> None:
    """An installation that is there already would be removed at the end."""
    if asked("get", "namespaces", "--field-selector", f"metadata.name={NAMESPACE}")["items"]:
        raise Failed(
            f"the namespace {NAMESPACE} exists already: remove it first, or allow this run to use"
            " it with --reuse (it is removed at the end unless --keep is given)"
        )


def drive(arguments: argparse.Namespace, directory: Path) -> None:
    cluster = Cluster(overlay_with_image(ROOT, arguments.overlay, arguments.image, directory))
    if not arguments.reuse:
        refuse_what_is_not_ours()
    step("install", cluster.install)
    step("ready", cluster.become_ready)
    step("second apply", cluster.apply_again)
    with user() as somebody:
        step("edge", somebody.knock)
        step("examples", lambda: apply_examples(somebody))
        step("kubectl get agents,tools", look_at_examples)
        step("chat", somebody.answer)
        step("a declared tool", somebody.answer_from_the_web)
    step("metrics", scrape)
    step("apply with examples", cluster.apply_again)
    if arguments.keep:
        say("It stays, as you asked. To remove it:")
        say("  kubectl delete -f examples/ && kubectl delete -k k8s/overlays/dev")
    else:
        step("remove", cluster.remove)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make test-cluster", description=__doc__)
    parser.add_argument("--overlay", default="dev", help="of k8s/overlays")
    parser.add_argument("--image", default="peregrine:dev", help="as the cluster knows it")
    parser.add_argument("--keep", action="store_true", help="leave everything installed")
    parser.add_argument("--reuse", action="store_true", help="also where it is installed already")
    arguments = parser.parse_args()
    if not os.environ.get("KUBECONFIG"):
        say("test-cluster: set KUBECONFIG to the file of a cluster that may be used for this")
        return 2
    say(f"==> {kubectl('config', 'current-context').strip()}")
    with tempfile.TemporaryDirectory() as directory:
        try:
            drive(arguments, Path(directory))
        except Failed as problem:
            say(f"  FAILED  {problem}")
            say(kubectl("--namespace", NAMESPACE, "get", "pods", "--output", "wide"))
            say(
                kubectl("--namespace", NAMESPACE, "get", "events", "--sort-by=.lastTimestamp")[
                    -4000:
                ]
            )
            return 1
    say("All of it holds.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
