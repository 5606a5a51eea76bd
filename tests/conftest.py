"""What all tests share: with FUSETUNE_FORBID_SKIPS=1 (set by .ci/run) a skipped test is a failure, GPU tests excepted.

A skip is a convenience on a developer's machine; where everything can be installed it would only hide a broken set-up.
"""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

FORBID_SKIPS = os.environ.get("FUSETUNE_FORBID_SKIPS") == "1"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    # An expected failure reports itself as skipped too, and is none.
    if FORBID_SKIPS and report.skipped and not hasattr(report, "wasxfail") and not item.get_closest_marker("gpu"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: skipped, which FUSETUNE_FORBID_SKIPS=1 forbids: {_reason(report.longrepr)}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A whole module that skips itself (``importorskip``) never gets as far as a test report."""
    report = yield
    if FORBID_SKIPS and report.skipped:
        report.outcome = "failed"
        report.longrepr = (
            f"{collector.nodeid}: skipped, which FUSETUNE_FORBID_SKIPS=1 forbids: {_reason(report.longrepr)}"
        )
    return report


def _reason(longrepr: object) -> str:
    return str(longrepr[2]) if isinstance(longrepr, tuple) else str(longrepr)
