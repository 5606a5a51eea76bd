"""Programs executed with the TVM runtime: what they compute, on this CPU, against TVM's virtual machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tvm
from onnx import TensorProto, helper, numpy_helper

from tests.integration.gpu.gpu_models import write_network
from tuner.build.compile import pipeline
from tuner.errors import CandidateError, DeviceError
from tuner.gpu.executing import GRAPH, PLAIN, Execution, Launched, check_memory
from tuner.gpu.host import host
from tuner.gpu.loading import function_of
from tuner.gpu.lower import Lowered, lower
from tuner.gpu.program import Program
from tuner.gpu.reading import read_program
from tuner.gpu.sidebyside import arranged, in_turn
from tuner.graph.load import import_model
from tuner.kernels.spreading import default_schedule
from tuner.plan.arranging import Timed


def write_branches(path: Path) -> Path:
    """A convolution, then a 1x1 beside a 3x3 one, concatenated; a split whose halves are multiplied; a reshape."""
    random = np.random.default_rng(1)

    def weights(name: str, *shape: int) -> Any:
        return numpy_helper.from_array((0.2 * random.standard_normal(shape)).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"]),
        helper.make_node("Conv", ["a", "w2"], ["b"]),
        helper.make_node("Conv", ["a", "w3"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Concat", ["b", "c"], ["d"], axis=1),
        helper.make_node("Split", ["d", "halves"], ["e", "f"], axis=1),
        helper.make_node("Mul", ["e", "f"], ["g"]),
        helper.make_node("Reshape", ["g", "flat"], ["h"]),
        helper.make_node("MatMul", ["h", "w4"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "branches",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5]),
         helper.make_tensor_value_info("d", TensorProto.FLOAT, [1, 16, 6, 6])],
        [weights("w1", 8, 8, 1, 1), weights("w2", 8, 8, 1, 1), weights("w3", 8, 8, 3, 3), weights("w4", 288, 5),
         numpy_helper.from_array(np.array([8, 8]), "halves"), numpy_helper.from_array(np.array([1, 288]), "flat")],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


@pytest.fixture(scope="module", params=["chain-fp32", "branches-fp32", "branches-fp16"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Lowered, Any]:
    """A lowered model and its library for this CPU."""
    kind, _, precision = request.param.partition("-")
    path = tmp_path_factory.mktemp("execution") / "model.onnx"
    model = import_model(write_network(path) if kind == "chain" else write_branches(path))
    cpu = host()
    target = tvm.target.Target(cpu.target())
    lowered = lower(model.graph, model.weights, target, precision)
    symbols = [v.name_hint for v, f in lowered.module.functions.items() if isinstance(f, tvm.tirx.PrimFunc)]
    module = lowered.scheduled({s: default_schedule(lowered.module[s], 1, cpu) for s in symbols})
    return lowered, tvm.compile(module, target=target, relax_pipeline=pipeline())


def executed(lowered: Lowered, executable: Any, program: Program, constants: Any, together: bool) -> list[np.ndarray]:
    timed = [Timed({10: 1e-3}) for _ in program.calls]
    arrangement = (arranged if together else in_turn)(program, timed, 80)
    functions = [function_of(executable.mod, call.symbol) for call in program.calls]
    values = [*lowered.parameters, *constants]
    execution = Execution(program, arrangement.stages, functions, values, tvm.cpu())
    launched = Launched(execution, tvm.cpu(), (PLAIN,))
    execution.give(inputs(program))
    for _ in range(2):  # the second run finds the first one's tensors in its memory
        launched.launch()
        launched.finish()
    return [tensor.numpy() for tensor in execution.outputs()]


def inputs(program: Program) -> list[np.ndarray]:
    random = np.random.default_rng(2)
    slots = [program.slots[slot] for slot in program.inputs]
    return [random.standard_normal(slot.shape).astype(slot.dtype) for slot in slots]


@pytest.mark.parametrize("together", [False, True])
def test_a_program_computes_what_the_virtual_machine_does(built: tuple[Lowered, Any], together: bool) -> None:
    lowered, executable = built
    program, constants = read_program(lowered)
    given = [tvm.runtime.tensor(array) for array in (*inputs(program), *lowered.parameters)]
    expected = tvm.relax.VirtualMachine(executable, tvm.cpu())["main"](*given)
    several = [expected] if len(program.outputs) == 1 else list(expected)
    found = executed(lowered, executable, program, constants, together)
    assert len(found) == len(several)
    for ours, theirs in zip(found, several, strict=True):
        np.testing.assert_array_equal(ours, theirs.numpy())


def test_what_the_virtual_machine_alone_can_do_is_said(built: tuple[Lowered, Any]) -> None:
    @tvm.script.ir_module
    class Open:
        @tvm.script.relax.function
        def main(x: tvm.script.relax.Tensor(("n", 4), "float32")) -> tvm.script.relax.Tensor(("n", 4), "float32"):
            return x

    with pytest.raises(CandidateError, match="not known ahead") as raised:
        read_program(Lowered(Open, ()))
    assert raised.value.code == "no-program"


def test_a_way_to_launch_that_fails_gives_way_to_the_next(built: tuple[Lowered, Any]) -> None:
    """There is no CUDA here: no graph can be captured, and the reason is kept."""
    lowered, executable = built
    program, constants = read_program(lowered)
    timed = [Timed({10: 1e-3}) for _ in program.calls]
    functions = [function_of(executable.mod, call.symbol) for call in program.calls]
    stages = in_turn(program, timed, 80).stages
    execution = Execution(program, stages, functions, [*lowered.parameters, *constants], tvm.cpu())
    launched = Launched(execution, tvm.cpu(), (GRAPH, PLAIN))
    assert launched.how == PLAIN
    assert len(launched.why) == 1 and launched.why[0].startswith("graph: ")


def test_too_little_memory_is_one_clear_error() -> None:
    with pytest.raises(DeviceError, match="needs 12 MiB") as raised:
        check_memory(RuntimeError("CUDA: out of memory"), 12 << 20)
    assert raised.value.code == "out-of-memory"
    check_memory(RuntimeError("something else"), 12 << 20)
