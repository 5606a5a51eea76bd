"""The whole API fuzzed along its own document: no 5xx, and every answer is one that the document announces."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Live

CONFIG = """
# Whether a device or a strategy exists is not for the document to say.
[checks]
positive_data_acceptance.enabled = false

# Headers that nobody knows are no reason to refuse a request.
[[operations]]
include-name = "GET /api/v1/jobs/{id}/events"
checks.negative_data_rejection.enabled = false
"""
# Each of these starts a process: what they are sent is tried one by one in other tests.
HEAVY = ("POST /api/v1/models", "GET /api/v1/jobs/{id}/log")


def fuzz(live: Live, folder: Path, *options: str) -> None:
    """Run schemathesis in a process of its own against a server that holds jobs in several states."""
    service = live.service
    service.finished()
    service.running()
    service.job()
    folder.mkdir()
    (folder / "schemathesis.toml").write_text(CONFIG)
    command = [
        str(Path(sys.executable).with_name("schemathesis")), "run", f"{live.url}/api/v1/openapi.json",
        "--header", f"Authorization: Bearer {live.token}",
        "--header", "Accept: application/json",  # streams of jobs that do not end would not end either
        "--seed", "1", "--continue-on-failure", "--warnings", "off", "--suppress-health-check", "all",
        "--request-timeout", "60", "--no-color", *options,
    ]  # fmt: skip
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]


def test_no_request_breaks_the_service(live_either: Live, tmp_path: Path) -> None:
    without = [word for name in HEAVY for word in ("--exclude-name", name)]
    fuzz(live_either, tmp_path / "fuzz", "--phases", "examples,coverage,fuzzing", "--max-examples", "3", *without)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_no_request_breaks_the_service_in_a_long_run(live: Live, tmp_path: Path) -> None:
    """With sequences of requests too, and with the requests that start processes."""
    fuzz(live, tmp_path / "fuzz", "--phases", "examples,coverage,fuzzing,stateful", "--max-examples", "100")
