"""Callers inside the cluster, to be sent to a pod: they chat without pause until they are told to stop.

    kubectl exec -i deploy/simulator -- python -c "$(cat crowd.py)" < what to say

The first line of standard input is the API key; its end is the sign to stop. One line of JSON is the
answer: how many chats ended with an answer, and what happened to the others. It uses the client
library as an application would, so a lost connection is read on, and nothing else is forgiven.
"""

import asyncio
import json
import sys

from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from peregrine.client import PeregrineClient
from peregrine.kit.errors import PeregrineError

CALLERS = 4
QUESTIONS = (
    "What is 25 * 17?",
    "What do our docs say about refunds?",
    "What is the weather in Oslo?",
)


class Tally:
    def __init__(self) -> None:
        self.answered = 0
        self.failed: list[str] = []
        self.lost: list[str] = []

    async def chat(self, client: PeregrineClient, question: str) -> None:
        state = 0
        try:
            async for event in client.chat("assistant", question):
                if event.HasField("run_finished"):
                    state = event.run_finished.state
        except PeregrineError as error:
            self.failed.append(f"{error.reason}: {error.message}")
            return
        if state == pb.RUN_STATE_SUCCEEDED:
            self.answered += 1
        else:
            self.failed.append(f"ended as {pb.RunState.Name(state)}")


async def main() -> None:
    key = sys.stdin.readline().strip()
    tally, stopping = Tally(), asyncio.Event()

    async def caller(client: PeregrineClient, number: int) -> None:
        while not stopping.is_set():
            await tally.chat(client, QUESTIONS[number % len(QUESTIONS)])
            number += 1

    client = PeregrineClient(
        "dns:///orchestrator:50051",
        api_key=key,
        tls=False,
        on_lost=lambda error: tally.lost.append(error.reason),
    )
    async with client, asyncio.TaskGroup() as callers:
        for number in range(CALLERS):
            callers.create_task(caller(client, number))
        await asyncio.to_thread(sys.stdin.read)
        stopping.set()
    sys.stdout.write(json.dumps(vars(tally)) + "\n")


if __name__ == "__main__":
    asyncio.run(main())
