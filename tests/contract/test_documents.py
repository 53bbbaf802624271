"""The pages name what is there: files, targets of make, decisions."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract import reference
from tests.contract.repository import ROOT, tracked_files

PAGES = [path for path in tracked_files() if path.suffix == ".md"]
DECISIONS = ROOT / "docs" / "adr"
SECTIONS = ("Context", "Decision", "Consequences", "Alternatives")


def broken_links(text: str, directory: Path) -> Iterator[str]:
    """Relative targets of links and pictures that do not exist."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        path = target.partition("#")[0]
        if path and "://" not in path and not (directory / path).exists():
            yield target


def unknown_targets(text: str, makefile: str) -> set[str]:
    """`make x` in code that the Makefile has no target for."""
    code = re.findall(r"^```.*?^```|`[^`\n]+`", text, flags=re.MULTILINE | re.DOTALL)
    named = {name for part in code for name in re.findall(r"\bmake ([a-z][a-z-]*)", part)}
    return named - set(re.findall(r"^([a-z][a-z-]*):", makefile, flags=re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_page_points_to_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert list(broken_links(text, page.parent)) == []
    assert unknown_targets(text, (ROOT / "Makefile").read_text()) == set()


def test_a_broken_link_and_an_unknown_target_are_found(tmp_path: Path) -> None:
    assert list(broken_links("see [this](gone.md#part) and [that](https://x.dev/y)", tmp_path))
    assert unknown_targets("run `make dinner` or make sure", "run: x\n") == {"dinner"}


def test_the_reference_says_what_the_source_says() -> None:
    for page, text in reference.pages():
        assert page.read_text(encoding="utf-8") == text, "run `python -m tests.contract.reference`"


def test_continuous_integration_runs_what_the_readme_says() -> None:
    assert "\nmake test " in (ROOT / "README.md").read_text()
    assert "make test" in (ROOT / ".ci" / "run").read_text().splitlines()[-1]
    for workflow in (ROOT / ".github" / "workflows").glob("*.yml"):
        assert "- run: .ci/run\n" in workflow.read_text()


def test_decisions_are_numbered_indexed_and_of_one_form() -> None:
    pages = sorted(DECISIONS.glob("[0-9]*.md"))
    index = (DECISIONS / "README.md").read_text()
    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1))
    for page in pages:
        text = page.read_text()
        title = re.match(rf"# {page.name[:4]}: (.+)\n", text)
        assert title and title[1] in index and f"({page.name})" in index
        assert [name for name in SECTIONS if f"\n## {name}\n" not in text] == []
        assert re.search(r"^Status: (proposed|accepted|superseded by \[)", text, re.MULTILINE)


def test_the_changelog_is_kept() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    assert "\n## [Unreleased]\n" in text
    headings = set(re.findall(r"^### (.+)$", text, re.MULTILINE))
    assert headings <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
