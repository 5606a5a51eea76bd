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

from tuner.environment import child_environment
from tuner.errors import FusetuneError, InternalError, UserError
from tuner.types import Device, JobSpec

SECONDS = 180.0  # for reading a model and planning it


@dataclass(frozen=True)
class Contents:
    """An inspected model."""

    layers: int
    macs: int
    # {"name", "dtype", "shape", "open", "declared"}: open = the file leaves sizes to the user and "shape" is a guess;
    # declared = the shape in the file, with names or null for open sizes, null where not even the rank is known
    inputs: tuple[Mapping[str, Any], ...]
    outputs: tuple[Mapping[str, Any], ...]
    graph: Mapping[str, Any]  # Graph.to_json()
    details: Mapping[str, Any]  # operators, what has no template, the questions its default plan asks


def inspect(path: Path, device: Device, shapes: Mapping[str, tuple[int, ...]] | None = None) -> Contents:
    """Read a model file. Sizes that it leaves open are guessed, unless ``shapes`` gives them.

    Raises:
        UserError: the file is no usable model; ``code`` says why.
        InternalError: the child failed (``inspect-failed``).
    """
    given = {name: list(shape) for name, shape in (shapes or {}).items()}
    return Contents(**_ask({"path": str(path), "device": device.to_json(), "shapes": given}))


def check_plan(path: Path, spec: JobSpec, device: Device) -> None:
    """Read a model as the job would, and see that the job's plan fits it.

    Raises:
        UserError: ``bad-plan``, or what is wrong with the model under the job's shapes.
        InternalError: the child failed (``inspect-failed``).
    """
    _ask({"path": str(path), "device": device.to_json(), "spec": spec.to_json()})


def _ask(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """The child's answer. It dies with us: a pipe that only we hold open is its lifeline."""
    theirs, lifeline = os.pipe()
    try:
        with open(theirs, "rb"):
            child = subprocess.Popen(
                [sys.executable, "-m", "service.inspect.child", str(theirs)], pass_fds=(theirs,),
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
                env=child_environment(),
            )  # fmt: skip
        try:
            out, err = child.communicate(json.dumps(request).encode() + b"\n", timeout=SECONDS)
        except subprocess.TimeoutExpired as error:
            raise UserError(f"The model could not be read within {SECONDS:g} s.", code="import-timeout") from error
        finally:
            if child.returncode is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.communicate()
    finally:
        os.close(lifeline)
    try:
        answer = json.loads(out)
    except ValueError as error:
        raise InternalError(
            f"The model could not be inspected: {err.decode(errors='replace').strip()[-400:]}", code="inspect-failed"
        ) from error
    if "error" in answer:
        raise _error(answer["error"])
    found: Mapping[str, Any] = answer
    return found


def _error(said: Mapping[str, str]) -> FusetuneError:
    kind = UserError if said["kind"] == "user" else InternalError
    return kind(said["message"], code=said["code"], hint=said["hint"])
