"""A cache inside the process: bounded in bytes, a time to live per entry, evicting by SIEVE.

SIEVE (Zhang et al., NSDI '24) keeps entries in the order in which they came. A hit only sets a mark
and moves nothing. To make room, a hand walks from the oldest entry to the newest: a marked entry
loses its mark and stays, the first unmarked one goes, and the hand rests where it stopped. So what
was asked for once, by a scan say, goes soon, and what is asked for again stays, for one bit an
entry. Every operation is O(1); making room for a large entry takes as many steps as entries that
leave or lose their mark.

Time is an argument, in seconds on whatever clock the caller likes, as long as it is one clock.
"""

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

# What an entry costs besides its value: the node, its place in the dictionary, a usual key.
ENTRY_BYTES = 400


class _Node(Generic[K, V]):
    """An entry in the ring: after the newest comes the ring's fixed place, then the oldest."""

    __slots__ = ("expires", "key", "marked", "newer", "older", "size", "value")

    key: K
    value: V
    newer: "_Node[K, V]"
    older: "_Node[K, V]"

    def __init__(self) -> None:
        self.newer = self.older = self
        self.size = 0
        self.expires = 0.0
        self.marked = False


class NearCache(Generic[K, V]):
    """For one event loop or thread.

    Args:
      max_bytes: what all entries may be together, `ENTRY_BYTES` for each of them included.
      on_evicted: told the key of each entry that made room for others.
    """

    __slots__ = ("_hand", "_nodes", "_on_evicted", "_ring", "bytes", "evictions", "max_bytes")

    def __init__(self, *, max_bytes: int, on_evicted: Callable[[K], object] | None = None) -> None:
        self.max_bytes = max_bytes
        self._on_evicted = on_evicted
        self.bytes = 0
        self.evictions = 0
        self._nodes: dict[K, _Node[K, V]] = {}
        # The ring's one fixed place: its `older` is the newest entry, its `newer` the oldest.
        self._ring: _Node[K, V] = _Node()
        self._hand = self._ring

    def __len__(self) -> int:
        """Entries that take room, also those whose time is over and that nobody asked for since."""
        return len(self._nodes)

    def get(self, key: K, now: float) -> V | None:
        """The value, unless its time is over."""
        node = self._nodes.get(key)
        if node is None:
            return None
        if now >= node.expires:
            self._remove(node)
            return None
        node.marked = True
        return node.value

    def put(self, key: K, value: V, *, size: int, expires: float) -> bool:
        """Keeps the value until `expires`. False when it is larger than all the room there is; then
        an older value of the key is gone, too."""
        node = self._nodes.get(key)
        if node is not None:
            self._remove(node)
        size += ENTRY_BYTES
        if size > self.max_bytes:
            return False
        while self.bytes + size > self.max_bytes:
            self._evict()
        node = _Node()
        node.key, node.value, node.size, node.expires = key, value, size, expires
        ring = self._ring
        node.newer, node.older = ring, ring.older
        ring.older.newer = node
        ring.older = node
        self._nodes[key] = node
        self.bytes += size
        return True

    def discard(self, key: K) -> bool:
        """Whether it was there."""
        node = self._nodes.get(key)
        if node is None:
            return False
        self._remove(node)
        return True

    def clear(self) -> None:
        # Nodes that hold each other would wait for the garbage collector.
        for node in self._nodes.values():
            node.newer = node.older = self._ring
        self._nodes.clear()
        self._ring.newer = self._ring.older = self._hand = self._ring
        self.bytes = 0

    def _evict(self) -> None:
        hand = self._hand
        while True:
            if hand is self._ring:
                hand = hand.newer
            if not hand.marked:
                break
            hand.marked = False
            hand = hand.newer
        self._hand = hand
        key = hand.key
        self._remove(hand)
        self.evictions += 1
        if self._on_evicted is not None:
            self._on_evicted(key)

    def _remove(self, node: _Node[K, V]) -> None:
        if self._hand is node:
            self._hand = node.newer
        node.older.newer = node.newer
        node.newer.older = node.older
        node.newer = node.older = self._ring
        del self._nodes[node.key]
        self.bytes -= node.size
