"""Two reports block by block: blocks that share layers are set against each other, what differs most comes first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Side:
    """One job's blocks for the same layers; usually one."""

    blocks: tuple[Mapping[str, Any], ...]

    @property
    def ms(self) -> float | None:
        times = [block["ms"] for block in self.blocks]
        return None if not times or None in times else sum(times)

    @property
    def how(self) -> tuple[str, ...]:
        """Template, cores and layout of each block."""
        return tuple(
            "view" if block["template"] == "view"
            else f"{block['template']}, {block['cores']} {'core' if block['cores'] == 1 else 'cores'}"
            for block in self.blocks
        )  # fmt: skip

    @property
    def knobs(self) -> tuple[str, ...]:
        return tuple(" ".join(f"{k}={v}" for k, v in (block["knobs"] or {}).items()) for block in self.blocks)


@dataclass(frozen=True)
class Pair:
    """The same layers in both jobs."""

    layers: tuple[str, ...]
    a: Side
    b: Side

    @property
    def delta(self) -> float | None:
        """Milliseconds that b takes longer."""
        return None if self.a.ms is None or self.b.ms is None else self.b.ms - self.a.ms

    @property
    def differs(self) -> str:
        """What is not the same, in words; empty where nothing is."""
        found = []
        if [b["layers"] for b in self.a.blocks] != [b["layers"] for b in self.b.blocks]:
            found.append("fusion")
        for name, word in (("template", "template"), ("cores", "cores"), ("layouts", "layout"), ("knobs", "knobs")):
            if len(self.a.blocks) == len(self.b.blocks) and any(
                x[name] != y[name] for x, y in zip(self.a.blocks, self.b.blocks, strict=True)
            ):
                found.append(word)
        return ", ".join(found)


def pairs(a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]]) -> list[Pair]:
    """Both reports' blocks, grouped so that no block of either job is cut; the greatest difference in time first.

    Changes of layout belong to no layer: all of one job's stand together in one group.
    """
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for block in (*a, *b):
        for layer in block["layers"][1:]:
            parent[root(layer)] = root(block["layers"][0])
    groups: dict[str, tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]] = {}
    for number, side in enumerate((a, b)):
        for block in side:
            key = root(block["layers"][0]) if block["layers"] else ""
            groups.setdefault(key, ([], []))[number].append(block)
    found = []
    for ours, theirs in groups.values():
        layers = dict.fromkeys(layer for block in (*ours, *theirs) for layer in block["layers"])
        found.append(Pair(tuple(layers), Side(tuple(ours)), Side(tuple(theirs))))
    return sorted(found, key=lambda pair: (-abs(pair.delta or 0.0), not pair.differs))
