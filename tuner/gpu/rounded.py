"""Functions that multiply as tensor cores do in tf32, for the CPU: what that costs in accuracy shows before any GPU."""

from __future__ import annotations

from typing import Any

import tvm_ffi
from tvm import ir, tirx

_HALF, _KEPT = 0x1000, 0xFFFFE000  # of the 13 bits of a float32's fraction that tf32 lacks


def rounded(function: Any) -> Any:
    """A PrimFunc, not yet scheduled, with the operands of every sum of products rounded to tf32.

    To nearest, ties away from zero, as our kernels do it. That is all that could be rounded: which sums run on tensor
    cores is known only when schedules are chosen.
    """
    return function.with_body(tvm_ffi.structural_map(function.body, (tirx.BufferStore, _store)))


def _store(store: Any) -> Any:
    total = store.value
    if not isinstance(total, tirx.Add) or not isinstance(total.b, tirx.Mul) or str(total.ty) != "float32":
        return store
    if not isinstance(total.a, ir.TensorLoad) or not total.a.source.same_as(store.buffer):
        return store
    product = tirx.Mul(_round(total.b.a), _round(total.b.b))
    return tirx.BufferStore(store.buffer, tirx.Add(total.a, product), store.indices)


def _round(value: Any) -> Any:
    bits = tirx.reinterpret("uint32", value) + tirx.const(_HALF, "uint32")
    return tirx.reinterpret("float32", bits & tirx.const(_KEPT, "uint32"))
