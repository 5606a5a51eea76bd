"""A workload as one TVM function, through TVM's ONNX importer and legalisation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import tvm
from onnx.defs import SchemaError
from tvm import relax
from tvm.target import Target

from tuner.graph.ir import Graph, Tensor
from tuner.graph.onnx_io import to_onnx

# What TVM's importer raises for operators, attributes and shapes that it does not know.
REFUSALS = (
    tvm.error.InternalError, ValueError, TypeError, KeyError, IndexError, NotImplementedError, AttributeError,
    RuntimeError, AssertionError, SchemaError,
)  # fmt: skip
_WHOLE = "whole"
_SCALED = frozenset({"Resize", "Upsample"})  # TVM asks for the numbers by which they scale


def weights_of(workload: Graph) -> tuple[str, ...]:
    """Constants of which only the shape matters, in order; the others are part of the function."""
    return tuple(name for name, constant in workload.constants.items() if constant.value is None)


def whole_function(workload: Graph, target: Target) -> Any:
    """``workload`` as one PrimFunc, "main", of its inputs, its ``weights_of`` and its output; not scheduled.

    Stages follow one another as the operators that TVM makes of it do. Its loops count in 32 bits. Raises one of
    REFUSALS when TVM cannot import it, or makes something else of it than loops.
    """
    from tvm.relax.frontend.onnx import from_onnx

    weights = weights_of(workload)
    if any(layer.op in _SCALED and not set(weights).isdisjoint(layer.inputs) for layer in workload.layers):
        raise ValueError("a workload does not hold all numbers that TVM asks for")
    given = {n: Tensor(n, workload.constants[n].shape, workload.constants[n].dtype) for n in weights}
    opened = replace(
        workload, inputs=(*workload.inputs, *weights), tensors={**workload.tensors, **given},
        constants={n: c for n, c in workload.constants.items() if n not in given},
    )  # fmt: skip
    module = from_onnx(to_onnx(opened, {}))
    with target:
        module = tvm.transform.Sequential(
            [relax.transform.DecomposeOpsForInference(), relax.transform.LegalizeOps(), relax.transform.FoldConstant(),
             relax.transform.DeadCodeElimination()]
        )(module)  # fmt: skip
        module = tvm.transform.Sequential([relax.transform.FuseTIR(), relax.transform.DeadCodeElimination()])(
            _as_primitive(module)
        )
    functions = [f for f in module.functions.values() if isinstance(f, tvm.tirx.PrimFunc)]
    if len(functions) != 1:
        raise ValueError(f"{len(functions)} functions are left, not one")
    (function,) = functions
    shapes = [tuple(int(d) for d in p.shape) for p in function.params]
    if shapes != [tuple(opened.tensors[n].shape) for n in (*opened.inputs, *opened.outputs)]:
        raise ValueError("the function's parameters are not those of the workload")
    function = function.with_attr({"global_symbol": "main", "tirx.noalias": True})
    return tvm.tirx.transform.ForceNarrowIndexToInt32()(tvm.IRModule({"main": function}))["main"]


def _as_primitive(module: Any) -> Any:
    """The module with all that "main" does as the one function that a new "main" calls, marked to become one kernel."""
    whole = module["main"]
    for name in ("global_symbol", "num_input", "params"):
        if whole.attrs and name in whole.attrs:
            whole = whole.without_attr(name)
    builder = relax.BlockBuilder(tvm.IRModule({v: f for v, f in module.functions.items() if v.name_hint != "main"}))
    symbol = builder.add_func(whole.with_attr("Primitive", 1), _WHOLE)
    given = [relax.Var(f"x{k}", p.ty) for k, p in enumerate(whole.params)]
    with builder.function("main", given):
        with builder.dataflow():
            result = builder.emit_output(builder.emit(relax.Call(symbol, given)))
        builder.emit_func_output(result)
    return builder.finalize()
