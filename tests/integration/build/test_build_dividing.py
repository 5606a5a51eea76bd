"""Parallel loops whose iterations the cores take as they come: right in every shape, and really taken over."""

# mypy: disable-error-code="valid-type"
# TVM's script language names buffers where Python has types.

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from build_models import cleaned, machine, node, rand
from tvm.script import tirx as T
from tvm_ffi import load_module

from tuner.build import dividing
from tuner.build.binary import KernelBinary
from tuner.build.blocks import kernels_of
from tuner.build.dividing import batch_of
from tuner.build.linking import assemble, link
from tuner.build.objects import compile_kernel
from tuner.graph.ir import Graph
from tuner.kernels.registry import template
from tuner.search.fusion import greedy
from tuner.types import Candidate, Device

W = {"w1": rand(32, 24, 1, 1), "w3": rand(32, 32, 3, 3, seed=1), "wd": rand(32, 1, 3, 3, seed=2)}
NODES = [
    node("Conv", ["x", "w1"], "a", kernel_shape=[1, 1]),
    node("Conv", ["a", "w3"], "b", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    node("Conv", ["b", "wd"], "c", kernel_shape=[3, 3], pads=[1, 1, 1, 1], group=32),
    node("MaxPool", ["c"], "y", kernel_shape=[3, 3], strides=[2, 2]),
]


def candidates(device: Device, cores: int) -> dict[str, Candidate]:
    """Kernels of a small net of 17 x 19 pixels, and Winograd's for the same 3x3 convolution, in one and two phases."""
    graph, _ = cleaned(NODES, {"x": [1, 24, 17, 19]}, ["y"], W)
    found = {f"{c.template}{k}": c for k, c in enumerate(kernels_of(graph, greedy(graph, device, cores), device))}
    wide = found["conv2d1"]
    winograd = template("winograd")
    for scheme in (0, 1):
        space = winograd.space(Graph.from_json(wide.workload), wide.layouts, device)
        knobs = next(p for p in space.points if p.items() >= {"scheme": scheme, "m": 2}.items())
        found[f"winograd{scheme}"] = replace(wide, template="winograd", template_version=winograd.version, knobs=knobs)
    return found


def built(candidate: Candidate, device: Device, library: Path, *, divide: bool = True) -> KernelBinary:
    made = compile_kernel(candidate, device, library.with_suffix(".o"), divide=divide)
    link([made.path], library)
    return made.binary(library)


def arrays(binary: KernelBinary, seed: int = 0) -> list[np.ndarray]:
    """Random arguments; the last is what the kernel writes."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(arg.shape, dtype=np.float32) for arg in binary.args]


def called(binary: KernelBinary, values: Sequence[np.ndarray]) -> np.ndarray:
    tensors = [tvm.runtime.tensor(value) for value in values]
    load_module(binary.library)[binary.symbol](*tensors)
    return tensors[-1].numpy()


ALONE = """
import sys
import numpy as np
import tvm
from tvm_ffi import load_module
library, symbol, data, out = sys.argv[1:]
tensors = [tvm.runtime.tensor(value) for value in np.load(data).values()]
load_module(library)[symbol](*tensors)
np.save(out, tensors[-1].numpy())
"""


def called_alone(binary: KernelBinary, values: Sequence[np.ndarray], threads: int, folder: Path) -> np.ndarray:
    """What the kernel writes in a process with so many threads; fails after a while."""
    np.savez(folder / "in.npz", *values)
    command = [sys.executable, "-c", ALONE, binary.library, binary.symbol, folder / "in.npz", folder / "out.npy"]
    subprocess.run(command, env={**os.environ, "TVM_NUM_THREADS": str(threads)}, check=True, timeout=60)
    return np.load(folder / "out.npy")


@pytest.mark.parametrize(("device_cores", "cores"), [(2, 2), (3, 3), (8, 8), (4, 3)])
def test_the_numbers_are_those_of_fixed_tasks(device_cores: int, cores: int, tmp_path: Path) -> None:
    """All cores and fewer, in one phase and several, where runs do not divide, however many threads there are."""
    device = replace(machine(), cores=device_cores)
    for name, candidate in candidates(device, cores).items():
        fixed = built(candidate, device, tmp_path / f"{name}.fixed.so", divide=False)
        divided = built(candidate, device, tmp_path / f"{name}.so")
        values = arrays(fixed)
        np.testing.assert_array_equal(called(divided, values), called(fixed, values), name)


@pytest.mark.parametrize("threads", [1, 3, 5])
def test_any_number_of_threads_does_all_the_work(threads: int, tmp_path: Path) -> None:
    device = replace(machine(), cores=3)
    candidate = candidates(device, 3)["winograd1"]
    divided, fixed = (built(candidate, device, tmp_path / f"{d}.so", divide=d) for d in (True, False))
    values = arrays(fixed)
    expected = called(fixed, values)
    np.testing.assert_array_equal(called_alone(divided, values, threads, tmp_path), expected)


def test_two_threads_run_a_kernel_at_once(tmp_path: Path) -> None:
    device = machine()
    candidate = candidates(device, 2)["winograd1"]
    binary = built(candidate, device, tmp_path / "a.so")
    values = [arrays(binary, seed) for seed in range(2)]
    expected = [called(binary, each) for each in values]
    function, wrong = load_module(binary.library)[binary.symbol], []

    def work(which: int) -> None:
        tensors = [tvm.runtime.tensor(value) for value in values[which]]
        for _ in range(200):
            tensors[-1].copyfrom(values[which][-1])
            function(*tensors)
            if not np.array_equal(tensors[-1].numpy(), expected[which]):
                wrong.append(which)

    threads = [threading.Thread(target=work, args=(which,)) for which in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


SPIN = """
define i32 @spin(ptr %flag) alwaysinline nounwind {
entry:
  br label %again
again:
  %x = load atomic i32, ptr %flag seq_cst, align 4
  %no = icmp eq i32 %x, 0
  br i1 %no, label %again, label %done
done:
  ret i32 %x
}
define i32 @raise_flag(ptr %flag) alwaysinline nounwind {
  store atomic i32 1, ptr %flag seq_cst, align 4
  ret i32 0
}
"""


@T.prim_func(s_tir=True)
def whole_loop(flag: T.Buffer((1,), "int32"), times: T.Buffer((16,), "int32")) -> None:
    T.func_attr({"global_symbol": "main", "tirx.noalias": True})
    for i in T.parallel(16, annotations={"pragma_import_llvm": SPIN}):
        if i == 0:
            T.evaluate(T.call_extern("int32", "spin", T.address_of(flag[0])))
        if i == 1:
            T.evaluate(T.call_extern("int32", "raise_flag", T.address_of(flag[0])))
        times[i] = times[i] + 1


@T.prim_func(s_tir=True)
def in_chunks(flag: T.Buffer((1,), "int32"), times: T.Buffer((16,), "int32")) -> None:
    T.func_attr({"global_symbol": "main", "tirx.noalias": True})
    for o in T.parallel(2, annotations={"pragma_import_llvm": SPIN}):
        for i in T.serial(8, annotations={"fusetune.chunk": 1}):
            if o * 8 + i == 0:
                T.evaluate(T.call_extern("int32", "spin", T.address_of(flag[0])))
            if o * 8 + i == 1:
                T.evaluate(T.call_extern("int32", "raise_flag", T.address_of(flag[0])))
            times[o * 8 + i] = times[o * 8 + i] + 1


@pytest.mark.parametrize("function", [whole_loop, in_chunks])
def test_others_take_over_what_a_slow_core_has_left(function: Any, tmp_path: Path) -> None:
    """The first iteration waits for the second, which the same task would do after it: only another can end that."""
    target = tvm.target.Target(machine().target())
    made = tvm.compile(tvm.IRModule({"main": function}), target=target, tir_pipeline=dividing.pipeline(2))
    assemble(made.mod, tmp_path / "a.so")
    binary = KernelBinary(str(tmp_path / "a.so"), "main", (), {})
    values = [np.zeros(1, np.int32), np.zeros(16, np.int32)]
    np.testing.assert_array_equal(called_alone(binary, values, 2, tmp_path), np.ones(16))


def test_loops_with_nothing_to_take_stay_as_they_are() -> None:
    assert "fusetune_take" in lowered(whole_loop, 15)
    assert "fusetune_take" not in lowered(whole_loop, 16)


def lowered(function: Any, cores: int) -> str:
    target = tvm.target.Target(machine().target())
    module = tvm.tirx.transform.BindTarget(target.with_host(target))(tvm.IRModule({"main": function}))
    lower, _, _ = tvm.tirx.get_tir_pipeline(dividing.pipeline(cores))
    return str(lower(module).script())


def test_no_symbol_is_left_but_the_kernels(tmp_path: Path) -> None:
    """Objects of many kernels become one library."""
    found = candidates(machine(), 2)
    made = [compile_kernel(c, machine(), tmp_path / f"{name}.o") for name, c in found.items()]
    link([one.path for one in made], tmp_path / "all.so")
    for one in made:
        load_module(str(tmp_path / "all.so"))[one.symbol]


@pytest.mark.parametrize("triple", ["aarch64-linux-gnu", "x86_64-linux-gnu"])
def test_plain_processors_have_what_it_takes(triple: str) -> None:
    """No call of a library that would have to be there, and the counter is added to in one instruction or loop."""
    target = tvm.target.Target({"kind": "llvm", "mtriple": triple})
    made = tvm.compile(tvm.IRModule({"main": whole_loop}), target=target, tir_pipeline=dividing.pipeline(2))
    text = made.mod.inspect_source("asm")
    assert "ldxr" in text or "ldadd" in text if triple.startswith("aarch64") else "xadd" in text
    assert "__aarch64" not in text and "fusetune_take" not in text and "__atomic" not in text


def test_batches_are_small_against_a_run() -> None:
    assert [batch_of(run) for run in (1, 16, 31, 32, 1000)] == [1, 1, 1, 2, 62]
