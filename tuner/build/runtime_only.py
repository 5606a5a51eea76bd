"""TVM's runtime without its compiler, for processes that run artifacts and build nothing."""

from __future__ import annotations

import os
import sys


def runtime_only() -> None:
    """Let this process load TVM's runtime alone, unless it has loaded TVM: about 150 MB of memory less.

    PyTorch, which TVM's bindings import where it is installed (as much again), stays away as well.
    """
    if "tvm_ffi" not in sys.modules:
        os.environ.setdefault("TVM_USE_RUNTIME_LIB", "1")
        sys.modules.setdefault("torch", None)  # type: ignore[arg-type]  # an import of it fails, as if it were not there
