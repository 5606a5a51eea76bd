"""The command lines that ask for the same job again, and that fetch what it left."""

from __future__ import annotations

import json
import shlex
from typing import Any

from db.jobs import Job
from tuner.precision import ACCURACY, FP32
from tuner.types import JobSpec

_USUAL = JobSpec(model="")


def curl(job: Job, server: str) -> str:
    """The request that the job came by, without what is as usual."""
    body = json.dumps(_body(job.spec), separators=(", ", ": "))
    if len(body) > 4000:  # a hand-written plan: nobody wants it on a command line
        body = json.dumps(_body(job.spec) | {"plan": "PLAN.json's content"}, separators=(", ", ": "))
    lines = [
        f"curl -X POST {shlex.quote(server + '/api/v1/jobs')}",
        '-H "Authorization: Bearer $FUSETUNE_TOKEN"',
        "-H 'Content-Type: application/json'",
        f"-d {shlex.quote(body)}",
    ]
    return " \\\n  ".join(lines)


def command(job: Job, server: str) -> str:
    """The same through the command line."""
    spec = job.spec
    words = ["fusetune", "submit", f"{(job.model_name or 'MODEL').removesuffix('.onnx')}.onnx"]
    words += ["--server", server, "--device", spec.device]
    if spec.strategy != _USUAL.strategy:
        words += ["--strategy", spec.strategy]
    if spec.budget.trials is not None:
        words += ["--trials", str(spec.budget.trials)]
    if spec.budget.seconds is not None:
        words += ["--seconds", f"{spec.budget.seconds:g}"]
    if spec.cores:
        words += ["--cores", ",".join(map(str, spec.cores))]
    if spec.precision != FP32:
        words += ["--precision", spec.precision]
    if spec.accuracy != ACCURACY.get(spec.precision):
        words += ["--accuracy", f"{spec.accuracy:g}"]
    for name, shape in spec.shapes.items():
        words += ["--shape", f"{name}={','.join(map(str, shape))}"]
    for name in spec.disabled_passes:
        words += ["--disable-pass", name]
    if spec.plan is not None:
        words += ["--plan", "PLAN.json"]
    if spec.memory_limit is not None:
        words += ["--memory-limit", str(spec.memory_limit)]
    if spec.seed:
        words += ["--seed", str(spec.seed)]
    return " ".join(map(shlex.quote, [*words, "--fresh"]))


def _body(spec: JobSpec) -> dict[str, Any]:
    given = spec.to_json()
    usual = _USUAL.to_json() | {"accuracy": ACCURACY.get(spec.precision)}
    kept = {name: value for name, value in given.items() if value != usual[name] and value not in ({}, (), [])}
    kept["budget"] = {name: value for name, value in given["budget"].items() if value is not None}
    return {"model": spec.model, "device": spec.device, **kept, "fresh": True}
