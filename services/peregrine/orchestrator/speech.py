"""What the model says in one call: deltas for the readers, whole blocks for the journal."""

from peregrine.api.common.v1 import common_pb2 as common
from peregrine.api.orchestrator.v1 import orchestrator_pb2 as pb
from peregrine.orchestrator.journal import Journal


class Speech:
    """Text that came together leaves as one event.

    Args:
      live: off, the text leaves when the call has ended.
    """

    def __init__(self, step: int, journal: Journal, *, live: bool) -> None:
        self._step = step
        self._journal = journal
        self._live = live
        self._pending: list[str] = []
        self._thoughts: list[str] = []
        self._text: list[str] = []
        self.blocks: list[common.ContentBlock] = []

    def say(self, text: str) -> None:
        self._pending.append(text)

    def think(self, text: str) -> None:
        self._thoughts.append(text)

    def add(self, block: common.ContentBlock) -> None:
        self.flush()
        self._close_text()
        self.blocks.append(block)

    def flush(self, *, end: bool = False) -> None:
        if self._thoughts and (self._live or end):
            thought = pb.ThinkingDelta(step=self._step, text="".join(self._thoughts))
            self._thoughts.clear()
            self._journal.emit(thinking_delta=thought)
        if self._pending:
            text = "".join(self._pending)
            self._pending.clear()
            self._text.append(text)
            if self._live:
                self._journal.emit(text_delta=pb.TextDelta(step=self._step, text=text))
        if end:
            self._close_text()
            if not self._live:
                self._say_all()

    def _say_all(self) -> None:
        for block in self.blocks:
            if block.WhichOneof("block") == "text":
                self._journal.emit(text_delta=pb.TextDelta(step=self._step, text=block.text))

    def _close_text(self) -> None:
        if self._text:
            self.blocks.append(common.ContentBlock(text="".join(self._text)))
            self._text.clear()
