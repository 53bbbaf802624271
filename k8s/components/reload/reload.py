"""Runs a service from a writable copy of its source, and starts it again when the copy changes.

    python reload.py -m peregrine orchestrator

For development in a cluster. The installed packages are copied once to /source/services and
/source/operator, laid out as in the repository, so that a file synced from there lands on its copy,
and stand first on the import path. Twice a second the times and sizes of the files that the service
can import are compared (not those of other services, which never import one another). When some
differ, and nothing more came for a moment (a branch was changed, an editor saves all),
the service is told to end, gets a second word when it takes too long over its calls, and starts
anew.

A service that ends by itself, by a mistake in what was just synced as a rule, is started again
after the next change, or when some seconds have passed. Signals are passed on; the end of this
process waits for the service's, and has its exit code.

Only the standard library: it runs in Peregrine's image, but is no part of it.
"""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

SOURCE = Path("/source")
ROOTS: Mapping[str, str] = {"peregrine": "services", "peregrine_operator": "operator"}
LOOK_SECONDS = 0.5
SETTLE_SECONDS = 0.2
HURRY_SECONDS = 2.0
KILL_SECONDS = 8.0
AGAIN_SECONDS = 5.0

# Services that are a part of another package than one of their own name.
HOMES: Mapping[str, str] = {"stand-in": "local"}

Seen = Mapping[str, tuple[int, int]]


def copy_packages(source: Path, packages: Mapping[str, Path]) -> None:
    """Copies what is not there yet; what is there may have been synced before a restart."""
    for name, installed in packages.items():
        place = source / ROOTS[name] / name
        if place.exists():
            continue
        half = place.with_name(f".{name}")
        shutil.rmtree(half, ignore_errors=True)
        shutil.copytree(installed, half)
        half.rename(place)


def installed_packages() -> dict[str, Path]:
    found = {}
    for name in ROOTS:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations:
            found[name] = Path(next(iter(spec.submodule_search_locations)))
    return found


def foreign(source: Path, arguments: Sequence[str]) -> frozenset[str]:
    """Directories that what `-m …` runs never imports from: the packages of other services."""
    module, *rest = arguments[arguments.index("-m") + 1 :]
    mains = (source / ROOTS["peregrine"] / "peregrine").glob("*/main.py")
    found = {str(main.parent) for main in mains}
    if module == "peregrine" and rest:
        home = HOMES.get(rest[0], rest[0].replace("-", "_"))
        found = {path for path in found if os.path.basename(path) != home}
        found.add(str(source / ROOTS["peregrine_operator"]))
    return frozenset(found)


def look(source: Path, without: frozenset[str] = frozenset()) -> Seen:
    """Time and size of every file below; compiled ones do not count."""
    seen: dict[str, tuple[int, int]] = {}
    waiting = [str(source)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        if entry.name != "__pycache__" and entry.path not in without:
                            waiting.append(entry.path)
                    else:
                        state = entry.stat(follow_symlinks=False)
                        seen[entry.path] = (state.st_mtime_ns, state.st_size)
        except FileNotFoundError:
            continue  # gone between two looks
    return seen


class Supervisor:
    """The loop: one child, one wish to end."""

    def __init__(
        self, arguments: Sequence[str], *, source: Path, environ: Mapping[str, str]
    ) -> None:
        self._command = [sys.executable, *arguments]
        self._source = source
        self._without = foreign(source, arguments)
        path = [str(source / root) for root in ROOTS.values()]
        if environ.get("PYTHONPATH"):
            path.append(environ["PYTHONPATH"])
        self._environ = {**environ, "PYTHONPATH": os.pathsep.join(path)}
        self._ending = threading.Event()

    def end(self, *_: object) -> None:
        """A handler of signals."""
        self._ending.set()

    def run(self) -> int:
        seen = self._look()
        while True:
            child = subprocess.Popen(self._command, env=self._environ)  # noqa: S603 - our own
            before, seen = seen, self._until_changed(child, seen)
            if self._ending.is_set():
                return self._stop(child, hurry=False)
            if child.poll() is None:
                changed = sorted(
                    name for name in {*before, *seen} if before.get(name) != seen.get(name)
                )
                shown = ", ".join(os.path.relpath(name, self._source) for name in changed[:3])
                more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
                _say(f"changed: {shown}{more}; starting again")
                self._stop(child, hurry=True)
            else:
                _say(f"ended with {child.returncode}; starting again")

    def _look(self) -> Seen:
        return look(self._source, self._without)

    def _until_changed(self, child: "subprocess.Popen[bytes]", seen: Seen) -> Seen:
        """Returns what is there when it differs and has settled, or when the child is to start."""
        left = AGAIN_SECONDS
        while not self._ending.wait(LOOK_SECONDS):
            now = self._look()
            if now != seen:
                return self._settled(now)
            if child.poll() is not None:
                left -= LOOK_SECONDS
                if left <= 0:
                    return now
        return seen

    def _settled(self, seen: Seen) -> Seen:
        while not self._ending.wait(SETTLE_SECONDS):
            now = self._look()
            if now == seen:
                break
            seen = now
        return seen

    def _stop(self, child: "subprocess.Popen[bytes]", *, hurry: bool) -> int:
        """Ends it in order; in a hurry calls in flight get two seconds, not the drain time."""
        if child.poll() is None:
            child.send_signal(signal.SIGTERM)
        if not hurry:
            return child.wait()
        for seconds, number in ((HURRY_SECONDS, signal.SIGTERM), (KILL_SECONDS, signal.SIGKILL)):
            try:
                return child.wait(seconds)
            except subprocess.TimeoutExpired:
                child.send_signal(number)
        return child.wait()


def _say(text: str) -> None:
    sys.stderr.write(f"reload: {text}\n")
    sys.stderr.flush()


def main(arguments: Sequence[str], *, source: Path = SOURCE) -> int:
    copy_packages(source, installed_packages())
    supervisor = Supervisor(arguments, source=source, environ=os.environ)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, supervisor.end)
    return supervisor.run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
