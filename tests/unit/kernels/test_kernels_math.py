"""Elementary functions in float32 against the same in float64, over their whole range."""

from __future__ import annotations

from collections.abc import Callable
from math import erf
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import te

from tuner.kernels import math as fast
from tuner.measure.device import detect_cpu

Function = Callable[[Any], Any]
_CASES: dict[str, tuple[Function, Function, tuple[float, float], float, float]] = {  # range, relative, absolute error
    "exp": (fast.exp, np.exp, (-87, 87.9), 4e-7, 0),
    "exp_below_one": (fast.exp_below_one, np.exp, (-87, 0), 4e-7, 0),
    "sigmoid": (fast.sigmoid, lambda x: 1 / (1 + np.exp(-x)), (-86.9, 100), 1.3e-6, 0),
    "tanh": (fast.tanh, np.tanh, (-100, 100), 1e-6, 0),
    "softplus": (fast.softplus, lambda x: np.logaddexp(x, 0), (-87, 1000), 1e-6, 0),
    "erf": (fast.erf, np.vectorize(erf), (-10, 10), 0, 5e-7),
}
_WITHOUT_FMA = {"sigmoid": 4e-6}  # relative errors that are larger then
_TARGETS = {"x86-64-v2": False, **({"x86-64-v3": True} if "fma" in detect_cpu().features else {})}


@pytest.mark.parametrize("mcpu", _TARGETS)
@pytest.mark.parametrize("name", _CASES)
def test_a_function_is_as_exact_as_it_says(name: str, mcpu: str) -> None:
    ours, exactly, (low, high), relative, absolute = _CASES[name]
    if not _TARGETS[mcpu]:
        relative = _WITHOUT_FMA.get(name, relative)
    near = np.linspace(max(low, -3), min(high, 3), 60_000)
    points = np.concatenate([np.linspace(low, high, 60_000), near, [0.0] if high >= 0 else []]).astype(np.float32)
    x = te.placeholder(points.shape, "float32", name="x")
    function = te.create_prim_func([x, te.compute(points.shape, lambda i: ours(x[i]), name="y")])
    result = tvm.runtime.tensor(np.zeros_like(points))
    target = tvm.target.Target({"kind": "llvm", "mcpu": mcpu})
    tvm.compile(function, target=target)(tvm.runtime.tensor(points), result)
    np.testing.assert_allclose(result.numpy(), exactly(points.astype(np.float64)), rtol=relative, atol=absolute)
