"""Is it right? A lowered model and its schedules, checked on the CPU of this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tvm

from tuner.build.compile import pipeline
from tuner.build.verify import Verification, compare, softmax_outputs
from tuner.errors import CandidateError, InternalError
from tuner.gpu.bundle_run import arguments, relative_error
from tuner.gpu.emulate import emptied, emulate
from tuner.gpu.explore import Scheduled
from tuner.gpu.host import host
from tuner.gpu.lower import Lowered, Task
from tuner.gpu.precision import FP32, TF32
from tuner.gpu.rounded import rounded
from tuner.graph.ir import Graph
from tuner.kernels.spreading import default_schedule
from tuner.measure.contest import Contestant, run_once

LIMIT = 1e-4  # on max|y - ref| / max|ref| of one schedule: only the order of sums may differ
HALF_LIMIT = 2e-3  # the same of one that writes float16: two of its last places
MOST_OPERATIONS = 8e9  # of a kernel that is emulated: about a second for each 10^9


@dataclass(frozen=True)
class Reference:
    """A task's inputs and the output that TVM's own CPU code computes for them."""

    inputs: Sequence[np.ndarray]
    output: np.ndarray


def reference_of(task: Task, seed: int) -> Reference:
    """Run a task on this CPU, its loops merely spread over the cores."""
    cpu = host()
    function = default_schedule(task.module["main"], cpu.cores, cpu)
    library = tvm.compile(tvm.IRModule({"main": function}), target=tvm.target.Target(cpu.target()))
    inputs = arguments(task.args, seed)
    shape, dtype = task.args[-1]
    out = tvm.runtime.tensor(np.zeros(shape, dtype))
    library["main"](*(tvm.runtime.tensor(x) for x in inputs), out)
    return Reference(inputs, np.asarray(out.numpy()))


def check_schedule(
    scheduled: Scheduled, task: Task, reference: Reference, most: float = MOST_OPERATIONS
) -> float | None:
    """The relative error of a schedule, emulated here; None with more than ``most`` operations, or if it cannot be.

    Of a schedule for tensor cores the loops are run that they stand for.

    Raises CandidateError (``wrong``) when it computes something else.
    """
    counts = scheduled.looked.counts
    if counts.operations + counts.blocks * emptied(scheduled.function) > most:
        return None
    shape, dtype = task.args[-1]
    try:
        emulated = emulate(scheduled.plain or scheduled.function, tvm.target.Target(host().target()))
    except (CandidateError, tvm.error.InternalError, ValueError):
        return None  # a form of schedule that emulation does not know says nothing about it
    error = relative_error(emulated.run(reference.inputs, shape, dtype), reference.output)
    if error > (HALF_LIMIT if dtype == "float16" else LIMIT):
        raise CandidateError(f"On the CPU its output differs from the reference by {error:.2g}.", code="wrong")
    return error


def check_lowering(
    lowered: Lowered, graph: Graph, path: Path, inputs: Sequence[Mapping[str, np.ndarray]], limit: float,
    precision: str = FP32,
) -> Verification:  # fmt: skip
    """The lowered model, run on this CPU, against ONNX Runtime. Raises InternalError when it cannot be compared.

    In tf32 the operands of all sums of products are rounded: on the GPU it can only be more accurate than that.
    """
    cpu = host()
    seen = rounded if precision == TF32 else lambda function: function
    module = lowered.scheduled(
        {s: default_schedule(seen(lowered.module[s]), cpu.cores, cpu) for task in lowered.tasks for s in task.symbols}
    )
    executable = tvm.compile(module, target=tvm.target.Target(cpu.target()), relax_pipeline=pipeline())
    machine = tvm.relax.VirtualMachine(executable, tvm.cpu())
    parameters = [tvm.runtime.tensor(p) for p in lowered.parameters]
    outputs = list(graph.outputs)
    ours = []
    for given in inputs:
        arrays = [tvm.runtime.tensor(np.ascontiguousarray(given[name])) for name in graph.inputs]
        result = machine["main"](*arrays, *parameters)
        values = [result] if len(outputs) == 1 else list(result)
        ours.append({name: value.numpy() for name, value in zip(outputs, values, strict=True)})
    try:
        reference = run_once(Contestant("onnxruntime", "onnxruntime", path), inputs, cpu.cores)
    except CandidateError as error:
        raise InternalError(f"The result could not be checked: {error}", code="not-verified") from error
    return compare(ours, reference, softmax_outputs(graph), limit)
