"""eliminate-common-subexpressions and eliminate-dead."""

from __future__ import annotations

import numpy as np

from tuner.graph.infer import RANDOM
from tuner.graph.ir import freeze_attrs
from tuner.graph.work import Work

_PROBE = 64  # numbers compared before whole arrays are


def eliminate_common_subexpressions(work: Work) -> None:
    """Merge equal constants, then nodes with equal operator, attributes and inputs."""
    _merge_constants(work)
    seen: dict[object, list[str]] = {}
    names: dict[str, str] = {}
    kept = []
    for node in work.nodes:
        node.inputs = [names.get(name, name) for name in node.inputs]
        key = (node.op, node.domain, freeze_attrs(node.attrs), tuple(node.inputs), tuple(map(bool, node.outputs)))
        first = seen.get(key)
        if node.op in RANDOM or first is None or any(o in work.outputs for o in node.outputs):
            seen.setdefault(key, node.outputs)
            kept.append(node)
            continue
        names |= {mine: theirs for mine, theirs in zip(node.outputs, first, strict=True) if mine}
    work.nodes = kept


def eliminate_dead(work: Work) -> None:
    """Drop nodes and constants that no output needs, and optional outputs that nobody reads."""
    needed = set(work.outputs)
    kept = []
    for node in reversed(work.nodes):
        if not any(name in needed for name in node.outputs):
            continue
        while len(node.outputs) > 1 and node.outputs[-1] not in needed:
            if node.op in _FIXED_OUTPUTS or node.domain:
                break
            node.outputs.pop()
        needed.update(name for name in node.inputs if name)
        kept.append(node)
    work.nodes = kept[::-1]
    work.arrays = {name: array for name, array in work.arrays.items() if name in needed}


_FIXED_OUTPUTS = frozenset({"Split", "TopK", "Unique"})  # the number of outputs is part of their meaning


def _merge_constants(work: Work) -> None:
    groups: dict[tuple[str, tuple[int, ...], bytes], list[str]] = {}
    names: dict[str, str] = {}
    for name, array in work.arrays.items():
        probe = np.ascontiguousarray(array.ravel()[:_PROBE]).tobytes() if array.dtype != object else b""
        group = groups.setdefault((array.dtype.name, array.shape, probe), [])
        twin = next((other for other in group if _equal(work.arrays[other], array)), None)
        if twin is None:
            group.append(name)
        else:
            names[name] = twin
    work.rename_uses(names)
    for name in names:
        del work.arrays[name]


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    """Bit for bit, so that -0.0 and NaN stay what they are."""
    return a is b or bool(np.array_equal(np.atleast_1d(a).view(np.uint8), np.atleast_1d(b).view(np.uint8)))
