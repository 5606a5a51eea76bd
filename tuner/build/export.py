"""A plan -> an artifact folder: code, packed weights, manifest."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from tuner.build.artifact import write_manifest, write_parameters
from tuner.build.assemble import Step, assemble
from tuner.build.compile import compile_library
from tuner.build.objects import Objects
from tuner.graph.ir import Graph
from tuner.plan.plan import Plan
from tuner.types import Device


def build_artifact(
    folder: Path, graph: Graph, weights: Mapping[str, np.ndarray], plan: Plan, device: Device, facts: Mapping[str, Any],
    objects: Objects | None = None,
) -> list[Step]:  # fmt: skip
    """Build ``plan`` into ``folder`` (created; must be empty). ``facts`` go into the manifest (model, toolchain).

    Kernels that are among ``objects`` are not compiled again, others are kept there. Returns the kernel calls of the
    model in running order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        objects = objects or Objects(Path(stack.enter_context(TemporaryDirectory(prefix="fusetune-"))))
        assembly = assemble(graph, weights, plan, device, objects)
        compile_library(assembly, device, folder / "model.so")
    packed = ((p.constant, p.materialise(weights)) for p in assembly.parameters)  # one at a time: models are large
    entries = write_parameters(packed, folder / "params.bin")
    write_manifest(
        folder,
        {
            **facts,
            "device": device.to_json(),
            "cores": device.cores,
            "inputs": [_entry(graph, n) for n in graph.inputs],
            "outputs": [_entry(graph, n) for n in graph.outputs],
            "parameters": entries,
            "memory": {"activations": assembly.memory.bytes},
            "kernels": [_kernel(step) for step in assembly.steps],
        },
    )
    return assembly.steps


def _kernel(step: Step) -> dict[str, Any]:
    written = {
        "symbol": step.symbol,
        "layers": list(step.layers),
        "template": step.template,
        "cores": step.cores,
        "knobs": None if step.knobs is None else dict(step.knobs),
        "layouts": dict(step.layouts),
    }
    return written | ({"lanes": [[_kernel(s) for s in lane] for lane in step.lanes]} if step.lanes else {})


def _entry(graph: Graph, name: str) -> dict[str, Any]:
    value = graph.type_of(name)
    return {"name": name, "shape": list(value.shape), "dtype": value.dtype}
