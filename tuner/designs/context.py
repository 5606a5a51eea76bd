"""MetaSchedule contexts, made without the half minute that TVM takes to register every tensor intrinsic it knows."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from tvm.s_tir import meta_schedule
from tvm.target import Target

_INTRINSICS = "tvm.s_tir.tensor_intrin"
TENSOR_CORES = "cuda-tensorcore"  # MetaSchedule's name of the rules that use them
TF32 = "cuda-tf32"  # ours of those that use them on float32


def context_of(module: Any, target: Target, rules: str | None = None, seed: int = 1) -> Any:
    """A TuneContext of a module whose one function is "main".

    ``rules`` names MetaSchedule's schedule rules, post-processors and mutators together: "llvm", "cuda",
    "cuda-tensorcore", or "cuda-tf32" for those of tuner.designs.tf32; None takes the target's kind, so that tensor
    cores are used only where they are asked for.
    """
    rules, own = rules or str(target.kind.name), None
    if rules == TF32:
        from tuner.designs.tf32 import rules as of_tf32

        own, rules = of_tf32(), "cuda"
    if rules == TENSOR_CORES:
        load_intrinsics("cuda")
    generator = meta_schedule.space_generator.PostOrderApply(
        sch_rules=own or rules, postprocs=rules, mutator_probs=rules
    )
    with _unfilled(_INTRINSICS):
        return meta_schedule.TuneContext(
            module, target=target, space_generator=generator, search_strategy="replay-trace", task_name="main",
            rand_state=seed, num_threads=1,
        )  # fmt: skip


def load_intrinsics(target: str) -> None:
    """Register the tensor intrinsics of one target ("cuda", "x86"), once.

    TVM asks for the whole call stack, source lines included, at each of some hundred functions, and looks at the frames
    alone; given those alone this takes seconds instead of half a minute.
    """
    name = f"{_INTRINSICS}.{target}"
    if name in sys.modules:
        return
    stack = inspect.stack
    inspect.stack = _frames
    try:
        with _unfilled(_INTRINSICS):
            importlib.import_module(name)
    finally:
        inspect.stack = stack


def _frames(context: int = 0) -> list[inspect.FrameInfo]:
    """``inspect.stack`` without looking for sources."""
    found = []
    frame = inspect.currentframe()
    while frame is not None and frame.f_back is not None:
        frame = frame.f_back
        code = frame.f_code
        found.append(inspect.FrameInfo(frame, code.co_filename, frame.f_lineno, code.co_name, None, None))
    return found


@contextmanager
def _unfilled(package: str) -> Iterator[None]:
    """Let ``package`` pass for imported: whoever imports it gets nothing, who imports a part of it gets that part."""
    if package in sys.modules:
        yield
        return
    spec = find_spec(package)
    module = ModuleType(package)
    module.__path__ = list(spec.submodule_search_locations or ()) if spec else []
    sys.modules[package] = module
    try:
        yield
    finally:
        del sys.modules[package]
