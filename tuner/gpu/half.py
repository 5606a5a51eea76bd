"""A float32 model as tensor cores want it: channels last, weights converted ahead, sums in float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tuner.gpu.elementary import elementary

MAIN, TRANSFORM = "main", "main_transform_params"
_LAYOUTS = {"relax.nn.conv2d": ["NHWC", "OHWI"]}


def halved(module: Any, parameters: Sequence[np.ndarray]) -> tuple[Any, tuple[np.ndarray, ...]]:
    """A module whose "main" multiplies float16 (TVM's ToMixedPrecision says what), and the parameters it then takes.

    What is done to weights alone, converting and transposing, is done here, on the CPU.
    """
    return _ahead(module, parameters, relax.transform.ToMixedPrecision("float32"))


def channels_last(module: Any, parameters: Sequence[np.ndarray]) -> tuple[Any, tuple[np.ndarray, ...]]:
    """The same in float32."""
    return _ahead(module, parameters)


def _ahead(module: Any, parameters: Sequence[np.ndarray], *passes: Any) -> tuple[Any, tuple[np.ndarray, ...]]:
    module = elementary(module)
    module = tvm.transform.Sequential([
        relax.transform.DecomposeOpsForInference(),
        relax.transform.ConvertLayout(_LAYOUTS),
        *passes,
        relax.transform.LiftTransformParams(),
    ])(module)  # fmt: skip
    if TRANSFORM not in {variable.name_hint for variable in module.get_global_vars()}:
        return module, tuple(parameters)
    transform = tvm.IRModule({TRANSFORM: module[TRANSFORM]})
    rest = {v: f for v, f in module.functions.items() if v.name_hint != TRANSFORM}
    executable = tvm.compile(relax.transform.LegalizeOps()(transform), target=tvm.target.Target({"kind": "llvm"}))
    machine = relax.VirtualMachine(executable, tvm.cpu())
    found = machine[TRANSFORM]([tvm.runtime.tensor(p) for p in parameters])
    return tvm.IRModule(rest, attrs=module.attrs), tuple(np.asarray(p.numpy()) for p in found)
