"""All custom resources as last seen, from watches and lists alike; the newest version wins.

The view also knows what resources have to do with one another: which of them claim the same name in
a service, and which agents name a tool. So each change tells whom else it concerns.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from peregrine_operator.kubernetes import Key

Claim = tuple[str, str]
"""(kind, name in the service)."""


@dataclass(frozen=True, slots=True)
class Object:
    """One custom resource. `version` is its resourceVersion, 0 where it is no number."""

    key: Key
    uid: str
    version: int
    generation: int
    created: str
    deleting: bool
    finalizers: tuple[str, ...]
    body: Mapping[str, Any]

    @property
    def spec(self) -> Mapping[str, Any]:
        return _mapping(self.body.get("spec"))

    @property
    def status(self) -> Mapping[str, Any]:
        return _mapping(self.body.get("status"))

    @property
    def claim(self) -> Claim:
        """What the model, or a caller, knows it by."""
        name = self.key.name
        if self.key.kind == "Tool":
            name = str(self.spec.get("name") or name)
        elif self.key.kind == "CachePolicy":
            name = str(self.spec.get("namespace") or name)
        elif self.key.kind == "ToolPool":
            name = f"{self.key.namespace}/{self.spec.get('deployment')}"
        return self.key.kind, name

    @property
    def tools(self) -> tuple[str, ...]:
        """The tools that an agent names."""
        named = self.spec.get("tools") if self.key.kind == "Agent" else None
        return tuple(map(str, named)) if isinstance(named, list) else ()

    @property
    def seniority(self) -> tuple[str, str, str]:
        """Of two that claim the same, the one for which this is less was first."""
        return self.created, self.key.namespace, self.key.name


def read(kind: str, body: Mapping[str, Any]) -> Object:
    metadata = _mapping(body.get("metadata"))
    return Object(
        key=Key(kind, str(metadata.get("namespace", "")), str(metadata.get("name", ""))),
        uid=str(metadata.get("uid", "")),
        version=number(metadata.get("resourceVersion")),
        generation=int(metadata.get("generation") or 0),
        created=str(metadata.get("creationTimestamp", "")),
        deleting=bool(metadata.get("deletionTimestamp")),
        finalizers=tuple(metadata.get("finalizers") or ()),
        body=body,
    )


def number(version: object) -> int:
    """Versions of one API server are numbers that grow; others compare as equal."""
    return int(version) if isinstance(version, str) and version.isdecimal() else 0


class View:
    """Methods that change it return the keys that the change may concern."""

    def __init__(self) -> None:
        self._objects: dict[Key, Object] = {}
        self._claims: defaultdict[Claim, set[Key]] = defaultdict(set)
        self._users: defaultdict[str, set[Key]] = defaultdict(set)

    def __len__(self) -> int:
        return len(self._objects)

    def __iter__(self) -> Iterator[Object]:
        return iter(list(self._objects.values()))

    def get(self, key: Key) -> Object | None:
        return self._objects.get(key)

    def of(self, kind: str) -> list[Object]:
        return [each for each in self._objects.values() if each.key.kind == kind]

    def owner(self, claim: Claim) -> Object | None:
        """Whose the name is: the oldest that is not about to go."""
        rivals = (self._objects[key] for key in self._claims.get(claim, ()))
        living = [each for each in rivals if not each.deleting]
        return min(living, key=lambda each: each.seniority, default=None)

    def users(self, tool: str) -> set[Key]:
        """The agents that name a tool."""
        return set(self._users.get(tool, ()))

    def put(self, new: Object) -> set[Key]:
        old = self._objects.get(new.key)
        if old is not None and old.uid == new.uid and new.version < old.version:
            return set()
        if old is not None and old.version == new.version and old.version and old.uid == new.uid:
            return set()
        concerned = self._unlink(old) if old is not None else set()
        self._objects[new.key] = new
        self._claims[new.claim].add(new.key)
        for tool in new.tools:
            self._users[tool].add(new.key)
        return concerned | self._around(new)

    def remove(self, gone: Object) -> set[Key]:
        old = self._objects.get(gone.key)
        if old is None or old.uid != gone.uid:
            return set()
        del self._objects[gone.key]
        return self._unlink(old) - {gone.key}

    def replace(
        self, kind: str, namespaces: Iterable[str | None], listed: list[Object], version: int
    ) -> set[Key]:
        """What a list of a kind in these namespaces showed; None means in all of them.

        What is newer than the list, known from a watch, stays.
        """
        within = set(namespaces)
        concerned: set[Key] = set()
        for each in listed:
            concerned |= self.put(each)
        present = {each.key for each in listed}
        for old in self.of(kind):
            covered = None in within or old.key.namespace in within
            if covered and old.key not in present and old.version <= (version or old.version):
                concerned |= self.remove(old)
        return concerned

    def _unlink(self, old: Object) -> set[Key]:
        concerned = self._around(old)
        self._claims[old.claim].discard(old.key)
        if not self._claims[old.claim]:
            del self._claims[old.claim]
        for tool in old.tools:
            self._users[tool].discard(old.key)
            if not self._users[tool]:
                del self._users[tool]
        return concerned

    def _around(self, one: Object) -> set[Key]:
        return {one.key} | self._claims.get(one.claim, set())


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
