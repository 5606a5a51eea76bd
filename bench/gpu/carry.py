"""What a bare machine lacks to run our kernels: TVM's runtime without its compiler, unpacked, for its Python."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib.metadata import distribution
from pathlib import Path

from bench.gpu.kit import size_of
from tuner.errors import UserError

PYTHON = "3.12"  # of the machine with the GPU
_FFI = "apache-tvm-ffi"
_LIBRARIES = ("libtvm_runtime.so", "libtvm_runtime_cuda.so", "libtvm_runtime_extra.so")
_NEEDED = (".py", ".so", ".json", "METADATA", "RECORD")  # ends of the files of the ffi wheel that running takes
_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_24_x86_64", "manylinux2014_x86_64")


def carry(folder: Path, python: str = PYTHON) -> list[str]:
    """Fill ``folder`` (replaced); for PYTHONPATH there. Returns what is in it, with sizes.

    TVM's Python files and runtime libraries come from this environment, the compiled ffi from the registry's wheel for
    ``python``, through pip. Raises UserError (``no-wheel``) where pip has none.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    installed = distribution("apache-tvm")
    for path in installed.files or ():
        source = Path(str(installed.locate_file(path)))
        if (
            path.parts[0] == "tvm"
            and (path.suffix == ".py" or path.name in _LIBRARIES)
            and "/include/" not in str(path)
        ):
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as scratch:
        wheel = _download(f"{_FFI}=={distribution(_FFI).version}", python, Path(scratch))
        with zipfile.ZipFile(wheel) as archive:
            wanted = [name for name in archive.namelist() if name.endswith(_NEEDED)]
            archive.extractall(folder, wanted)
    (folder / "LIST.txt").write_text("\n".join(listed := _listed(folder)) + "\n")
    return [*listed, f"{size_of(folder) / 2**20:.1f} MiB in all: PYTHONPATH={folder} there, with Python {python}"]


def _download(requirement: str, python: str, folder: Path) -> Path:
    platforms = [word for name in _PLATFORMS for word in ("--platform", name)]
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "--python-version",
               python, "--implementation", "cp", *platforms, "-d", str(folder), requirement]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = next(iter(folder.glob("*.whl")), None)
    if found is None:
        said = (done.stderr.strip().splitlines() or ["pip says nothing"])[-1]
        raise UserError(f"pip has no wheel of {requirement} for Python {python}: {said}", code="no-wheel")
    return found


def _listed(folder: Path) -> list[str]:
    return [f"{name.name}: {size_of(name) / 2**20:.1f} MiB" for name in sorted(folder.iterdir()) if name.is_dir()]
