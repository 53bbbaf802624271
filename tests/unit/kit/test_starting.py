"""An attempt is made again for what may yet come, and for nothing else."""

import pytest

from peregrine.kit import starting
from peregrine.kit.errors import PeregrineError, StartRefused, Unavailable
from peregrine.kit.migrations import MigrationError, SchemaBehind


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting, "_AGAIN_SECONDS", 0.0)


class Attempts:
    def __init__(self, *outcomes: PeregrineError | str) -> None:
        self.left = list(outcomes)

    async def __call__(self) -> str:
        outcome = self.left.pop(0)
        if isinstance(outcome, str):
            return outcome
        raise outcome


AWAY = Unavailable("PostgreSQL cannot be reached", reason="POSTGRES_UNAVAILABLE")
BEHIND = SchemaBehind("the memory schema is at version 0 and 1 is needed")


async def test_it_waits_for_the_database_and_then_for_its_tables() -> None:
    attempt = Attempts(AWAY, AWAY, BEHIND, "there")
    assert await starting.patiently(attempt, seconds=60) == "there"


@pytest.mark.parametrize("error", [AWAY, BEHIND])
async def test_without_time_the_first_error_passes(error: PeregrineError) -> None:
    attempt = Attempts(error, "never")
    with pytest.raises(type(error)):
        await starting.patiently(attempt, seconds=0)
    assert attempt.left == ["never"]


@pytest.mark.parametrize(
    "error",
    [StartRefused("the role is a superuser"), MigrationError("an applied file was changed")],
)
async def test_what_no_time_can_mend_passes_at_once(error: PeregrineError) -> None:
    attempt = Attempts(AWAY, error, "never")
    with pytest.raises(type(error), match=error.message):
        await starting.patiently(attempt, seconds=60)
    assert attempt.left == ["never"]
