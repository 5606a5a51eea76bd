"""TVM tensor intrinsics for float32 multiplied as tf32 on NVIDIA's tensor cores: loops, and what replaces them.

Twice each: in the scopes and shapes by which MetaSchedule's rule tiles (``SHAPES``), and laid out as a warp's registers
hold it, with the instructions (``WARP``). A lane keeps its registers in the scope "local", at lane 0 of the buffer:
every thread has one of its own.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from tvm.s_tir import TensorIntrin
from tvm.script import tirx as T

from tuner.designs.fragments import LANES, A, B, C, Fragment, K, M, N

SHAPES, WARP = "fusetune_tf32_shape_", "fusetune_tf32_"  # what MetaSchedule tiles by; what replaces that
INIT, MMA, STORE, LOAD_A, LOAD_B = "init", "mma", "store", "load_a", "load_b"
TRANS = "_trans"  # behind the names for B stored transposed
SHARED, OWN = "shared.dyn", "local"
_ROUND = "fusetune_round_tf32"
_ROUND_SOURCE = f"""
__forceinline__ __device__ float {_ROUND}(float x) {{
  unsigned y;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
  return __uint_as_float(y);
}}
"""
_MULTIPLY = "fusetune_mma_tf32"
_MULTIPLY_SOURCE = f"""
__forceinline__ __device__ void {_MULTIPLY}(float* c, const float* a, const float* b) {{
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {{%0, %1, %2, %3}}, {{%4, %5, %6, %7}}, {{%8, %9}}, "
      "{{%0, %1, %2, %3}};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])),
        "r"(__float_as_uint(a[3])), "r"(__float_as_uint(b[0])), "r"(__float_as_uint(b[1])));
}}
"""


@cache
def register() -> None:
    """Register the intrinsics with TVM, once."""
    for trans in (False, True):
        suffix = TRANS if trans else ""
        shape = _shape_mma(trans)
        TensorIntrin.register(SHAPES + MMA + suffix, shape, shape)
        TensorIntrin.register(WARP + MMA + suffix, *_warp_mma())
        loaded = B.swapped() if trans else B
        shape = _shape_copy(loaded.rows, loaded.columns, SHARED, "wmma.matrix_b")
        TensorIntrin.register(SHAPES + LOAD_B + suffix, shape, shape)
        TensorIntrin.register(WARP + LOAD_B + suffix, *_warp_load(loaded))
    shape = _shape_copy(M, K, SHARED, "wmma.matrix_a")
    TensorIntrin.register(SHAPES + LOAD_A, shape, shape)
    TensorIntrin.register(WARP + LOAD_A, *_warp_load(A))
    shape = _shape_copy(M, N, "wmma.accumulator", SHARED)
    TensorIntrin.register(SHAPES + STORE, shape, shape)
    TensorIntrin.register(WARP + STORE, *_warp_store())
    shape = _shape_init()
    TensorIntrin.register(SHAPES + INIT, shape, shape)
    TensorIntrin.register(WARP + INIT, *_warp_init())


# what MetaSchedule tiles by: loops over matrices, in the scopes that its rule gives them ------------------------------


def _shape_copy(rows: int, columns: int, source: str, target: str) -> Any:
    @T.prim_func(s_tir=True)
    def copy(a: T.handle, b: T.handle) -> None:
        x = T.match_buffer(a, (rows, columns), "float32", align=64, offset_factor=1, scope=source)
        y = T.match_buffer(b, (rows, columns), "float32", align=64, offset_factor=1, scope=target)
        with T.sblock("root"):
            T.reads(x[0:rows, 0:columns])
            T.writes(y[0:rows, 0:columns])
            for i, j in T.grid(rows, columns):
                with T.sblock("copy"):
                    vi, vj = T.axis.remap("SS", [i, j])
                    y[vi, vj] = x[vi, vj]

    return copy


def _shape_init() -> Any:
    @T.prim_func(s_tir=True)
    def init(c: T.handle) -> None:
        z = T.match_buffer(c, (M, N), "float32", align=64, offset_factor=1, scope="wmma.accumulator")
        with T.sblock("root"):
            T.reads()
            T.writes(z[0:M, 0:N])
            for i, j in T.grid(M, N):
                with T.sblock("init"):
                    vi, vj = T.axis.remap("SS", [i, j])
                    z[vi, vj] = T.float32(0)

    return init


def _shape_mma(trans: bool) -> Any:
    def of_b(k: Any, j: Any) -> tuple[Any, Any]:
        return (j, k) if trans else (k, j)

    @T.prim_func(s_tir=True)
    def mma(a: T.handle, b: T.handle, c: T.handle) -> None:
        x = T.match_buffer(a, (M, K), "float32", align=64, offset_factor=1, scope="wmma.matrix_a")
        y = T.match_buffer(b, of_b(K, N), "float32", align=64, offset_factor=1, scope="wmma.matrix_b")
        z = T.match_buffer(c, (M, N), "float32", align=64, offset_factor=1, scope="wmma.accumulator")
        with T.sblock("root"):
            T.reads(z[0:M, 0:N], x[0:M, 0:K], y[0:8, 0:8])
            T.writes(z[0:M, 0:N])
            for i, j, k in T.grid(M, N, K):
                with T.sblock("mma"):
                    vi, vj, vk = T.axis.remap("SSR", [i, j, k])
                    row, column = T.meta_var(of_b(vk, vj))
                    z[vi, vj] = z[vi, vj] + x[vi, vk] * y[row, column]

    return mma


# what replaces it: the same loops over lanes and registers, and instructions ------------------------------------------


def _warp_load(fragment: Fragment) -> tuple[Any, Any]:
    rows, columns, registers = fragment.rows, fragment.columns, fragment.registers
    place, element = fragment.place, fragment.element

    @T.prim_func(s_tir=True)
    def loops(a: T.handle, b: T.handle) -> None:
        x = T.match_buffer(a, (rows, columns), "float32", align=64, offset_factor=1, scope=SHARED)
        y = T.match_buffer(b, (LANES, registers), "float32", align=64, offset_factor=1, scope=OWN)
        with T.sblock("root"):
            T.reads(x[0:rows, 0:columns])
            T.writes(y[0:LANES, 0:registers])
            for i, j in T.grid(rows, columns):
                with T.sblock("load"):
                    vi, vj = T.axis.remap("SS", [i, j])
                    lane, register = T.meta_var(place(vi, vj))
                    T.reads(x[vi, vj])
                    T.writes(y[lane, register])
                    y[lane, register] = x[vi, vj]

    @T.prim_func(s_tir=True)
    def loads(a: T.handle, b: T.handle) -> None:
        s0 = T.int32()
        s1 = T.int32()
        x = T.match_buffer(a, (rows, columns), "float32", align=64, offset_factor=1, scope=SHARED, strides=[s0, s1])
        y = T.match_buffer(b, (LANES, registers), "float32", align=64, offset_factor=1, scope=OWN)
        with T.sblock("root"):
            T.reads(x[0:rows, 0:columns])
            T.writes(y[0:LANES, 0:registers])
            for tx in T.thread_binding(0, LANES, "threadIdx.x"):
                for r in T.unroll(registers):
                    row, column = T.meta_var(element(tx, r))
                    y[0, r] = T.cuda.func_call(_ROUND, x[row, column], source_code=_ROUND_SOURCE, return_type="float32")

    return loops, loads


def _warp_init() -> tuple[Any, Any]:
    place, registers = C.place, C.registers

    @T.prim_func(s_tir=True)
    def loops(c: T.handle) -> None:
        z = T.match_buffer(c, (LANES, registers), "float32", align=64, offset_factor=1, scope=OWN)
        with T.sblock("root"):
            T.reads()
            T.writes(z[0:LANES, 0:registers])
            for i, j in T.grid(M, N):
                with T.sblock("init"):
                    vi, vj = T.axis.remap("SS", [i, j])
                    lane, register = T.meta_var(place(vi, vj))
                    T.reads()
                    T.writes(z[lane, register])
                    z[lane, register] = T.float32(0)

    @T.prim_func(s_tir=True)
    def zeros(c: T.handle) -> None:
        z = T.match_buffer(c, (LANES, registers), "float32", align=64, offset_factor=1, scope=OWN)
        with T.sblock("root"):
            T.reads()
            T.writes(z[0:LANES, 0:registers])
            for _tx in T.thread_binding(0, LANES, "threadIdx.x"):
                for r in T.unroll(registers):
                    z[0, r] = T.float32(0)

    return loops, zeros


def _warp_mma() -> tuple[Any, Any]:
    of_a, of_b, of_c = A.place, B.place, C.place
    in_a, in_b, in_c = A.registers, B.registers, C.registers

    @T.prim_func(s_tir=True)
    def loops(a: T.handle, b: T.handle, c: T.handle) -> None:
        x = T.match_buffer(a, (LANES, in_a), "float32", align=64, offset_factor=1, scope=OWN)
        y = T.match_buffer(b, (LANES, in_b), "float32", align=64, offset_factor=1, scope=OWN)
        z = T.match_buffer(c, (LANES, in_c), "float32", align=64, offset_factor=1, scope=OWN)
        with T.sblock("root"):
            T.reads(z[0:LANES, 0:in_c], x[0:LANES, 0:in_a], y[0:LANES, 0:in_b])
            T.writes(z[0:LANES, 0:in_c])
            for i, j, k in T.grid(M, N, K):
                with T.sblock("mma"):
                    vi, vj, vk = T.axis.remap("SSR", [i, j, k])
                    lane_a, register_a = T.meta_var(of_a(vi, vk))
                    lane_b, register_b = T.meta_var(of_b(vk, vj))
                    lane_c, register_c = T.meta_var(of_c(vi, vj))
                    T.reads(z[lane_c, register_c], x[lane_a, register_a], y[lane_b, register_b])
                    T.writes(z[lane_c, register_c])
                    z[lane_c, register_c] = z[lane_c, register_c] + x[lane_a, register_a] * y[lane_b, register_b]

    @T.prim_func(s_tir=True)
    def instruction(a: T.handle, b: T.handle, c: T.handle) -> None:
        x = T.match_buffer(a, (LANES, in_a), "float32", align=64, offset_factor=1, scope=OWN)
        y = T.match_buffer(b, (LANES, in_b), "float32", align=64, offset_factor=1, scope=OWN)
        z = T.match_buffer(c, (LANES, in_c), "float32", align=64, offset_factor=1, scope=OWN)
        with T.sblock("root"):
            T.reads(z[0:LANES, 0:in_c], x[0:LANES, 0:in_a], y[0:LANES, 0:in_b])
            T.writes(z[0:LANES, 0:in_c])
            for _tx in T.thread_binding(0, LANES, "threadIdx.x"):
                T.evaluate(
                    T.cuda.func_call(
                        _MULTIPLY, T.address_of(z[0, 0]), T.address_of(x[0, 0]), T.address_of(y[0, 0]),
                        source_code=_MULTIPLY_SOURCE,
                    )
                )  # fmt: skip

    return loops, instruction


def _warp_store() -> tuple[Any, Any]:
    place, element, registers = C.place, C.element, C.registers

    @T.prim_func(s_tir=True)
    def loops(c: T.handle, d: T.handle) -> None:
        z = T.match_buffer(c, (LANES, registers), "float32", align=64, offset_factor=1, scope=OWN)
        out = T.match_buffer(d, (M, N), "float32", align=64, offset_factor=1, scope=SHARED)
        with T.sblock("root"):
            T.reads(z[0:LANES, 0:registers])
            T.writes(out[0:M, 0:N])
            for i, j in T.grid(M, N):
                with T.sblock("store"):
                    vi, vj = T.axis.remap("SS", [i, j])
                    lane, register = T.meta_var(place(vi, vj))
                    T.reads(z[lane, register])
                    T.writes(out[vi, vj])
                    out[vi, vj] = z[lane, register]

    @T.prim_func(s_tir=True)
    def stores(c: T.handle, d: T.handle) -> None:
        s0 = T.int32()
        s1 = T.int32()
        z = T.match_buffer(c, (LANES, registers), "float32", align=64, offset_factor=1, scope=OWN)
        out = T.match_buffer(d, (M, N), "float32", align=64, offset_factor=1, scope=SHARED, strides=[s0, s1])
        with T.sblock("root"):
            T.reads(z[0:LANES, 0:registers])
            T.writes(out[0:M, 0:N])
            for tx in T.thread_binding(0, LANES, "threadIdx.x"):
                for r in T.unroll(registers):
                    row, column = T.meta_var(element(tx, r))
                    out[row, column] = z[0, r]

    return loops, stores
