"""``python -m service.inspect.child LIFELINE``: one request as a JSON line on stdin, one JSON answer on stdout.

LIFELINE is the reading end of a pipe: when the other end closes, because the server is gone, this process is killed.
"""

from __future__ import annotations

import json
import resource
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuner.lifeline import hold

MEMORY = 16 << 30  # bytes of data this process may use; the file itself is parsed in a stricter child of its own
CPU_SECONDS = 240  # the server waits less
OPEN_INPUTS = 16  # inputs without static sizes that are guessed before it gives up


def main() -> int:
    hold(int(sys.argv[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    request = json.loads(sys.stdin.readline())
    from tuner.errors import FusetuneError, UserError

    try:
        answer = _check_plan(request) if "spec" in request else _inspect(request)
    except FusetuneError as error:
        kind = "user" if isinstance(error, UserError) else "service"
        answer = {"error": {"kind": kind, "message": error.message, "code": error.code, "hint": error.hint}}
    json.dump(answer, sys.stdout)
    return 0


def _inspect(request: Mapping[str, Any]) -> dict[str, Any]:
    from tuner.graph.costs import total_macs
    from tuner.plan.plan import IMPORTED
    from tuner.residency import residency
    from tuner.search.fusion import greedy
    from tuner.search.questions import core_counts, distinct, questions
    from tuner.types import Device

    device = Device.from_json(request["device"])
    given = {name: tuple(shape) for name, shape in request["shapes"].items()}
    model, guessed = _read(Path(request["path"]), given)
    graph = model.graph
    cores = core_counts(None, device)
    plan = greedy(graph, device, max(cores))
    asked = distinct(
        questions(plan, graph, device, cores=cores, precision="fp32", seed=0, residency=residency(model.graph, device))
    )
    blocks = list(plan.blocks)
    foreign = [block for block in blocks if block.template == IMPORTED]
    return {
        "layers": len(graph.layers),
        "macs": total_macs(graph),
        "inputs": [
            _tensor(graph.tensors[n]) | {"open": n in guessed, "declared": model.declared[n]} for n in graph.inputs
        ],
        "outputs": [_tensor(graph.tensors[n]) for n in graph.outputs],
        "graph": graph.to_json(),
        "details": {
            "ops": dict(Counter(layer.op for layer in graph.layers).most_common()),
            "unsupported": [
                {"layer": i, "op": graph.by_id[i].op, "why": "no template of ours: built by TVM, not tuned"}
                for block in foreign
                for i in block.layers
            ],
            "parameters": sum(c.elements for c in graph.constants.values()),
            "gmacs": round(total_macs(graph) / 1e9, 4),
            "blocks": len(blocks),
            "device": device.fingerprint,
            "questions": [sorted({s.candidate.record_key for s in q.searches.values()}) for q in asked],
        },
    }


def _check_plan(request: Mapping[str, Any]) -> dict[str, Any]:
    """Raises UserError when the plan of ``request["spec"]`` does not fit the model, as the job itself would."""
    from tuner.build.blocks import check_blocks
    from tuner.graph.load import import_model
    from tuner.plan.legality import validate
    from tuner.plan.plan import Plan
    from tuner.search.lowering import check_plan
    from tuner.types import Device, JobSpec

    spec, device = JobSpec.from_json(request["spec"]), Device.from_json(request["device"])
    plan = Plan.from_json(spec.plan)
    graph = import_model(
        Path(request["path"]), shapes=spec.shapes, disabled=spec.disabled_passes, external=False
    ).graph  # fmt: skip
    validate(plan, graph, device.cores)
    check_plan(plan, spec.precision)
    check_blocks(plan, graph, device)
    return {}


def _read(path: Path, shapes: dict[str, tuple[int, ...]]) -> tuple[Any, set[str]]:
    """The model, and the inputs whose sizes the file leaves open and that were guessed here."""
    from tuner.errors import UserError
    from tuner.graph.load import import_model

    guessed: set[str] = set()
    for _ in range(OPEN_INPUTS + 1):
        try:
            return import_model(path, shapes=shapes, external=False), guessed
        except UserError as error:
            example = error.hint.partition("--shape ")[2].removesuffix(".")  # NAME=1,3,224,224
            name, _, sizes = example.rpartition("=")
            if error.code != "missing-shape" or not name or name in shapes:
                raise
            shapes = shapes | {name: tuple(int(s) for s in sizes.split(","))}
            guessed.add(name)
    raise UserError(f"More than {OPEN_INPUTS} inputs have no static shape.", code="missing-shape")


def _tensor(tensor: Any) -> dict[str, Any]:
    return {"name": tensor.name, "dtype": tensor.dtype, "shape": list(tensor.shape)}


if __name__ == "__main__":
    sys.exit(main())
