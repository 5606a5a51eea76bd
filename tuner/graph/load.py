"""import_model: an ONNX file or its bytes -> Graph and weights, by way of a confined child process.

The parent trusts nothing in the file: it only starts ``tuner.graph.child``, waits, and maps the arrays it left.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from tuner.environment import child_environment
from tuner.errors import InternalError, UserError
from tuner.graph.attrs import numpy_dtype
from tuner.graph.ir import Graph
from tuner.graph.open_shapes import Dims
from tuner.graph.passes.registry import check_names
from tuner.graph.passes.report import PassReport

_GIB = 1 << 30
_ROOT = Path(__file__).resolve().parents[2]  # where the package ``tuner`` lies, for the child


@dataclass(frozen=True)
class Limits:
    """What importing one model may cost. Sizes in bytes."""

    file: int = 2 * _GIB  # the model file, and all constants together wherever they are stored
    memory: int = 12 * _GIB  # of the child process
    seconds: float = 120.0  # wall-clock, and CPU time, of the child process
    tensor: int = 2 * _GIB  # any single tensor, activations too


@dataclass(frozen=True, eq=False)
class ImportedModel:
    """A cleaned model. ``weights`` has one read-only array per Graph constant, mapped from a deleted file."""

    graph: Graph
    weights: Mapping[str, np.ndarray] = field(repr=False)
    sha256: str  # of the file's bytes, without external data
    name: str  # the file's name without ".onnx"; "model" for bytes
    passes: tuple[PassReport, ...] = ()
    declared: Mapping[str, Dims | None] = field(default_factory=dict)  # shapes of the inputs as the file has them
    beside: tuple[str, ...] = ()  # files with weights below the model's folder


def import_model(
    source: Path | bytes,
    *,
    shapes: Mapping[str, tuple[int, ...]] = MappingProxyType({}),
    disabled: Collection[str] = (),
    limits: Limits = Limits(),
    external: bool = True,
) -> ImportedModel:
    """Parse and clean an ONNX model.

    Args:
        source: path of the file (external data is looked for in its folder only), or its bytes.
        shapes: input name -> static shape, for inputs with symbolic dimensions.
        disabled: names of cleaning passes to leave out, see tuner.graph.passes.registry.
        limits: what the import may cost.
        external: whether a file may keep weights in files beside it. False for a file that somebody else sent: it
            could name whatever else lies in its folder.

    Raises:
        UserError: everything that is wrong with the file, the shapes or the pass names; ``code`` says what.
        InternalError: the child process could not be started or its result not be read.
    """
    check_names(disabled)
    with tempfile.TemporaryDirectory(prefix="fusetune-import-") as scratch:
        folder = Path(scratch)
        path, name = _locate(source, folder, limits)
        request = {
            "path": str(path),
            "external": external and not isinstance(source, bytes),
            "shapes": {k: [int(d) for d in v] for k, v in shapes.items()},
            "disabled": sorted(disabled),
            "memory": limits.memory,
            "cpu": ceil(limits.seconds),
            "tensor": limits.tensor,
            "constants": limits.file,
            "parent": os.getpid(),
        }
        (folder / "request.json").write_text(json.dumps(request))
        result = _run(folder, limits)
        graph = Graph.from_json(result["graph"])
        weights = _map_weights(folder / "weights.bin", graph, result["offsets"])
    passes = tuple(PassReport(**report) for report in result["passes"])
    declared, beside = MappingProxyType(result["declared"]), tuple(result["beside"])
    return ImportedModel(graph, weights, result["sha256"], name, passes, declared, beside)


def _locate(source: Path | bytes, folder: Path, limits: Limits) -> tuple[Path, str]:
    """The file to read and the model's name; bytes are written to ``folder``."""
    if isinstance(source, bytes):
        _check_file_size(len(source), limits)
        path = folder / "model.onnx"
        path.write_bytes(source)
        return path, "model"
    path = Path(source)
    try:
        if not path.is_file():
            what = "is not a regular file" if path.exists() else "does not exist"
            raise UserError(f"The model file '{path}' {what}.", code="model-unreadable")
        with path.open("rb"):
            size = path.stat().st_size
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise UserError(f"The model file '{path}' cannot be read: {reason}.", code="model-unreadable") from error
    _check_file_size(size, limits)
    return path.absolute(), path.name.removesuffix(".onnx") or "model"


def _check_file_size(size: int, limits: Limits) -> None:
    if size > limits.file:
        raise UserError(
            f"The model file has {size:,} bytes, above the limit of {limits.file:,}.", code="model-too-large"
        )


def _run(folder: Path, limits: Limits) -> dict[str, Any]:
    """Run the child to its end and return its result. Raises UserError for what it, or its death, says."""
    paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    began = time.monotonic()
    with (folder / "stderr").open("wb") as stderr:
        child = subprocess.Popen(
            [sys.executable, "-m", "tuner.graph.child", str(folder)],
            cwd=folder,
            env=child_environment() | {"PYTHONPATH": os.pathsep.join(paths)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
        )
        try:
            code = child.wait(limits.seconds)
        except subprocess.TimeoutExpired as error:
            raise _too_slow(limits) from error
        finally:
            if child.returncode is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
    if code in (-signal.SIGXCPU, -signal.SIGKILL):
        if time.monotonic() - began < limits.seconds - 1:
            raise _too_hungry()  # too early for the limit on CPU time: the system ran out of memory
        raise _too_slow(limits)
    if not (folder / "result.json").exists():
        tail = (folder / "stderr").read_bytes()[-2000:].decode(errors="replace").strip()
        if "bad_alloc" in tail or "MemoryError" in tail:
            raise _too_hungry()
        if code < 0:
            raise UserError(
                f"The model crashed its import ({signal.Signals(-code).name}); the file is probably corrupt.",
                code="import-crashed",
            )
        raise InternalError(f"The import process ended with code {code}: {tail[-500:] or 'it said nothing'}.")
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    if "error" in result:
        said = result["error"]
        raise UserError(said["message"], code=said["code"], hint=said["hint"])
    return result


def _too_hungry() -> UserError:
    return UserError("The model needs more memory than the import may use.", code="model-memory")


def _too_slow(limits: Limits) -> UserError:
    return UserError(f"The model's import took more than {limits.seconds:g} seconds.", code="import-timeout")


def _map_weights(path: Path, graph: Graph, offsets: Mapping[str, int]) -> Mapping[str, np.ndarray]:
    """Read-only arrays over the mapped file, which stays readable after its folder is gone."""
    buffer: Any = b""
    if path.stat().st_size:
        with path.open("rb") as file:
            buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    arrays = {}
    for name, constant in graph.constants.items():
        dtype = numpy_dtype(constant.dtype)
        if constant.elements:
            flat = np.frombuffer(buffer, dtype=dtype, count=constant.elements, offset=offsets[name])
        else:
            flat = np.zeros(0, dtype=dtype)
        arrays[name] = flat.reshape(constant.shape)
    return MappingProxyType(arrays)
