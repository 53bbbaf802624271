"""A reader that goes on elsewhere when its orchestrator is gone, as a client should."""

import contextlib

import grpc

from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from tests.support.stack import Stack


class Reader:
    """Reads one run from `at`, and goes on elsewhere when its orchestrator is gone."""

    def __init__(self, running: Stack, run_id: str, at: int) -> None:
        self._running = running
        self._run_id = run_id
        self._at = at
        self.events: list[pb.RunEvent] = []

    async def read(self) -> list[pb.RunEvent]:
        while not (self.events and self.events[-1].HasField("run_finished")):
            request = pb.WatchRunRequest(run_id=self._run_id)
            if self.events:
                request.after_sequence = self.events[-1].sequence
                request.after_epoch = self.events[-1].epoch
            orchestrator = self._running.orchestrators[self._at]
            with contextlib.suppress(grpc.aio.AioRpcError):
                async for response in orchestrator.runs.WatchRun(request, timeout=60):
                    self.events += response.events
            self._at = 1 - self._at
        return self.events
