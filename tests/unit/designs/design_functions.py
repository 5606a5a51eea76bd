"""Small functions whose design spaces tests look at."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import te, topi

from tuner.gpu.spec import GPUS


def gpu(name: str = "rtx3090") -> Any:
    return tvm.target.Target(GPUS[name].device().target())


def cpu() -> Any:
    return tvm.target.Target({"kind": "llvm", "num-cores": 2})


def conv(size: int = 14, channels: int = 32) -> Any:
    """A 3x3 convolution with ReLU behind it."""
    x = te.placeholder((1, channels, size, size), "float32", name="x")
    w = te.placeholder((channels, channels, 3, 3), "float32", name="w")
    return _module([x, w, topi.nn.relu(topi.nn.conv2d(x, w, 1, 1, 1, data_layout="NCHW", out_dtype="float32"))])


def matmul(rows: int = 64, columns: int = 96, inner: int = 128, dtype: str = "float32") -> Any:
    """A matrix product, summed in float32."""
    a = te.placeholder((rows, inner), dtype, name="a")
    b = te.placeholder((inner, columns), dtype, name="b")
    k = te.reduce_axis((0, inner), "k")
    product = te.compute(
        (rows, columns), lambda i, j: te.sum(a[i, k].astype("float32") * b[k, j].astype("float32"), axis=k), name="c"
    )
    return _module([a, b, product])


def _module(args: list[Any]) -> Any:
    function = te.create_prim_func(args).with_attr({"global_symbol": "main", "tirx.noalias": True})
    return tvm.IRModule({"main": function})
