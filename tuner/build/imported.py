"""Layers without a template of ours: TVM's ONNX importer and legalisation, with a parallel default schedule.

Each such block becomes a Relax function of its own, called from "main"; its kernels are spread over the cores and
vectorised as far as their loops allow. Constants the importer does not need as numbers stay parameters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.ir import GlobalVar
from tvm.relax.backend import DispatchSortScan
from tvm.relax.expr_functor import PyExprMutator, mutator
from tvm.relax.frontend.onnx import from_onnx

from tuner.errors import UserError
from tuner.graph.ir import Graph
from tuner.graph.onnx_io import to_onnx
from tuner.kernels.importing import REFUSALS
from tuner.kernels.spreading import default_schedule
from tuner.plan.workload import Bound
from tuner.types import Device

_CALLS = ("relax.call_", "relax.builtin.", "relax.memory.", "relax.shape_of", "relax.null_value")  # TVM runs these
_PACKED = re.compile(r'call_packed\("([^"]+)"')


@dataclass(frozen=True)
class Imported:
    """A block as TVM sees it: scheduled kernels by name, the Relax function over them, its parameters in order."""

    kernels: Mapping[str, Any]
    function: Any
    variables: Mapping[str, Any]  # kernel name -> the GlobalVar by which ``function`` calls it
    parameters: tuple[np.ndarray, ...]
    outputs: int

    def emit(
        self, builder: Any, inputs: list[Any], parameters: list[Any], mapping: Mapping[str, Any], name: str
    ) -> list[Any]:
        """Call the block inside ``builder``'s current function; ``mapping``: kernel name -> its GlobalVar there."""
        renamed = _Rename({self.variables[n]: symbol for n, symbol in mapping.items()}).visit_expr(self.function)
        symbol = builder.add_func(renamed.with_attr("global_symbol", name), name)
        result = builder.emit(relax.Call(symbol, [*inputs, *parameters]))
        if self.outputs == 1:
            return [result]
        return [builder.emit(relax.TupleGetItem(result, k)) for k in range(self.outputs)]


@mutator
class _Rename(PyExprMutator):
    def __init__(self, mapping: Mapping[Any, Any]) -> None:
        super().__init__()
        self.mapping = mapping

    def visit_global_var_(self, op: GlobalVar) -> Any:
        return self.mapping.get(op, op)


def import_layers(
    graph: Graph, weights: Mapping[str, np.ndarray], bound: Bound, device: Device, cores: int
) -> Imported:
    """Lower one block through TVM's importer.

    Raises UserError(code="unsupported-operator") naming the operator and its layer when TVM cannot import it either.
    """
    workload = bound.workload
    arrays = {n: weights[bound.names[n]] for n in workload.constants}
    layer = next(i for i in graph.layers if i.outputs[0] == bound.names[workload.layers[0].outputs[0]])
    try:
        module = from_onnx(to_onnx(workload, arrays), keep_params_in_input=True)
        module, detached = relax.frontend.detach_params(module)
        with tvm.target.Target(device.target()):
            module = tvm.transform.Sequential(
                [
                    DispatchSortScan(),
                    relax.transform.DecomposeOpsForInference(),
                    relax.transform.LegalizeOps(),
                    relax.transform.AnnotateTIROpPattern(),
                    relax.transform.FoldConstant(),
                    relax.transform.FuseOps(),
                    relax.transform.FuseTIR(),
                    relax.transform.DeadCodeElimination(),
                ]
            )(module)
        if missing := _not_made(module):
            raise ValueError(f"there is no kernel for {missing}")
    except REFUSALS as error:
        reason = str(error).strip().splitlines()[-1][:200] if str(error).strip() else type(error).__name__
        raise UserError(
            f"Operator {layer.op} (layer {layer.id}) is not supported: TVM says: {reason}",
            code="unsupported-operator",
        ) from error
    variables = {v.name_hint: v for v, f in module.functions.items() if v.name_hint != "main"}
    kernels = {
        name: default_schedule(module[v], cores, device) if isinstance(module[v], tvm.tirx.PrimFunc) else module[v]
        for name, v in variables.items()
    }
    parameters = tuple(np.asarray(p.numpy()) for p in detached.get("main", []))
    function = module["main"].without_attr("num_input")
    return Imported(kernels, function, variables, parameters, len(workload.outputs))


def _not_made(module: Any) -> str:
    """An operator that did not become a kernel, or a kernel that asks for more than TVM's runtime; "" if none did."""
    found: list[str] = []

    def visit(node: Any) -> None:
        if isinstance(node, relax.Call) and isinstance(node.op, tvm.ir.Op) and not node.op.name.startswith(_CALLS):
            found.append(node.op.name.removeprefix("relax."))

    for function in module.functions.values():
        if isinstance(function, relax.Function):
            relax.analysis.post_order_visit(function, visit)
        elif isinstance(function, tvm.tirx.PrimFunc):
            found += [
                f"it but with {name}, which TVM's runtime alone lacks" for name in _PACKED.findall(function.script())
            ]
    return found[0] if found else ""
