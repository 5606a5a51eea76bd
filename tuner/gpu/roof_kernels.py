"""Small kernels that show what a GPU can do at most: multiply-adds, tensor cores, a copy through device memory.

Each computes something known exactly, so that one that did not run is not taken for a fast one. Those that compute keep
a block's registers busy with independent chains; the compiler may not shorten them (``asm volatile``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm.script import tirx as T

from tuner.gpu.spec import WARP, GpuSpec

SECONDS = 2e-3  # that a launch should take, by the data sheet
THREADS = 256  # of a block
COPIED = 64 << 20  # B at least, and
CACHES = 4  # times as much as L2 holds
_CHAINS, _TILES = 8, 4  # independent sums of a thread; accumulators of a warp
_PARTS, _LANES = 4, 4  # of what a thread copies: numbers moved together, and how often
FP32, FP16, TF32, BANDWIDTH = "fp32", "fp16", "tf32", "bandwidth"


@dataclass(frozen=True)
class Kernel:
    """One kernel, which maps ``size`` float32 to as many."""

    name: str
    module: Any  # IRModule with the scheduled function as "main"
    size: int
    factor: float  # of the output over the input
    work: float  # floating-point operations of one launch, a multiply-add being two; or bytes, read and written

    def expected(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(x * np.float32(self.factor), np.float32)


def kernels(spec: GpuSpec) -> tuple[Kernel, ...]:
    """What is measured on this GPU; without tensor cores, none for them."""
    blocks = spec.sms * max(1, spec.threads // THREADS)
    found = [_chains(spec, blocks)]
    for name, peak, depth in ((FP16, spec.tensor_fp16, 16), (TF32, spec.tensor_tf32, 8)):
        if peak:
            found.append(_tiles(name, peak, depth, blocks))
    return (*found, _copy(spec))


def _chains(spec: GpuSpec, blocks: int) -> Kernel:
    """x = x / 2 + x0 / 2 in each chain, whose x0 are multiples of the input: they stay what they are."""
    threads = blocks * THREADS
    steps = max(1, round(SECONDS * spec.peak / (2 * _CHAINS * threads)))
    source = f"""
__forceinline__ __device__ float fusetune_chains(float x) {{
  float sum[{_CHAINS}], half[{_CHAINS}], all = 0;
#pragma unroll
  for (int c = 0; c < {_CHAINS}; ++c) {{ sum[c] = x * (c + 1); half[c] = sum[c] * 0.5f; }}
#pragma unroll 16
  for (int step = 0; step < {steps}; ++step) {{
#pragma unroll
    for (int c = 0; c < {_CHAINS}; ++c)
      asm volatile("fma.rn.f32 %0, %0, %1, %2;" : "+f"(sum[c]) : "f"(0.5f), "f"(half[c]));
  }}
#pragma unroll
  for (int c = 0; c < {_CHAINS}; ++c) all += sum[c];
  return all;
}}
"""
    factor = _CHAINS * (_CHAINS + 1) / 2
    module = _each(blocks, "fusetune_chains", source)
    return Kernel(FP32, module, threads, factor, 2.0 * _CHAINS * steps * threads)


def _tiles(name: str, peak: float, depth: int, blocks: int) -> Kernel:
    """Products of a matrix of ones and one of powers of two, added up again and again: exact in float32."""
    warps = blocks * THREADS // WARP
    operations = 2.0 * 16 * 8 * depth
    steps = max(1, round(SECONDS * peak / (operations * _TILES * warps)))
    kind, ones, small = (
        ("f16", "0x3c003c00u", "0x0c000c00u") if name == FP16 else ("tf32", "0x3f800000u", "0x3a000000u")
    )
    function = f"fusetune_tiles_{name}"
    source = f"""
__forceinline__ __device__ float {function}(float x) {{
  float sum[{_TILES}][4], all = 0;
  unsigned a = {ones}, b = {small};
#pragma unroll
  for (int t = 0; t < {_TILES}; ++t) sum[t][0] = sum[t][1] = sum[t][2] = sum[t][3] = 0;
#pragma unroll 8
  for (int step = 0; step < {steps}; ++step) {{
#pragma unroll
    for (int t = 0; t < {_TILES}; ++t)
      asm volatile("mma.sync.aligned.m16n8k{depth}.row.col.f32.{kind}.{kind}.f32 "
                   "{{%0, %1, %2, %3}}, {{%4, %4, %4, %4}}, {{%5, %5}}, {{%0, %1, %2, %3}};"
                   : "+f"(sum[t][0]), "+f"(sum[t][1]), "+f"(sum[t][2]), "+f"(sum[t][3]) : "r"(a), "r"(b));
  }}
#pragma unroll
  for (int t = 0; t < {_TILES}; ++t) all += sum[t][0] + sum[t][1] + sum[t][2] + sum[t][3];
  return x * all;
}}
"""
    factor = 4.0 * _TILES * steps * 2.0**-8  # 16 x 2^-12, or 8 x 2^-11, a step
    module = _each(blocks, function, source)
    return Kernel(name, module, blocks * THREADS, factor, operations * _TILES * steps * warps)


def _each(blocks: int, function: str, source: str) -> Any:
    """A module that hands each number to a device function, one a thread."""
    size, threads = blocks * THREADS, THREADS

    @T.prim_func(s_tir=True)
    def main(x: T.Buffer((size,), "float32"), y: T.Buffer((size,), "float32")) -> None:  # type: ignore[valid-type]
        T.func_attr({"global_symbol": "main", "tirx.noalias": True})
        for b in T.thread_binding(blocks, "blockIdx.x"):
            for t in T.thread_binding(threads, "threadIdx.x"):
                with T.sblock("y"):
                    i = T.axis.spatial(size, b * threads + t)
                    T.reads(x[i])
                    T.writes(y[i])
                    y[i] = T.cuda.func_call(function, x[i], source_code=source, return_type="float32")

    return tvm.IRModule({"main": main})


def _copy(spec: GpuSpec) -> Kernel:
    part = THREADS * _PARTS * _LANES
    blocks = -(-max(COPIED, CACHES * spec.l2) // (4 * part))
    size, threads, parts, lanes = blocks * part, THREADS, _PARTS, _LANES

    @T.prim_func(s_tir=True)
    def main(x: T.Buffer((size,), "float32"), y: T.Buffer((size,), "float32")) -> None:  # type: ignore[valid-type]
        T.func_attr({"global_symbol": "main", "tirx.noalias": True})
        for b in T.thread_binding(blocks, "blockIdx.x"):
            for t in T.thread_binding(threads, "threadIdx.x"):
                for p in T.unroll(parts):
                    for v in T.vectorized(lanes):
                        with T.sblock("y"):
                            i = T.axis.spatial(size, ((b * parts + p) * threads + t) * lanes + v)
                            T.reads(x[i])
                            T.writes(y[i])
                            y[i] = x[i]

    return Kernel(BANDWIDTH, tvm.IRModule({"main": main}), size, 1.0, 2.0 * 4 * size)
