"""Commands that run finished models: bench (in turns with libraries) and run."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console

from tuner.errors import UserError


def bench(args: argparse.Namespace) -> int:
    """``fusetune bench``: the tuned artifact, our own baselines and the peers, one after the other, in turns."""
    from bench.peers import bench as compare
    from tuner.build.artifact import read_manifest
    from tuner.measure.device import detect_cpu, devices
    from tuner.measure.named import check_measurable, check_real

    device = devices(args.device)
    check_real(device)
    check_measurable(device, detect_cpu())
    folder = args.artifact or Path(f"{args.model.stem}.fusetune")
    manifest = read_manifest(folder)
    _same_model(args.model, manifest)
    console = Console(stderr=args.json)
    with tempfile.TemporaryDirectory(prefix="fusetune-") as scratch:
        artifacts = {"tuned": folder}
        if not args.no_baselines:
            artifacts |= _baselines(args, Path(scratch), console)
        console.print(f"Timing {', '.join([*artifacts, *args.peers])} in turns ...", highlight=False)
        report = compare(
            args.model, artifacts, args.peers, threads=device.cores, rounds=args.rounds, shapes=dict(args.shape)
        )
    if args.json:
        print(json.dumps(report.to_json()))
        return 0
    console.print(report.table())
    for note in report.notes():
        console.print(note, highlight=False, markup=False)
    return 0


def _same_model(model: Path, manifest: dict[str, object]) -> None:
    from service.commands.spec import model_digest

    made_for = manifest.get("model")
    if not isinstance(made_for, dict) or made_for.get("sha256") != model_digest(model):
        raise UserError(f"The artifact was not made from {model}.", code="other-model", hint="Tune that model first.")


def _baselines(args: argparse.Namespace, scratch: Path, console: Console) -> dict[str, Path]:
    """Build unoptimised, unfused and default into ``scratch``."""
    from tuner.build.export import build_artifact
    from tuner.graph.load import import_model
    from tuner.measure.device import devices
    from tuner.search.fusion import greedy, unfused

    device = devices(args.device)
    model = import_model(args.model, shapes=dict(args.shape), disabled=args.disable_pass)
    plans = {
        "default": greedy(model.graph, device, device.cores),
        "unfused": unfused(model.graph, device, device.cores),
        "unoptimised": unfused(model.graph, device, 1),
    }
    for name, plan in plans.items():
        console.print(f"Building {name} ...", highlight=False)
        build_artifact(scratch / name, model.graph, model.weights, plan, device, {})
    return {name: scratch / name for name in plans}


def run(args: argparse.Namespace) -> int:
    """``fusetune run``: one call of an artifact; outputs as .npz or as a summary."""
    from service.commands.tune import read_array
    from tuner.build.artifact import load
    from tuner.build.runtime_only import runtime_only

    runtime_only()
    model = load(args.artifact)
    random = np.random.default_rng(args.seed)
    inputs = {name: read_array(name, path) for name, path in args.input}
    for entry in model.manifest["inputs"]:
        if entry["name"] not in inputs:
            dtype = np.dtype(entry["dtype"])
            floating = np.issubdtype(dtype, np.floating)
            values = random.standard_normal(entry["shape"]) if floating else np.zeros(entry["shape"])
            inputs[entry["name"]] = values.astype(dtype)
    outputs = model.run(inputs)
    if args.output:
        try:
            np.savez(args.output, **outputs)  # type: ignore[arg-type]
        except OSError as error:
            raise UserError(f"{args.output} cannot be written: {error.strerror}.", code="bad-output") from error
        print(args.output)
        return 0
    for name, value in outputs.items():
        print(f"{name}: {value.dtype} {list(value.shape)}, smallest {value.min():.6g}, largest {value.max():.6g}, "
              f"index of the largest {int(value.argmax())}")  # fmt: skip
    return 0
