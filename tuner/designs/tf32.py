"""Tensor cores on float32, multiplied as tf32: intrinsics of our own, and the step that puts them into a schedule.

MetaSchedule tiles for matrices in the scopes of TVM's "wmma" intrinsics, which it knows by the names in ``groups``.
What replaces them is ``mma.sync.m16n8k8`` itself: each matrix is laid out as a warp's registers hold it (``Fragment``)
and moves to the scope "warp". Elements are rounded to tf32, to nearest and ties away from zero as NVIDIA advises, on
their way from shared memory to registers, which plain loads fill: ``ldmatrix`` transposes 16-bit elements alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import tvm_ffi
from tvm import tirx
from tvm.s_tir import Schedule, TensorIntrin, meta_schedule
from tvm.s_tir.stmt import SBlock
from tvm.script import tirx as T
from tvm.tirx import IndexMap

from tuner.designs.fragments import LANES, A, B, C, Fragment, K, M, N

FRAGMENTS = "warp"  # scope of what lanes hold together, while loops are loops
_OWN = "local"  # and of a lane's share of it, where instructions work
_INIT, _MMA, _STORE, _LOAD_A, _LOAD_B = "init", "mma", "store", "load_a", "load_b"
_SHARED, _MARK = "shared.dyn", "meta_schedule.auto_tensorize"
_SHAPES, _WARP = "fusetune_tf32_shape_", "fusetune_tf32_"  # what MetaSchedule tiles by; what replaces that
_BANKS, _PADS = 32, {_LOAD_A: 4, _LOAD_B: 8, _LOAD_B + "_trans": 4}  # row pitch modulo 32 at which no banks collide
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
_LAYOUTS = {_LOAD_A: A, _LOAD_B: B, _LOAD_B + "_trans": B.swapped(), _MMA: C, _MMA + "_trans": C}


def rules() -> list[Any]:
    """MetaSchedule's rules for the target kind "cuda", with tensor cores first."""
    register()
    must = meta_schedule.schedule_rule.ReuseType
    tensor_cores = meta_schedule.schedule_rule.MultiLevelTilingTensorCore(
        groups(), "SSSRRSRS", ["blockIdx.y", "blockIdx.x", "threadIdx.y"], 4, [1, 2, 4],
        reuse_read=must("must", [4], _SHARED), reuse_write=must("must", [2], _SHARED), use_software_pipeline=False,
    )  # fmt: skip
    return [tensor_cores, *meta_schedule.schedule_rule.ScheduleRule.create("cuda")[1:]]


class LayOut:
    """``lay_out`` as a post-processor. To come before the one that verifies how much shared memory is used."""

    def apply(self, schedule: Schedule) -> bool:
        lay_out(schedule)
        return True


class Tensorise:
    """``tensorise`` as a post-processor, the last one."""

    def apply(self, schedule: Schedule) -> bool:
        tensorise(schedule)
        return True


def postprocs(known: Sequence[Any]) -> tuple[Any, ...]:
    """MetaSchedule's post-processors for the target kind "cuda", of which the last verifies, and ours."""
    return (*known[:-1], LayOut(), known[-1], Tensorise())


def groups() -> list[dict[str, str]]:
    """The intrinsics as MetaSchedule wants them: with B as it is, and with B transposed in shared memory."""
    return [
        {"init": _SHAPES + _INIT, "load_a": _SHAPES + _LOAD_A, "load_b": _SHAPES + _LOAD_B + trans,
         "compute": _SHAPES + _MMA + trans, "store": _SHAPES + _STORE}
        for trans in ("", "_trans")
    ]  # fmt: skip


def lay_out(schedule: Schedule) -> None:
    """Bring what is tiled for tensor cores into the layout of a warp's registers; loops stay loops.

    Rows in shared memory get a pitch at which the lanes of a load find different banks.
    """
    for name, job in _jobs(schedule):
        block = schedule.get_sblock(name)
        if job in _PADS:
            (producer,) = schedule.get_producers(block)
            schedule.storage_align(producer, 0, -2, _BANKS, _PADS[job])
        if job in _LAYOUTS:
            buffer = schedule.get(block).writes[0].source
            schedule.transform_layout(
                block, ("write", 0), _index_map(_LAYOUTS[job], len(buffer.shape)), assume_injective_transform=True
            )
            schedule.set_scope(block, 0, FRAGMENTS)


def tensorise(schedule: Schedule) -> None:
    """Replace the loops that were laid out by tensor cores' instructions. Raises ScheduleError where they differ.

    Loops over what a lane keeps in registers are unrolled: registers cannot be indexed.
    """
    jobs = _jobs(schedule)
    _unroll(schedule, jobs)
    for name, job in jobs:
        if job in _LAYOUTS:
            schedule.set_scope(schedule.get_sblock(name), 0, _OWN)
    for name, job in jobs:
        block = schedule.get_sblock(name)
        schedule.unannotate(block, _MARK)
        schedule.tensorize(block, _WARP + job)


