"""Every service that keeps rows refuses a role that is above row-level security."""

import os
import subprocess
import sys

import pytest

from tests.support.dsn import as_superuser
from tests.support.stack import REPOSITORY, SERVICES


@pytest.mark.parametrize("service", ["orchestrator", "memory", "tools"])
def test_a_superuser_dsn_makes_a_service_refuse_to_start(
    service: str, migrated_dsn: str, redis_url: str
) -> None:
    environ = os.environ | {
        "PEREGRINE_AUTH_REQUIRED": "false",
        "PEREGRINE_LISTEN": "127.0.0.1:0",
        "PEREGRINE_POSTGRES_DSN": as_superuser(migrated_dsn),
        "PEREGRINE_REDIS_URL": redis_url,
        "PYTHONPATH": str(SERVICES),
    }
    ended = subprocess.run(
        [sys.executable, "-m", "peregrine", service],
        env=environ,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    (line,) = [each for each in ended.stderr.splitlines() if "superuser" in each]
    assert "plain role" in line
    assert "Traceback" not in ended.stderr
