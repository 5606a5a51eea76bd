"""Build functions for the runner's tests. Most compile a few lines of C, so that the measuring side is the real one."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tuner.build.binary import Arg, KernelBinary
from tuner.errors import CandidateError
from tuner.graph.ir import Constant, Graph, Layer, Tensor
from tuner.plan.layout import Pack
from tuner.types import Candidate, Device, digest

N = 1000


def workload(n: int = N) -> Graph:
    """t0 = i0 * c0, elementwise."""
    tensors = {name: Tensor(name, (n,)) for name in ("i0", "t0")}
    layer = Layer("l0", "Mul", ("i0", "c0"), ("t0",))
    return Graph(("i0",), ("t0",), (layer,), tensors, {"c0": Constant("c0", (n,))})


def candidate(what: str, number: int = 0, n: int = N, residency: str = "dram") -> Candidate:
    graph = workload(n).to_json()
    layouts = {"i0": "plain", "t0": "plain"}
    return Candidate(graph, digest(graph), layouts, what, 1, {"number": number}, 1, "fp32", residency)


def to_onnx(graph: Graph, arrays: Mapping[str, np.ndarray]) -> Any:
    from onnx import TensorProto, helper, numpy_helper

    types = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}

    def info(name: str) -> Any:
        tensor = graph.type_of(name)
        return helper.make_tensor_value_info(name, types[tensor.dtype], tensor.shape)

    nodes = [helper.make_node(x.op, x.inputs, x.outputs, x.id, **dict(x.attrs)) for x in graph.layers]
    weights = [numpy_helper.from_array(np.asarray(arrays[n]), n) for n in graph.constants]
    made = helper.make_graph(nodes, "workload", [*map(info, graph.inputs)], [*map(info, graph.outputs)], weights)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", graph.opset)], ir_version=10)


BODIES = {
    "good": "for (long i = 0; i < n; ++i) y[i] = x[i] * w[i];",
    "wrong": "for (long i = 0; i < n; ++i) y[i] = x[i] * w[i] + (i == n / 2) * 0.01f;",
    "unwritten": "for (long i = 0; i < n - 1; ++i) y[i] = x[i] * w[i];",
    "segfault": r'fputs("about to crash\n", stderr); raise(SIGSEGV);',
    "hang": "signal(SIGTERM, SIG_IGN); for (;;) ;",
    "hang_with_child": "if (!fork()) for (;;) pause(); for (;;) ;",
    "eat": "for (;;) { char *p = malloc(1 << 22); memset(p, 1, 1 << 22); usleep(2000); }",
    "exit": "_exit(3);",
    "bad_alloc": r'fputs("terminate called after throwing an instance of std::bad_alloc\n", stderr); abort();',
    "clobbers": "for (long i = 0; i < n; ++i) { y[i] = x[i] * w[i]; x[i] = w[i] = 0; }",
    "chatty": 'for (long i = 0; i < n; ++i) y[i] = x[i] * w[i]; printf("{}\\n"); fflush(stdout);',
}
SOURCE = r"""
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <tvm/ffi/c_api.h>
static float *data(const TVMFFIAny *a) {
  void *t = a->type_index == kTVMFFIDLTensorPtr ? a->v_ptr : (char *)a->v_obj + sizeof(TVMFFIObject);
  return ((DLTensor *)t)->data;
}
int __tvm_ffi_main(void *self, const TVMFFIAny *args, int32_t count, TVMFFIAny *result) {
  float *x = data(args), *w = data(args + 1), *y = data(args + 2);
  long n = %d;
  %s
  return 0;
}
"""


def build(candidate: Candidate, device: Device, library: Path) -> KernelBinary:
    """Does what the candidate's template name says, in the builder if it starts with "build_", else in the kernel."""
    what = candidate.template
    n = candidate.workload["tensors"]["i0"][1][0]
    if what == "build_segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif what == "build_hang":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            pass
    elif what in ("build_hang_with_child", "build_hang_with_grandchild"):
        subprocess.Popen(["sleep", "1000"], start_new_session=what == "build_hang_with_child")
        subprocess.run(["sleep", "1000"], check=True)
    elif what == "build_eat":
        hoard = []
        while True:
            hoard.append(b"x" * (1 << 22))
            time.sleep(0.002)
    elif what == "build_memory_error":
        raise MemoryError
    elif what == "build_error":
        raise ValueError("no such\nschedule")
    elif what == "build_rejected":
        raise CandidateError("It spills.", code="rejected")
    elif what == "build_littering_hang":
        library.with_suffix(".o").touch()
        time.sleep(1000)
    elif what == "build_slow_fork":
        fork = library.with_suffix(".fork.so")
        compile_c("#include <unistd.h>\nvoid slow(void) { if (!vfork()) { usleep(300000); _exit(0); } }", fork)
        hoard = bytearray(80 << 20)
        ctypes.CDLL(str(fork)).slow()
        del hoard
    elif what == "build_slow":
        time.sleep(0.3)
    source = SOURCE % (n, BODIES[what if not what.startswith("build_") else "good"])
    compile_c(source, library)
    shape = (n,) if what != "build_misshapen" else (n + 1,)
    args = [Arg("i0", "input", shape, "float32"), Arg("c0", "constant", (n,), "float32")]
    args += [Arg("t0", "output", (n,), "float32")]
    return KernelBinary(str(library), "main", tuple(args), {"c0": Pack((("reshape", [n]),))})


def compile_c(source: str, library: Path) -> None:
    from tvm_ffi.libinfo import find_dlpack_include_path, find_include_path

    include = [f"-I{find_include_path()}", f"-I{find_dlpack_include_path()}"]
    command = ["cc", "-O1", "-shared", "-fPIC", "-w", "-x", "c", "-", *include, "-o", str(library)]
    subprocess.run(command, input=source, text=True, check=True)
