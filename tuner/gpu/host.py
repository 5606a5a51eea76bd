"""This machine's CPU, on which things for GPUs are checked, as the TVM that this process has loaded names it."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from tvm.target import codegen

from tuner.measure.device import read_cpu
from tuner.types import Device


@lru_cache(maxsize=1)
def host() -> Device:
    """As ``detect_cpu``, without another process that imports TVM."""
    return read_cpu(Path("/"), os.sched_getaffinity(0), str(codegen.llvm_get_system_cpu()))
