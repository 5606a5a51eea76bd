"""TVM's own auto-tuner on a whole model, for as many seconds as we get: ``python -m bench.peers.metaschedule``.

The stock flow (``relax.pipeline.static_shape_tuning_pipeline`` with weight prepacking) on the graph as our cleaning
passes leave it, which spares it TVM's slow folding. MetaSchedule knows no time limit: it runs in a process that is
ended when the time is up, and its database has what was measured by then.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tuner.environment import child_environment
from tuner.errors import UserError

_ENDLESS = 1_000_000  # trials
_AT_ONCE = 8  # trials of a task in turn; TVM's 64 would spend a short budget on a few of the tasks
_READY = "ready"  # a file of the child's: it has imported what it needs, and the time begins
_START = 600.0  # seconds after which it begins anyhow; importing TVM's tensor intrinsics alone takes about a minute
_DATABASE = ("database_workload.json", "database_tuning_record.json")


@dataclass(frozen=True)
class Prepared:
    """A model as TVM tunes it."""

    module: Any  # tvm.IRModule; its main takes the inputs, then the parameters
    params: list[Any]  # tvm tensors
    target: Any
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def tune(model: Path, records: Path, seconds: float, threads: int) -> int:
    """Fill the folder ``records``; gives the number of trials in it. Everything that it started has ended then.

    Raises:
        UserError: it failed before the time was up (``no-tuning``), or MetaSchedule lacks a package.
    """
    if find_spec("cloudpickle") is None:
        raise UserError("cloudpickle is not installed: pip install 'fusetune[bench]'", code="missing-package")
    records.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "bench.peers.metaschedule", str(model), str(records), "--threads", str(threads)]
    with (records / "log.txt").open("wb") as log:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            env=child_environment() | {"TVM_NUM_THREADS": str(threads)},
        )  # fmt: skip
        try:
            begun = time.monotonic()
            while child.poll() is None and not (records / _READY).exists() and time.monotonic() - begun < _START:
                time.sleep(0.1)
            with suppress(subprocess.TimeoutExpired):
                child.wait(seconds)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)  # its builders and runners, too
            child.wait()
    if child.returncode > 0:
        last = " ".join((records / "log.txt").read_text(errors="replace").splitlines()[-1:])
        raise UserError(f"MetaSchedule failed: {last[-300:]}", code="no-tuning")
    return trials(records)


def trials(records: Path) -> int:
    """Trials in a folder; a last line that the end cut short is taken out, for TVM cannot read it."""
    for name in _DATABASE:
        path = records / name
        text = path.read_text() if path.exists() else ""
        path.write_text(text[: text.rfind("\n") + 1])
    return len((records / _DATABASE[1]).read_text().splitlines())


def prepared(path: Path, threads: int) -> Prepared:
    """The cleaned model in Relax, its weights as parameters."""
    import tvm
    from tvm import relax
    from tvm.relax.frontend.onnx import from_onnx

    from tuner.graph.load import import_model
    from tuner.graph.onnx_io import to_onnx
    from tuner.graph.passes.registry import SLICING

    model = import_model(path, disabled=SLICING)
    module = from_onnx(to_onnx(model.graph, model.weights), keep_params_in_input=True)
    module, params = relax.frontend.detach_params(module)
    target = tvm.target.Target({"kind": "llvm", "mcpu": tvm.target.codegen.llvm_get_system_cpu(), "num-cores": threads})
    return Prepared(module, list(params.get("main", [])), target, model.graph.inputs, model.graph.outputs)


def search(model: Prepared, records: Path) -> None:
    """What the stock pipeline does to tune, without an end; its passes are those of ``compiled``."""
    import tvm
    from tvm import relax
    from tvm.s_tir.meta_schedule.relax_integration import tune_relax

    passes = (
        relax.transform.DecomposeOpsForInference(), relax.transform.CanonicalizeBindings(),
        relax.pipeline.zero_pipeline(), relax.transform.AttachAttrLayoutFreeBuffers(),
    )  # fmt: skip
    with model.target:
        module = tvm.transform.Sequential(passes)(model.module)
        tune_relax(module, {}, model.target, str(records), _ENDLESS, num_trials_per_iter=_AT_ONCE)


def compiled(model: Prepared, records: Path) -> tuple[Any, list[Any]]:
    """A Relax virtual machine with the best records, and the parameters to call its main with."""
    import tvm
    from tvm import relax

    pipeline = relax.pipeline.static_shape_tuning_pipeline(
        total_trials=0, target=model.target, work_dir=str(records), cpu_weight_prepack=True
    )
    module = pipeline(model.module)
    machine = relax.VirtualMachine(tvm.compile(module, model.target), tvm.cpu())
    return machine, list(machine["main_transform_params"](model.params))


def main(arguments: Sequence[str] | None = None) -> int:
    """Tune until somebody ends it."""
    parser = argparse.ArgumentParser(prog="python -m bench.peers.metaschedule", description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("records", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args(arguments)
    import_module("tvm.s_tir.tensor_intrin")
    (options.records / _READY).touch()
    search(prepared(options.model, options.threads), options.records)
    return 0


if __name__ == "__main__":
    sys.exit(main())
