"""The Dockerfile: for the classic builder, from the lock, no host named, a user by number."""

import re

from tests.contract.repository import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()
CODE = "\n".join(line for line in DOCKERFILE.splitlines() if not line.startswith("#"))
IGNORED = (ROOT / ".dockerignore").read_text().splitlines()


def test_the_base_is_an_argument_and_everything_stands_on_it() -> None:
    assert re.search(r"\AARG BASE=\S+$", CODE.strip(), re.MULTILINE)
    stages = re.findall(r"^FROM (\S+)(?: AS (\w+))?$", CODE, re.MULTILINE)
    assert {base for base, _ in stages} <= {"${BASE}", *(name for _, name in stages)}
    assert stages[-1][0] == "${BASE}"


def test_the_classic_builder_understands_it() -> None:
    assert not re.search(r"--mount|--link|--chmod|<<|^# *syntax", DOCKERFILE, re.MULTILINE)
    known = {"ARG", "FROM", "ENV", "RUN", "COPY", "WORKDIR", "USER", "ENTRYPOINT"}
    joined = re.sub(r"\\\n", " ", CODE)
    assert {line.split()[0] for line in joined.splitlines() if line.strip()} <= known


def test_what_is_installed_is_what_the_lock_says() -> None:
    assert "--require-hashes --no-deps -r /build/requirements.lock" in CODE
    assert re.search(r"--no-deps --no-build-isolation \\\s+--target /opt/peregrine /build", CODE)
    assert "://" not in CODE


def test_it_runs_as_a_numbered_user_and_imports_nothing_by_accident() -> None:
    final = CODE.rpartition("FROM ${BASE}")[2]
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", final, re.MULTILINE)
    assert "PYTHONSAFEPATH=1" in final
    assert 'ENTRYPOINT ["python", "-m", "peregrine"]' in final
    assert "pip" not in final


def test_sources_are_copied_after_libraries_so_that_these_are_kept() -> None:
    final = CODE.rpartition("FROM ${BASE}")[2]
    copied = re.findall(r"^COPY --from=\w+ (\S+)", final, re.MULTILINE)
    assert copied == ["/opt/libraries", "/opt/peregrine"]


def test_the_context_holds_what_is_copied_and_no_more() -> None:
    wanted = {
        name
        for line in re.findall(r"^COPY (?!--from)(.+) \S+$", CODE, re.MULTILINE)
        for name in line.split()
    }
    assert all((ROOT / name).exists() for name in wanted)
    assert IGNORED[1] == "*"
    assert {line[1:] for line in IGNORED if line.startswith("!")} == wanted
