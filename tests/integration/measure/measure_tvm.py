"""A build function that really goes through TVM: relu(i0 + c0) on channel-blocked data, by hand."""

from __future__ import annotations

from pathlib import Path

from tuner.build.binary import Arg, KernelBinary
from tuner.plan.layout import Pack, physical_shape
from tuner.types import Candidate, Device


def build(candidate: Candidate, device: Device, library: Path) -> KernelBinary:
    import tvm
    from tvm import te, tirx

    n, c, h, w = candidate.workload["tensors"]["i0"][1]
    layout = candidate.layouts["i0"]
    shape = physical_shape((n, c, h, w), layout)
    block = shape[-1]
    x = te.placeholder(shape, name="x")
    bias = te.placeholder((shape[1], block), name="bias")
    y = te.compute(shape, lambda n, o, h, w, i: tirx.max(x[n, o, h, w, i] + bias[o, i], tirx.const(0.0)), name="y")
    func = te.create_prim_func([x, bias, y]).with_attr("global_symbol", "main")
    sch = tvm.s_tir.Schedule(func)
    loops = sch.get_loops(sch.get_sblock("y"))
    if candidate.cores > 1:
        sch.parallel(sch.fuse(*loops[:3]))
    sch.vectorize(sch.get_loops(sch.get_sblock("y"))[-1])
    built = tvm.compile(sch.mod, target=tvm.target.Target(device.target()))
    built.export_library(str(library))
    args = (
        Arg("i0", "input", shape, "float32", layout),
        Arg("c0", "constant", (shape[1], block), "float32"),
        Arg("t1", "output", shape, "float32", layout),
    )
    pack = Pack((("reshape", [c]), ("pad", [[0, -c % block]]), ("reshape", [-1, block])))
    return KernelBinary(str(library), "main", args, {"c0": pack})
