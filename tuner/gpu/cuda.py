"""A scheduled module -> host code that launches kernels, and the kernels' machine code beside it.

TVM without a GPU leaves the kernels in the library as CUDA C, which its runtime hands to a callback when the library
is first used. Our callback (tuner.gpu.cubins) answers with what was compiled here, so that where the GPU is nobody
compiles.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tvm
import tvm_ffi
from tvm.s_tir import dlight

from tuner.build.compile import pipeline
from tuner.build.linking import link
from tuner.designs.context import load_intrinsics
from tuner.errors import CandidateError, InternalError
from tuner.gpu.cubins import digest_of
from tuner.gpu.nvcc import Compiler, Cubin, compile_cubin
from tuner.types import Device

SCHEDULED = "tirx.is_scheduled"  # the mark by which dlight leaves a function alone
_HOST = {"kind": "llvm"}  # any x86-64 or arm64 host of this kind: it only launches
# Tensor cores that sum in float32 lower with the second only, reductions across threads with the first only.
_WAYS: tuple[dict[str, Any], ...] = ({}, {"tirx.merge_static_smem": True})
_WAY, _PIPELINE = "fusetune.way", "fusetune"
_RULES = (
    dlight.gpu.Matmul, dlight.gpu.GEMV, dlight.gpu.Reduction, dlight.gpu.GeneralReduction, dlight.gpu.Fallback,
)  # fmt: skip


@dataclass(frozen=True)
class Built:
    """A library on disk and the cubins that it needs, by digest of the CUDA C that they replace."""

    library: Path
    cubins: dict[str, Cubin]
    way: int = 0  # of lowering, that worked

    @property
    def spills(self) -> int:
        """Bytes that a thread of the greediest kernel spills."""
        return max((cubin.spills for cubin in self.cubins.values()), default=0)


def target_of(device: Device) -> Any:
    """The TVM target of a GPU, with a plain host."""
    return tvm.target.Target(device.target(), host=_HOST)


def with_defaults(module: Any, target: Any) -> Any:
    """``module`` with dlight's default schedule for every function that has none; itself it stays as it is."""
    functions = [f for f in module.functions.values() if isinstance(f, tvm.tirx.PrimFunc) and not _scheduled(f)]
    if any(str(p.dtype) == "float16" for f in functions for p in f.params):
        load_intrinsics("cuda")  # dlight takes tensor cores for float16
    copy = tvm.IRModule(dict(module.functions.items()), attrs=module.attrs)  # dlight changes what it is given
    with target:
        return dlight.ApplyDefaultSchedule(*(rule() for rule in _RULES))(copy)


def _scheduled(function: Any) -> bool:
    return bool(function.attrs) and SCHEDULED in function.attrs


def build_model(module: Any, target: Any, library: Path, arch: str, compiler: Compiler, threads: int = 1) -> Built:
    """Compile a whole scheduled model. Raises InternalError when a kernel cannot be lowered or compiled."""
    try:
        with _Inline(arch, compiler, threads) as inline:
            executable, _ = _compiled(module, target, relax_pipeline=pipeline())
            return _export(executable, library, arch, compiler, inline.cubins, threads)
    except (tvm.error.InternalError, ValueError, RuntimeError, CandidateError) as error:
        raise InternalError(f"The model does not compile: {_last(error)}", code="build-failed") from error


def build_kernel(module: Any, target: Any, library: Path, arch: str, compiler: Compiler) -> Built:
    """Compile a module with one scheduled function "main". Raises CandidateError (``build-failed``)."""
    try:
        with _Inline(arch, compiler) as inline:
            executable, way = _compiled(module, target)
            return replace(_export(executable, library, arch, compiler, inline.cubins), way=way)
    except (tvm.error.InternalError, ValueError, RuntimeError) as error:
        raise CandidateError(f"TVM cannot lower the kernel: {_last(error)}", code="build-failed") from error


def marked(function: Any, way: int) -> Any:
    """A scheduled PrimFunc that whole models lower as it was lowered by itself: ``Built.way``."""
    return function.with_attr(_WAY, way)


def cuda_of(module: Any, target: Any) -> str:
    """The CUDA C of a scheduled module, not compiled."""
    executable, _ = _compiled(module, target)
    return "\n".join(_sources(executable.mod))


def _compiled(module: Any, target: Any, **options: Any) -> tuple[Any, int]:
    """What the first way to lower that works makes, and its number. Raises what TVM says of the first."""
    tvm.tirx.register_tir_pipeline(_PIPELINE, _each_its_way)
    first: tvm.error.InternalError | None = None
    for number, way in enumerate(_WAYS):
        try:
            with tvm.transform.PassContext(config=way):
                return tvm.compile(module, target=target, tir_pipeline=_PIPELINE, **options), number
        except tvm.error.InternalError as error:
            first = first or error
    assert first is not None
    raise first


def _each_its_way() -> tuple[Any, Any, Any]:
    """TVM's pipeline for schedules such as ours, which takes one way for all, with each marked function's own."""
    inner, for_hosts, for_devices = tvm.tirx.get_tir_pipeline("s_tir")

    @tvm.transform.module_pass(opt_level=0)
    def lower(module: Any, _: Any) -> Any:
        groups: dict[int | None, dict[Any, Any]] = {}
        for variable, function in module.functions.items():
            way = function.attrs[_WAY] if function.attrs and _WAY in function.attrs else None
            groups.setdefault(None if way is None else int(way), {})[variable] = function
        done: dict[Any, Any] = {}
        for number, functions in groups.items():
            part = tvm.IRModule(functions, attrs=module.attrs)
            if number is None:
                part = inner(part)
            else:
                with tvm.transform.PassContext(config=_WAYS[number]):
                    part = inner(part)
            done |= dict(part.functions.items())
        return tvm.IRModule(done, attrs=module.attrs)

    return lower, for_hosts, for_devices


class _Inline:
    """Inside, TVM has CUDA C compiled by our compiler.

    It asks for that while it builds only where the CUDA runtime and a driver are: the machine code is then in the
    library as well. ``cubins`` holds it by digest.
    """

    def __init__(self, arch: str, compiler: Compiler, threads: int = 1) -> None:
        self._arch, self._compiler, self._threads = arch, compiler, threads
        self._refused: CandidateError | None = None
        self.cubins: dict[str, Cubin] = {}

    def __enter__(self) -> _Inline:
        tvm_ffi.register_global_func("tvm_callback_cuda_compile", self._compile, override=True)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None and self._refused is not None:  # rather than TVM's words for it
            raise self._refused

    def _compile(self, source: object, *_: object) -> bytes:
        try:
            cubin = compile_cubin(str(source), self._arch, self._compiler, self._threads)
        except CandidateError as error:
            self._refused = error
            raise
        self.cubins[digest_of(str(source))] = cubin
        return cubin.code


def _export(
    executable: Any, library: Path, arch: str, compiler: Compiler, known: Mapping[str, Cubin], threads: int = 1
) -> Built:  # fmt: skip
    sources = {digest_of(source): source for source in _sources(executable.mod)}
    cubins = {
        digest: known.get(digest) or compile_cubin(source, arch, compiler, threads)
        for digest, source in sources.items()
    }
    executable.export_library(
        str(library), fcompile=lambda output, objects, **_: link([Path(o) for o in objects], Path(output))
    )
    return Built(library, cubins)


def _sources(module: Any) -> Iterator[str]:
    """The CUDA C in a compiled module and all that it imports."""
    if str(module.kind) == "cuda":
        yield str(module.inspect_source())
    for imported in module.imports:
        yield from _sources(imported)


def _last(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[-1][:300] if text else type(error).__name__
