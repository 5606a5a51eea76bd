"""From a compiled TVM module to a shared library, with whatever linker the machine has."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from tuner.errors import InternalError

_COMPILERS = ("cc", "gcc", "clang")
_DEBUG = re.compile(r"^\s*\.(?:file\s+\d|loc\s).*$", re.M)  # line numbers: Debian's assembler cannot read LLVM's form
_LABEL = re.compile(r"^\.?\w+:", re.M)
_SPILLS = {
    stack: re.compile(
        rf"^\s*v?mov(?:[au]p[sd]|dq[au](?:32|64))\b.*(?:%zmm\d+, .*\({stack}\)|\({stack}\), %zmm\d+)", re.M
    )
    for stack in ("%rsp", "%r[sb]p")
}
_END = re.compile(r"^\s*\.cfi_endproc", re.M)
_FRAME = re.compile(r"^\s*movq\s+%rsp, %rbp", re.M)
_PRODUCT = re.compile(r"^\s*v(?:fn?m(?:add|sub)\w*p[sd]|dpbf16ps|pdpbusd)\b.*%zmm", re.M)
_OTHER = re.compile(r"^\s*v(?:add|sub|mul)p[sd]\b.*%zmm", re.M)


@cache
def linker() -> tuple[str, ...]:
    """Command that links objects into a shared library: plain ld first (5 ms), then a C compiler.

    Raises InternalError(code="no-linker") when the machine has neither.
    """
    if path := shutil.which("ld") or shutil.which("ld.lld"):
        return (path, "-shared")
    for name in _COMPILERS:
        if path := shutil.which(name):
            return (path, "-shared", "-nostdlib")
    raise InternalError(
        "No linker was found.", code="no-linker", hint="Install one, for example: apt-get install binutils."
    )


def link(objects: list[Path], library: Path) -> None:
    """Link ``objects`` into ``library``. Raises InternalError with the linker's own words."""
    command = [*linker(), "-o", str(library), *map(str, objects)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InternalError(f"The linker failed: {done.stderr.strip()[-400:]}", code="link-failed")


def emit_object(module: Any, path: Path) -> int:
    """Write a compiled kernel as the object file ``path``; returns how often it ``spills``.

    The assembly is emitted once and serves both as what is counted and as what is assembled; without an assembler the
    object is written directly and the count is -1 (unknown).
    """
    if assembler := shutil.which("as"):
        text = module.inspect_source("asm")
        command = [assembler, "-o", str(path), "-"]
        done = subprocess.run(command, input=_DEBUG.sub("", text), capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return spills(text)
    module.write_to_file(str(path))  # no assembler, or one too old for this processor
    return -1


def spills(assembly: str) -> int:
    """How often stretches of code that hardly do anything but multiply and add move a vector register to or from the
    stack.

    Those are the loops over input channels, which decide what a kernel costs. What is run once per tile, such as
    Winograd's transforms (36 values at a time) and the layers behind a convolution, may spill and still be the fastest.
    """
    return sum(_spills(function) for function in _END.split(assembly))


def _spills(function: str) -> int:
    # Where no frame begins at it, %rbp is a register as any other, and may hold the address of weights.
    spill = _SPILLS["%r[sb]p" if _FRAME.search(function) else "%rsp"]
    stretches = _LABEL.split(function)
    return sum(len(spill.findall(s)) for s in stretches if len(_PRODUCT.findall(s)) > 2 * len(_OTHER.findall(s)))


def assemble(module: Any, library: Path) -> None:
    """Write a compiled kernel as the shared library ``library``."""
    objects = library.with_suffix(".o")
    try:
        emit_object(module, objects)
        link([objects], library)
    finally:
        objects.unlink(missing_ok=True)
