"""An artifact for a GPU timed as a whole, in a process of its own: ``python -m tuner.gpu.timing FOLDER``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from tuner.environment import child_environment
from tuner.errors import DeviceError
from tuner.gpu.bundle_run import die_with_parent

LIMIT = 120.0  # s that loading and timing may take; a model that hangs the GPU costs this
WARM, SAMPLES, SECONDS = 5, 200, 2.0
_ENVIRONMENT = {"TVM_USE_RUNTIME_LIB": "1", "TVM_FFI_DISABLE_TORCH_C_DLPACK": "1"}  # neither compiler nor PyTorch
_ROOT = Path(__file__).resolve().parents[2]


def time_artifact(folder: Path, limit: float = LIMIT) -> dict[str, Any]:
    """``{"samples": [seconds], "how": str, "why": [str]}``. Raises DeviceError (``not-measurable``) saying why not."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tuner.gpu.timing", str(folder.resolve())], capture_output=True, text=True,
            timeout=limit, check=False, cwd=_ROOT, env=child_environment() | _ENVIRONMENT,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise DeviceError(f"The model did not run to its end within {limit:g} s.", code="not-measurable") from None
    try:
        answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        said = (done.stderr.strip().splitlines() or [""])[-1][:300]
        raise DeviceError(f"The process that ran the model ended with {done.returncode}: {said}",
                          code="not-measurable") from None  # fmt: skip
    if "failed" in answer:
        raise DeviceError(answer["failed"], code=answer["code"])
    return answer


def _time(folder: Path) -> dict[str, Any]:
    from tuner.build.artifact import load

    model: Any = load(folder)
    random = np.random.default_rng(0)
    given = {
        entry["name"]: random.standard_normal(entry["shape"]).astype(entry["dtype"])
        if np.dtype(entry["dtype"]).kind == "f" else np.ones(entry["shape"], entry["dtype"])
        for entry in model.manifest["inputs"]
    }  # fmt: skip
    run = model.prepare(given)
    samples: list[float] = []
    for _ in range(WARM):
        run()
    model.device.sync()
    end = time.perf_counter() + SECONDS
    while len(samples) < 3 or (len(samples) < SAMPLES and time.perf_counter() < end):
        began = time.perf_counter()
        run()
        model.device.sync()
        samples.append(time.perf_counter() - began)
    return {"samples": samples, "how": model.how, "why": list(model.why)}


def main() -> int:
    die_with_parent()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not get between
    try:
        answer = _time(Path(sys.argv[1]))
    except Exception as error:  # whatever it is, it is why there is no time
        text = " ".join(str(error).split()) or type(error).__name__
        answer = {"failed": text[:500], "code": getattr(error, "code", "not-measurable")}
    print(json.dumps(answer), file=answers, flush=True)
    return 0


if __name__ == "__main__":
    code = main()
    os._exit(code)  # a context that was spoiled takes whom it can along when it is taken down
