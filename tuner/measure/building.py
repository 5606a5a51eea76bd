"""What a building child does: candidate in, KernelBinary out, both as JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from tuner.measure.contention import build_burst
from tuner.types import Candidate, Device


def resolve(path: str) -> Callable[..., Any]:
    """The function called "module:name"."""
    module, _, name = path.partition(":")
    function: Callable[..., Any] = getattr(import_module(module), name)
    return function


def handler(config: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    build = resolve(config["options"]["build_function"])
    device = Device.from_json(config["device"])
    kept = _kept(config["options"]["objects"])
    if config["options"]["patience"] > 0:
        build_burst(device, Path(config["burst"]))

    def handle(request: Mapping[str, Any]) -> dict[str, Any]:
        binary = build(Candidate.from_json(request["candidate"]), device, Path(request["library"]), **kept)
        answer: dict[str, Any] = binary.to_json()
        return answer

    return handle


def _kept(folder: str | None) -> dict[str, Any]:
    """The further argument of a function that builds where compiled kernels are kept."""
    if folder is None:
        return {}
    from tuner.build.objects import Objects

    return {"objects": Objects(Path(folder))}