def _unroll(schedule: Schedule, jobs: list[tuple[str, str]]) -> None:
    """Unroll the loops within the innermost one in which operands are loaded, and those over the accumulators."""
    around = {job: schedule.get_loops(schedule.get_sblock(name)) for name, job in jobs}
    if len(around) != len(jobs):
        raise ValueError("it holds several products for tensor cores")
    nests = [[schedule.get(loop) for loop in loops] for job, loops in around.items() if job not in (_INIT, _STORE)]
    common = 0
    while nests and all(common < len(nest) and nest[common].same_as(nests[0][common]) for nest in nests):
        common += 1
    for job, loops in around.items():
        for loop in loops if job in (_INIT, _STORE) else loops[common:]:
            if schedule.get(loop).thread_binding is None:
                schedule.unroll(loop)


def _jobs(schedule: Schedule) -> list[tuple[str, str]]:
    """Name and intrinsic of each block that one of ours is to replace."""
    found = []

    def see(block: Any) -> None:
        wanted = str(block.annotations.get(_MARK, "")) if block.annotations else ""
        if wanted.startswith(_SHAPES):
            found.append((str(block.name_hint), wanted.removeprefix(_SHAPES)))

    tvm_ffi.structural_walk(schedule.mod["main"].body, (SBlock, see))
    return found


def _index_map(fragment: Fragment, dimensions: int) -> IndexMap:
    """The last two of so many dimensions become: tiles down, tiles across, lane, register."""
    axes = [tirx.Var(f"i{k}", "int32") for k in range(dimensions)]
    *lead, i, j = axes
    lane, register = fragment.place(i % fragment.rows, j % fragment.columns)
    return IndexMap(axes, [*lead, i // fragment.rows, j // fragment.columns, lane, register], None)


@cache
def register() -> None:
    """Register the intrinsics with TVM, once."""
    for trans in (False, True):
        suffix = "_trans" if trans else ""
        shape = _shape_mma(trans)
        TensorIntrin.register(_SHAPES + _MMA + suffix, shape, shape)
        TensorIntrin.register(_WARP + _MMA + suffix, *_warp_mma())
        loaded = B.swapped() if trans else B
        shape = _shape_copy(loaded.rows, loaded.columns, _SHARED, "wmma.matrix_b")
        TensorIntrin.register(_SHAPES + _LOAD_B + suffix, shape, shape)
        TensorIntrin.register(_WARP + _LOAD_B + suffix, *_warp_load(loaded))
    shape = _shape_copy(M, K, _SHARED, "wmma.matrix_a")
    TensorIntrin.register(_SHAPES + _LOAD_A, shape, shape)
    TensorIntrin.register(_WARP + _LOAD_A, *_warp_load(A))
    shape = _shape_copy(M, N, "wmma.accumulator", _SHARED)
    TensorIntrin.register(_SHAPES + _STORE, shape, shape)
    TensorIntrin.register(_WARP + _STORE, *_warp_store())
    shape = _shape_init()
    TensorIntrin.register(_SHAPES + _INIT, shape, shape)
    TensorIntrin.register(_WARP + _INIT, *_warp_init())


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
        x = T.match_buffer(a, (rows, columns), "float32", align=64, offset_factor=1, scope=_SHARED)
        y = T.match_buffer(b, (LANES, registers), "float32", align=64, offset_factor=1, scope=_OWN)
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
        x = T.match_buffer(a, (rows, columns), "float32", align=64, offset_factor=1, scope=_SHARED, strides=[s0, s1])
        y = T.match_buffer(b, (LANES, registers), "float32", align=64, offset_factor=1, scope=_OWN)
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
        z = T.match_buffer(c, (LANES, registers), "float32", align=64, offset_factor=1, scope=_OWN)
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
        z = T.match_buffer(c, (LANES, registers), "float32", align=64, offset_factor=1, scope=_OWN)
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
        x = T.match_buffer(a, (LANES, in_a), "float32", align=64, offset_factor=1, scope=_OWN)
        y = T.match_buffer(b, (LANES, in_b), "float32", align=64, offset_factor=1, scope=_OWN)
        z = T.match_buffer(c, (LANES, in_c), "float32", align=64, offset_factor=1, scope=_OWN)
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
        x = T.match_buffer(a, (LANES, in_a), "float32", align=64, offset_factor=1, scope=_OWN)
        y = T.match_buffer(b, (LANES, in_b), "float32", align=64, offset_factor=1, scope=_OWN)
        z = T.match_buffer(c, (LANES, in_c), "float32", align=64, offset_factor=1, scope=_OWN)
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
        z = T.match_buffer(c, (LANES, registers), "float32", align=64, offset_factor=1, scope=_OWN)
        out = T.match_buffer(d, (M, N), "float32", align=64, offset_factor=1, scope=_SHARED)
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
        z = T.match_buffer(c, (LANES, registers), "float32", align=64, offset_factor=1, scope=_OWN)
        out = T.match_buffer(d, (M, N), "float32", align=64, offset_factor=1, scope=_SHARED, strides=[s0, s1])
        with T.sblock("root"):
            T.reads(z[0:LANES, 0:registers])
            T.writes(out[0:M, 0:N])
            for tx in T.thread_binding(0, LANES, "threadIdx.x"):
                for r in T.unroll(registers):
                    row, column = T.meta_var(element(tx, r))
                    out[row, column] = z[0, r]

    return loops, stores
