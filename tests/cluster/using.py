"""What a user does with it: the page, a chat, resources of their own, a look at the metrics."""

import base64
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from tests.cluster.installing import ROOT
from tests.cluster.kubectl import NAMESPACE, Failed, asked, forwarded, kubectl, until

USABLE_SECONDS = 5.0
SERVICES = {"orchestrator", "llm-gateway", "tools", "cache", "memory", "edge", "operator"}
QUESTION = "What is 25 * 17, what time is it in UTC, and what do our docs say about refunds?"


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

    def run(self, message: str, conversation: str | None = None) -> tuple[str, str]:
        """The ids of a run that was read to its end, and of its conversation."""
        body = {"agent": "assistant", "message": message}
        if conversation:
            body["conversation_id"] = conversation
        request = urllib.request.Request(
            f"{self._edge}/v1/chat/stream",
            json.dumps(body).encode(),
            {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            events = [
                json.loads(line[6:])
                for line in answer.read().decode().splitlines()
                if line.startswith("data: ")
            ]
        if "RUN_STATE_SUCCEEDED" not in json.dumps(events[-1]):
            raise Failed(f"the run ended so: {events[-1]}")
        started = events[0]["run_started"]
        return str(started["run_id"]), str(started["conversation_id"])

    def remembers(self, run: str, conversation: str) -> str:
        """The run can be read again, and the conversation goes on where it was."""
        status, events = self.get(f"/v1/runs/{run}/events", credential=self._key)
        if status != 200 or b"6 * 7" not in events or b"42" not in events:
            raise Failed(f"the run cannot be read: {status} {events[-500:]!r}")
        self.run("Thank you.", conversation)
        path = f"/v1/conversations/{conversation}/messages"
        status, body = self.get(path, credential=self._key)
        found = json.loads(body).get("messages", ()) if status == 200 else ()
        if "My name is Ada" not in body.decode() or len(found) < 4:
            raise Failed(f"the conversation is not what it was: {status} {body[-500:]!r}")
        return f"a run was read again, and its conversation goes on ({len(found)} messages)"

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
