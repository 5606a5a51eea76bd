"""Assembly -> executable library. The pass pipeline starts behind fusion: our kernels are scheduled already."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tvm
from tvm import relax

from tuner.build.assemble import Assembly
from tuner.build.linking import link
from tuner.build.program import Together
from tuner.build.together import launches
from tuner.types import Device

_PASSES = (
    relax.transform.RewriteDataflowReshape,
    relax.transform.ToNonDataflow,
    relax.transform.RemovePurityChecking,
    relax.transform.CallTIRRewrite,
    relax.transform.StaticPlanBlockMemory,
    relax.transform.LowerAllocTensor,
    relax.transform.KillAfterLastUse,
    relax.transform.LowerRuntimeBuiltin,
    relax.transform.ComputePrimValue,
    relax.transform.VMShapeLower,
    relax.transform.AttachGlobalSymbol,
)


def pipeline() -> Any:
    """Lowering of a module whose kernels are scheduled: memory planning and calls, nothing that fuses or schedules."""

    @tvm.transform.module_pass(opt_level=0)
    def lower(module: tvm.IRModule, _: Any) -> tvm.IRModule:
        return tvm.transform.Sequential([make() for make in _PASSES])(module)

    return lower


def compile_library(assembly: Assembly, device: Device, library: Path) -> None:
    """Compile an assembled model and link it with its kernels into the shared library ``library``.

    Raises InternalError when linking fails.
    """
    target = tvm.target.Target(device.target())
    executable = tvm.compile(assembly.module, target=target, relax_pipeline=pipeline())
    stages = [op for op in assembly.program.ops if isinstance(op, Together)]
    launching = library.with_suffix(".together.o")
    if stages:
        tvm.compile(launches(stages), target=target).mod.write_to_file(str(launching))

    def finish(output: str, objects: Sequence[str], **_: Any) -> None:
        link([*map(Path, objects), *([launching] if stages else ()), *assembly.objects], Path(output))

    try:
        executable.export_library(str(library), fcompile=finish)
    finally:
        launching.unlink(missing_ok=True)
