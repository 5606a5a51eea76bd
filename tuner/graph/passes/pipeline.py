"""Runs the cleaning passes over a Work until nothing changes. Child process only."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from tuner.graph.passes.affine import fold_scale_shift
from tuner.graph.passes.broadcasts import bypass_expand
from tuner.graph.passes.constants import fold_constants
from tuner.graph.passes.dead import eliminate_common_subexpressions, eliminate_dead
from tuner.graph.passes.einsum import einsum_to_matmul
from tuner.graph.passes.nop import eliminate_nop
from tuner.graph.passes.normalisation import fuse_layer_norm, instance_norm_to_layer_norm
from tuner.graph.passes.padding import fold_padding
from tuner.graph.passes.recurrent import unroll_recurrence
from tuner.graph.passes.registry import NAMES
from tuner.graph.passes.report import PassReport
from tuner.graph.passes.rewrite import (
    batch_norm_to_scale_shift,
    flatten_concat,
    matmul_to_gemm,
    pow_to_mul,
    scales_to_sizes,
    space_to_depth_to_slices,
    split_to_slices,
    sum_to_add,
)
from tuner.graph.passes.sequences import sequences_to_images
from tuner.graph.passes.shapes import merge_reshapes
from tuner.graph.passes.shuffles import sink_shuffles
from tuner.graph.passes.siblings import merge_siblings
from tuner.graph.passes.transposed import conv_transpose_to_conv
from tuner.graph.passes.volumes import volumes_to_images
from tuner.graph.work import Work

_ROUNDS = 4  # passes open chances for each other; real models are done after two

PASSES: dict[str, Callable[[Work], None]] = {
    "fold-constants": fold_constants,
    "eliminate-nop": eliminate_nop,
    "unroll-recurrence": unroll_recurrence,
    "sum-to-add": sum_to_add,
    "pow-to-mul": pow_to_mul,
    "bypass-expand": bypass_expand,
    "split-to-slices": split_to_slices,
    "space-to-depth-to-slices": space_to_depth_to_slices,
    "einsum-to-matmul": einsum_to_matmul,
    "batch-norm-to-scale-shift": batch_norm_to_scale_shift,
    "fuse-layer-norm": fuse_layer_norm,
    "matmul-to-gemm": matmul_to_gemm,
    "fold-scale-shift": fold_scale_shift,
    "fold-padding": fold_padding,
    "sequences-to-images": sequences_to_images,
    "volumes-to-images": volumes_to_images,
    "conv-transpose-to-conv": conv_transpose_to_conv,
    "scales-to-sizes": scales_to_sizes,
    "instance-norm-to-layer-norm": instance_norm_to_layer_norm,
    "merge-reshapes": merge_reshapes,
    "flatten-concat": flatten_concat,
    "eliminate-common-subexpressions": eliminate_common_subexpressions,
    "sink-shuffles": sink_shuffles,
    "merge-siblings": merge_siblings,
    "eliminate-dead": eliminate_dead,
}


def run(work: Work, disabled: Collection[str]) -> list[PassReport]:
    """Clean ``work`` in place; one report per pass, in order, without upgrade-opset, which comes before."""
    seconds = dict.fromkeys(PASSES, 0.0)
    removed = dict.fromkeys(PASSES, 0)
    start = len(work.nodes)
    for _ in range(_ROUNDS):
        before = _signature(work)
        for name, clean in PASSES.items():
            if name in disabled:
                continue
            count, began = len(work.nodes), time.perf_counter()
            clean(work)
            seconds[name] += time.perf_counter() - began
            removed[name] += count - len(work.nodes)
        if _signature(work) == before:
            break
    reports = []
    for name in (n for n in NAMES if n in PASSES):
        reports.append(PassReport(name, seconds[name], start, start - removed[name], name not in disabled))
        start -= removed[name]
    return reports


def _signature(work: Work) -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    return [(n.op, tuple(n.inputs), tuple(n.outputs)) for n in work.nodes]
