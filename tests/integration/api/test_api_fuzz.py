"""The whole API fuzzed along its own document: no 5xx, and every answer is one that the document announces."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import schemathesis
from conftest import Live, running
from hypothesis import HealthCheck, settings
from schemathesis import Case
from schemathesis.openapi import from_url
from schemathesis.schemas import BaseSchema
from schemathesis.specs.openapi.checks import positive_data_acceptance

# Whether a device or a strategy exists is not for the document to say.
LEFT_OUT = [positive_data_acceptance]
QUICK = settings(
    max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None
)
LONG = settings(QUICK, max_examples=1000, derandomize=False)


@dataclass
class Target:
    """A server and what it holds."""

    live: Live
    jobs: list[str] = field(default_factory=list)
    model: str = ""
    turn: int = 0

    def __post_init__(self) -> None:
        service = self.live.service
        self.model = service.model()
        self.jobs = [service.finished().id, service.running()[0].id, service.job().id]

    def check(self, case: Case) -> None:
        """Send the case, every second time with ids that exist, and judge the answer."""
        self.turn += 1
        if self.turn % 2 and case.path_parameters:
            ids = {"id": self.model if "/models/" in case.path else self.jobs[self.turn // 2 % 3], "trial": 1}
            case.path_parameters = {
                **case.path_parameters,
                **{k: v for k, v in ids.items() if k in case.path_parameters},
            }
        # Streams of jobs that do not end would not end either.
        headers = {**self.live.auth, "Accept": "application/json"}
        case.call_and_validate(headers=headers, excluded_checks=LEFT_OUT, timeout=30)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with running(tmp_path_factory.mktemp("fuzz")) as live:
        yield Target(live)


@pytest.fixture(scope="module")
def document(target: Target) -> BaseSchema:
    found: BaseSchema = from_url(f"{target.live.url}/api/v1/openapi.json", headers=target.live.auth)
    return found


# Each upload starts a process that reads it: what is sent there is tried one by one in test_api_upload.
schema: Any = schemathesis.pytest.from_fixture("document").exclude(method="POST", path="/api/v1/models")


@schema.parametrize()
@QUICK
def test_no_request_breaks_the_service(case: Case, target: Target) -> None:
    target.check(case)


@pytest.mark.slow
@schema.parametrize()
@LONG
def test_no_request_breaks_the_service_in_a_long_run(case: Case, target: Target) -> None:
    target.check(case)
