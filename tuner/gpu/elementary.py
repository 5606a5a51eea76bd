"""Bounds (Clip, and what is made of it) in operators that TVM's change of layout passes through.

Its importer writes a Clip as two functions, and ConvertLayout knows neither these nor ``relax.clip``: it would turn an
image back in front of each and again behind it, and a convolution would not be fused with its activation.
"""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import ir, relax, tirx

_BINARY = {tirx.Max: relax.op.maximum, tirx.Min: relax.op.minimum}


def elementary(module: Any) -> Any:
    """The module with ``relax.maximum`` and ``relax.minimum`` for bounds of its "main"."""
    rewriter = _Rewriter(module)
    main = rewriter.visit_expr(module["main"])
    functions = dict(module.functions.items()) | {module.get_global_var("main"): main}
    return relax.transform.DeadCodeElimination()(tvm.IRModule(functions, attrs=module.attrs))


@relax.expr_functor.mutator
class _Rewriter(relax.PyExprMutator):
    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self._module = module

    def visit_call_(self, call: Any) -> Any:
        call = self.visit_expr_post_order(call)
        name = str(getattr(call.op, "name", ""))
        if name == "relax.clip":
            x, low, high = call.args
            return relax.op.minimum(self.builder_.normalize(relax.op.maximum(x, _bound(x, low))), _bound(x, high))
        if name == "relax.call_tir":
            operands = list(call.args[1])
            operator = _bounding(self._module[call.args[0].name_hint])
            if operator is not None and len(operands) == 2 and operands[1].ty.ndim == 0:
                return operator(*operands)
        return call


def _bound(x: Any, number: Any) -> Any:
    """A number of a ``relax.clip`` as a constant of the type of ``x``."""
    return relax.const(float(getattr(number, "value", number)), str(x.ty.dtype))


def _bounding(function: Any) -> Any:
    """The operator that a function with two inputs is, element by element: a maximum or a minimum; None for others."""
    stores: list[Any] = []
    tvm_ffi.structural_walk(function.body, (tirx.BufferStore, stores.append))
    if len(function.params) != 3 or len(stores) != 1 or type(stores[0].value) not in _BINARY:
        return None
    value = stores[0].value
    given = list(function.params)[:2]
    read = [side.source for side in (value.a, value.b) if isinstance(side, ir.TensorLoad)]
    in_order = len(read) == 2 and all(a.same_as(b) for a, b in zip(read, given, strict=True))
    return _BINARY[type(value)] if in_order else None
