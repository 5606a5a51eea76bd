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
    module, detached = relax.frontend.detach_params(module)
    module, params = _with_numbers(module, list(detached.get("main", [])))
    target = tvm.target.Target({"kind": "llvm", "mcpu": tvm.target.codegen.llvm_get_system_cpu(), "num-cores": threads})
    return Prepared(module, params, target, model.graph.inputs, model.graph.outputs)


def _with_numbers(module: Any, params: list[Any]) -> tuple[Any, list[Any]]:
    """The module with single numbers as constants, and what is left of its parameters.

    The bounds of a Clip as parameters would be computed beside the convolution, which MetaSchedule's rules break on.
    """
    from tvm import relax

    given = module["main"].params[len(module["main"].params) - len(params) :]
    numbers = {var.name: value for var, value in zip(given, params, strict=True) if not value.shape}
    return relax.transform.BindParams("main", numbers)(module), [value for value in params if value.shape]


def search(model: Prepared, records: Path) -> None:
    """What the stock pipeline does to tune, without an end; its passes are those of ``compiled``.

    The tasks have their turns one after the other, those with most to compute first. The stock scheduler goes by
    expected gains, but writes no trial down before all tasks have had a turn, which short budgets do not see.
    """
    import tvm
    from tvm import relax
    from tvm.s_tir.meta_schedule.builder import LocalBuilder
    from tvm.s_tir.meta_schedule.relax_integration import extract_tasks, extracted_tasks_to_tune_contexts
    from tvm.s_tir.meta_schedule.tune import tune_tasks

    passes = (
        relax.transform.DecomposeOpsForInference(), relax.transform.CanonicalizeBindings(),
        relax.pipeline.zero_pipeline(), relax.transform.AttachAttrLayoutFreeBuffers(),
    )  # fmt: skip
    with model.target:
        module = tvm.transform.Sequential(passes)(model.module)
        builder = LocalBuilder(max_workers=int(model.target.attrs["num-cores"]), f_build=_build)
        ordered = sorted(extract_tasks(module, model.target, {}), key=_operations, reverse=True)
        tasks, weights = extracted_tasks_to_tune_contexts(ordered, str(records))
        tune_tasks(
            tasks=tasks, task_weights=weights, work_dir=str(records), max_trials_global=_ENDLESS,
            num_trials_per_iter=_AT_ONCE, builder=builder, task_scheduler="round-robin",
        )  # fmt: skip


def _operations(task: Any) -> float:
    """Of all calls of the task's kernel in the model."""
    from tvm.s_tir.analysis import estimate_tir_flops

    return float(task.weight * estimate_tir_flops(task.dispatched[0]))


def _build(module: Any, target: Any, _: Any) -> Any:
    """TVM's own, but for the import of its tensor intrinsics: half a minute for every few candidates.

    The builder begins new processes for each lot, and schedules in float32 use none of them.
    """
    from tvm.driver import build
    from tvm.s_tir.transform import RemoveWeightLayoutRewriteBlock

    return build(RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)(module), target=target)


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
