"""What bundles bring back, read with care."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tuner.errors import UserError
from tuner.gpu.bundle import read_results
from tuner.gpu.spec import GPUS
from tuner.types import FailureKind

DEVICE = GPUS["rtx3090"].device()
KNOBS = {"space": 0, "tile0": 3}


def results(folder: Path, **changes: Any) -> Path:
    one = {"key": "k", "task": "t", "template": "metaschedule", "version": 1, "knobs": KNOBS, "predicted": 2e-6,
           "samples": [3e-6, 1e-6, 2e-6], "failure": None, "max_rel_error": 0.0}  # fmt: skip
    two = one | {"knobs": {"space": 1}, "samples": [], "failure": {"kind": "timeout", "message": "It did not end."}}
    data = {"format": 1, "model": {"sha256": "m"}, "arch": "sm_86", "device": {"model": DEVICE.model}}
    path = folder / "results.json"
    path.write_text(json.dumps(data | {"results": [one, two]} | changes))
    return path


def test_results_become_trials(tmp_path: Path) -> None:
    found = read_results([results(tmp_path)], "m", "sm_86", DEVICE)
    good, bad = found.of("t")
    assert (good.seconds, good.predicted, good.candidate.knobs) == (2e-6, 2e-6, KNOBS)
    assert bad.failure is not None and bad.failure.kind is FailureKind.TIMEOUT
    assert found.of("other") == []
    assert len(read_results([results(tmp_path)] * 2, "m", "sm_86", DEVICE).trials) == 2


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"model": {"sha256": "other"}}, "other-model"),
        ({"arch": "sm_90"}, "other-device"),
        ({"device": {"model": "NVIDIA A10"}}, "other-device"),
        ({"format": 7}, "bad-results"),
        ({"results": [{"task": "t"}]}, "bad-results"),
        ({"results": None}, "bad-results"),
    ],
)
def test_results_of_something_else_are_refused(tmp_path: Path, changes: dict[str, Any], code: str) -> None:
    with pytest.raises(UserError) as raised:
        read_results([results(tmp_path, **changes)], "m", "sm_86", DEVICE)
    assert raised.value.code == code
    with pytest.raises(UserError, match="no results"):
        read_results([tmp_path / "absent.json"], "m", "sm_86", DEVICE)
