"""CUDA C to cubin, without a GPU: with the nvcc on PATH, or with NVIDIA's compiler from its wheels (extra ``gpu``)."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tuner.errors import CandidateError, InternalError, UserError

SECONDS = 60.0  # that half a kernel may take to compile: TVM declares each before it defines it
_OPTIONS = ("--cubin", "-O3", "-w", "-Xptxas=-v")
_SPLITS = (12, 8)  # the release from which nvcc and its assembler both compile kernels of one source side by side
_RELEASE = re.compile(r"release (\d+\.\d+)")
_REGISTERS = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")
_SPILLS = re.compile(r"(\d+) bytes spill (?:stores|loads)")
_KERNEL = "__global__"
_ERROR = re.compile(r"^.*?\berror\b\s*:?\s*(.*)$", re.M)


@dataclass(frozen=True)
class Compiler:
    """An nvcc that works."""

    path: Path
    version: str  # "13.0"
    archs: tuple[str, ...]  # "sm_86" ...

    def require(self, arch: str) -> None:
        """Raise UserError (``unknown-arch``) when it cannot compile for ``arch``."""
        if arch not in self.archs:
            raise UserError(
                f"nvcc {self.version} ({self.path}) does not know the architecture {arch}.", code="unknown-arch",
                hint=f"It knows {', '.join(self.archs)}.",
            )  # fmt: skip

    @property
    def name(self) -> str:
        """For toolchains: "nvcc-13.0"."""
        return f"nvcc-{self.version}"

    def parallel(self, threads: int) -> tuple[str, ...]:
        """The options with which it uses so many threads for one source; none where it knows no such."""
        if threads < 2 or tuple(map(int, self.version.split("."))) < _SPLITS:
            return ()
        return (f"-split-compile={threads}", f"-Xptxas=-split-compile={threads}")

    def to_json(self) -> dict[str, Any]:
        return {"path": str(self.path), "version": self.version, "archs": list(self.archs)}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Compiler:
        return Compiler(Path(data["path"]), data["version"], tuple(data["archs"]))


@dataclass(frozen=True)
class Cubin:
    """Machine code of one or more kernels, and what the assembler says of the greediest of them."""

    code: bytes
    registers: int  # of a thread, 32 bits each
    shared: int  # B of a block, static
    spills: int  # B that a thread stores to or loads from local memory for want of registers


def find_nvcc() -> Compiler:
    """The nvcc on PATH if it works, else that of NVIDIA's wheel.

    Raises InternalError (``no-nvcc``) when there is none, or none that works.
    """
    failed = []
    for path in _candidates():
        try:
            return _examine(path)
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            failed.append(f"{path}: {error}")
    reason = f" What was found does not work: {failed[0]}." if failed else ""
    raise InternalError(
        f"No nvcc was found on PATH or among NVIDIA's wheels.{reason}", code="no-nvcc",
        hint="Install CUDA's compiler, for example: pip install 'fusetune[gpu]'.",
    )  # fmt: skip


def compile_cubin(source: str, arch: str, compiler: Compiler, threads: int = 1) -> Cubin:
    """Compile CUDA C; each declaration and definition of a kernel adds ``SECONDS`` to what that may take.

    Raises CandidateError (``build-failed``) with the compiler's first complaint.
    """
    limit = SECONDS * max(1, source.count(_KERNEL))
    with tempfile.TemporaryDirectory(prefix="fusetune-nvcc-") as folder:
        code, target = Path(folder, "kernel.cu"), Path(folder, "kernel.cubin")
        code.write_text(source)
        options = (*_OPTIONS, *compiler.parallel(threads), f"-arch={arch}")
        command = [str(compiler.path), *options, "-o", str(target), str(code)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
        except subprocess.TimeoutExpired:
            raise CandidateError(f"nvcc did not end within {limit:g} s.", code="build-failed") from None
        if done.returncode or not target.exists():
            said = _ERROR.search(done.stderr + done.stdout)
            reason = said.group(1).strip() if said else f"it ended with {done.returncode}"
            raise CandidateError(f"nvcc refuses the kernel: {reason[:300]}", code="build-failed")
        log = done.stderr + done.stdout
        return Cubin(
            target.read_bytes(),
            registers=max(map(int, _REGISTERS.findall(log)), default=0),
            shared=max(map(int, _SHARED.findall(log)), default=0),
            spills=sum(map(int, _SPILLS.findall(log))),
        )


def _candidates() -> list[Path]:
    found = shutil.which("nvcc")
    paths = [Path(found)] if found else []
    spec = find_spec("nvidia")
    for folder in spec.submodule_search_locations or () if spec else ():
        paths += sorted(Path(folder).glob("cu*/bin/nvcc"), reverse=True)
    return paths


@lru_cache(maxsize=8)
def _examine(path: Path) -> Compiler:
    def ask(*options: str) -> str:
        done = subprocess.run([str(path), *options], capture_output=True, text=True, timeout=30, check=True)
        return done.stdout

    release = _RELEASE.search(ask("--version"))
    archs = tuple(arch.replace("compute_", "sm_") for arch in ask("--list-gpu-arch").split())
    if release is None or not archs:
        raise ValueError("it does not say which version it is")
    return Compiler(path, release.group(1), archs)
