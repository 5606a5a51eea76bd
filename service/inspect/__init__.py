"""What is in a model: read in a child process, so that neither the file nor TVM ever enters the server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.errors import FusetuneError, InternalError, UserError
from tuner.types import Device

SECONDS = 180.0  # for reading a model and planning it


@dataclass(frozen=True)
class Contents:
    """An inspected model."""

    layers: int
    macs: int
    inputs: tuple[Mapping[str, Any], ...]  # {"name", "dtype", "shape", "open"}: open = the file leaves sizes to the user
    outputs: tuple[Mapping[str, Any], ...]
    graph: Mapping[str, Any]  # Graph.to_json()
    details: Mapping[str, Any]  # operators, what has no template, the questions its default plan asks


def inspect(path: Path, device: Device, shapes: Mapping[str, tuple[int, ...]] | None = None) -> Contents:
    """Read a model file. Sizes that it leaves open are guessed, unless ``shapes`` gives them.

    Raises:
        UserError: the file is no usable model; ``code`` says why.
        InternalError: the child failed (``inspect-failed``).
    """
    request = {"path": str(path), "device": device.to_json(), "shapes": {k: list(v) for k, v in (shapes or {}).items()}}
    child = subprocess.Popen(
        [sys.executable, "-m", "service.inspect.child"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )  # fmt: skip
    try:
        out, err = child.communicate(json.dumps(request).encode() + b"\n", timeout=SECONDS)
    except subprocess.TimeoutExpired as error:
        raise UserError(f"The model could not be read within {SECONDS:g} s.", code="import-timeout") from error
    finally:
        if child.returncode is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
    try:
        answer = json.loads(out)
    except ValueError as error:
        raise InternalError(
            f"The model could not be inspected: {err.decode(errors='replace').strip()[-400:]}", code="inspect-failed"
        ) from error
    if "error" in answer:
        raise _error(answer["error"])
    return Contents(**answer)


def _error(said: Mapping[str, str]) -> FusetuneError:
    kind = UserError if said["kind"] == "user" else InternalError
    return kind(said["message"], code=said["code"], hint=said["hint"])
