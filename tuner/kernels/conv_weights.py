"""Weights of a convolution, packed for tasks of some output channels, and which groups such a task reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tuner.kernels.conv_shape import ConvShape
from tuner.plan.layout import Pack


@dataclass(frozen=True)
class Groups:
    """Which input channels a chunk of ``ob`` output channels reads: those of the groups it touches, at most ``groups``.

    With ``whole`` every chunk reads all channels, as a convolution without groups does.
    """

    groups: int
    group_ic: int
    group_oc: int
    ob: int
    whole: bool

    def first(self, chunk: Any) -> Any:
        """The first input channel of the first group that a chunk touches."""
        return 0 if self.whole else (chunk * self.ob) // self.group_oc * self.group_ic

    def in_blocks(self, block: int) -> bool:
        """Whether a chunk reads whole blocks of ``block`` channels (0: the input is not blocked)."""
        return block > 0 and (self.whole or (self.groups == 1 and self.group_ic % block == 0))

    def touched(self, chunk: Any) -> Any:
        """How many groups a chunk touches; beyond the last group it may count one that is not there."""
        return (chunk * self.ob + self.ob - 1) // self.group_oc - (chunk * self.ob) // self.group_oc + 1


def groups_of(s: ConvShape, ob: int) -> Groups:
    group_ic, group_oc = s.ic // s.groups, s.oc // s.groups
    most = 1
    for chunk in range(-(-s.oc // ob)):
        last = min((chunk + 1) * ob, s.oc) - 1
        most = max(most, last // group_oc - chunk * ob // group_oc + 1)
    if most >= s.groups:
        return Groups(1, s.ic, s.oc, ob, whole=True)
    return Groups(most, group_ic, group_oc, ob, whole=False)


def pack_weights(s: ConvShape, ob: int, window: Groups, block: int) -> tuple[tuple[int, ...], Pack]:
    """Shape and packing of the weights [OC, IC/groups, KH, KW] for one kernel."""
    chunks = -(-s.oc // ob)
    oc_pad = chunks * ob - s.oc
    group_ic = s.ic // s.groups
    if window.in_blocks(block) and (s.groups == 1 or not window.whole):
        icb = -(-group_ic // block)
        return (chunks, icb, s.kh, s.kw, block, ob), Pack(
            (
                ("pad", [[0, oc_pad], [0, icb * block - group_ic], [0, 0], [0, 0]]),
                ("reshape", [chunks, ob, icb, block, s.kh, s.kw]),
                ("transpose", [0, 2, 4, 5, 3, 1]),
            )
        )
    if s.groups == 1 or (not window.whole and window.groups == 1):  # every chunk lies in one group
        return (chunks, group_ic, s.kh, s.kw, ob), Pack(
            (
                ("pad", [[0, oc_pad], [0, 0], [0, 0], [0, 0]]),
                ("reshape", [chunks, ob, group_ic, s.kh, s.kw]),
                ("transpose", [0, 2, 3, 4, 1]),
            )
        )
    return _scatter_groups(s, ob, window, block)


def _scatter_groups(s: ConvShape, ob: int, window: Groups, block: int) -> tuple[tuple[int, ...], Pack]:
    """Weights of chunks that straddle groups: zero where a lane's group does not reach."""
    chunks, group_ic, group_oc = -(-s.oc // ob), s.ic // s.groups, s.oc // s.groups
    size = window.groups * window.group_ic
    if window.whole and block:
        size = -(-s.ic // block) * block
    index = np.full((chunks, size, s.kh, s.kw, ob), -1, dtype=np.int64)
    taps = np.arange(s.kh * s.kw).reshape(s.kh, s.kw)
    for oc in range(s.oc):
        chunk, lane = divmod(oc, ob)
        start = oc // group_oc * group_ic - int(window.first(chunk))
        for ic in range(group_ic):
            index[chunk, start + ic, :, :, lane] = (oc * group_ic + ic) * s.kh * s.kw + taps
    if window.whole and block:
        index = index.reshape(chunks, -1, block, s.kh, s.kw, ob).transpose(0, 1, 3, 4, 2, 5)
    elif not window.whole:
        index = index.reshape(chunks, window.groups, window.group_ic, s.kh, s.kw, ob)
    return index.shape, Pack((("gather", index.reshape(-1).tolist(), list(index.shape)),))
