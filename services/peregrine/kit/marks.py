"""What was made untrue, and when: by key, by tag, or a whole group of keys.

Every change has a sequence number that grows. Whoever computes a value notes the number of that
moment, the value's *epoch*; the value is untrue when something that covers it was struck later than
that. So it does not matter when the value arrives: a slow computation cannot bring back what was
made untrue while it ran.

A mark is a tuple of names, the first of which is the owner. Marks are bounded in number: the oldest
are given up, and with them everything of that age, which costs a computation and is never wrong.
"""

from collections import OrderedDict
from collections.abc import Iterable
from hashlib import blake2b
from typing import TypeAlias

Mark: TypeAlias = tuple[str, str, str | bytes]
"""(owner, kind, target): a `TAG` by name, a `GROUP` by name, a `KEY` by its digest."""

TAG, GROUP, KEY = "t", "n", "k"

_MAX_OWNERS = 10_000


def key_digest(user: str, group: str, key: bytes) -> bytes:
    """Names one key in 16 bytes. Neither name can hold a slash, so no two keys meet."""
    return blake2b(b"%b/%b/%b" % (user.encode(), group.encode(), key), digest_size=16).digest()


class Marks:
    """Args:
    limit: marks kept at most.
    """

    __slots__ = ("_floor", "_floors", "_latest", "_limit", "_marks")

    def __init__(self, *, limit: int = 100_000) -> None:
        self._limit = limit
        # In the order of their numbers.
        self._marks: OrderedDict[Mark, int] = OrderedDict()
        # By owner: the newest number of any mark, and up to where marks were given up.
        self._latest: dict[str, int] = {}
        self._floors: dict[str, int] = {}
        self._floor = 0

    def __len__(self) -> int:
        return len(self._marks)

    def strike(self, mark: Mark, sequence: int) -> None:
        """What the mark covers is untrue unless its epoch is `sequence` or later. Numbers come in
        their order."""
        self._marks[mark] = sequence
        self._marks.move_to_end(mark)
        self._latest[mark[0]] = sequence
        if len(self._marks) > self._limit:
            (owner, _, _), given_up = self._marks.popitem(last=False)
            self._floors[owner] = given_up
        if len(self._latest) > _MAX_OWNERS:
            self.forget_before(sequence)

    def forget_before(self, sequence: int) -> None:
        """Nothing is known of what was struck up to `sequence`: what is older counts as untrue."""
        self._floor = max(self._floor, sequence)
        for names in (self._latest, self._floors):
            for owner in [owner for owner, number in names.items() if number <= self._floor]:
                del names[owner]
        while self._marks:
            mark, number = next(iter(self._marks.items()))
            if number > self._floor:
                break
            del self._marks[mark]

    def struck(
        self, owner: str, user: str, group: str, key: bytes, tags: Iterable[str], epoch: int
    ) -> bool:
        """Whether a value of that key, computed under `epoch`, was made untrue since."""
        if epoch < self._floor:
            return True
        if epoch >= self._latest.get(owner, 0):
            return False
        if epoch < self._floors.get(owner, 0):
            return True
        marks = self._marks
        if not marks:
            return False
        if marks.get((owner, GROUP, group), 0) > epoch:
            return True
        if any(marks.get((owner, TAG, tag), 0) > epoch for tag in tags):
            return True
        return marks.get((owner, KEY, key_digest(user, group, key)), 0) > epoch
