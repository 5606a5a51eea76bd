"""The Plan: how a Graph is cut into blocks, in which order and on how many cores they run; versioned JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tuner.errors import UserError
from tuner.types import digest

VERSION = 1
VIEW = "view"  # template of blocks that only rename memory (Reshape, Flatten, ...): no kernel at all
IMPORTED = "imported"  # template of layers lowered through TVM's ONNX importer
DESIGN = "design"  # of those among them that are tuned, over TVM's design spaces


@dataclass(frozen=True)
class Block:
    """A convex set of layers lowered to one kernel.

    ``reads`` gives the layouts in which it wants tensors that are stored otherwise; the assembly converts them first.
    ``knobs`` None means: the best known, else the template's default.
    """

    layers: tuple[str, ...]
    cores: int
    template: str
    knobs: Mapping[str, int] | None = None
    reads: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Lane:
    """Blocks that run one after the other."""

    blocks: tuple[Block, ...]

    @property
    def cores(self) -> int:
        return max(block.cores for block in self.blocks)


@dataclass(frozen=True)
class Stage:
    """Lanes that run together on disjoint cores; one lane is the usual case."""

    lanes: tuple[Lane, ...]


@dataclass(frozen=True)
class Plan:
    """Ordered stages under the Graph's hash; ``layouts`` holds every tensor that crosses blocks and is not "plain"."""

    graph: str
    stages: tuple[Stage, ...]
    layouts: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def sequential(graph: str, blocks: Sequence[Block], layouts: Mapping[str, str]) -> Plan:
        """One lane, one block a stage."""
        return Plan(graph, tuple(Stage((Lane((b,)),)) for b in blocks), layouts)

    @property
    def blocks(self) -> Iterator[Block]:
        """All blocks in an order in which they may run."""
        return (block for stage in self.stages for lane in stage.lanes for block in lane.blocks)

    @property
    def hash(self) -> str:
        return digest(self.to_json())

    def layout(self, tensor: str) -> str:
        return self.layouts.get(tensor, "plain")

    def map(self, change: Any) -> Plan:
        """The same plan with ``change(block)`` in place of every block."""
        return replace(
            self,
            stages=tuple(
                Stage(tuple(Lane(tuple(change(b) for b in lane.blocks)) for lane in stage.lanes))
                for stage in self.stages
            ),
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "graph": self.graph,
            "stages": [
                {"lanes": [{"blocks": [_block_json(b) for b in lane.blocks]} for lane in stage.lanes]}
                for stage in self.stages
            ],
            "layouts": dict(sorted(self.layouts.items())),
        }

    @staticmethod
    def from_json(data: Any) -> Plan:
        """Raises UserError naming the field that is missing or of the wrong kind."""
        where = "plan"
        if not isinstance(data, Mapping):
            raise _bad("the plan is not a JSON object")
        if data.get("version") != VERSION:
            raise _bad(f"version is {data.get('version')!r}, expected {VERSION}")
        stages = []
        for i, stage in enumerate(_list(data, "stages", where)):
            lanes = []
            for j, lane in enumerate(_list(stage, "lanes", f"stages[{i}]")):
                at = f"stages[{i}].lanes[{j}]"
                blocks = [_block(b, f"{at}.blocks[{k}]") for k, b in enumerate(_list(lane, "blocks", at))]
                lanes.append(Lane(tuple(blocks)))
            stages.append(Stage(tuple(lanes)))
        layouts = data.get("layouts", {})
        if not isinstance(layouts, Mapping) or not all(isinstance(v, str) for v in layouts.values()):
            raise _bad("layouts must map tensor names to layout names")
        graph = data.get("graph")
        if not isinstance(graph, str):
            raise _bad("graph must be the hash of the Graph the plan was made for")
        return Plan(graph, tuple(stages), dict(layouts))


def _block_json(block: Block) -> dict[str, Any]:
    data: dict[str, Any] = {"layers": list(block.layers), "cores": block.cores, "template": block.template}
    if block.knobs is not None:
        data["knobs"] = dict(block.knobs)
    if block.reads:
        data["reads"] = dict(sorted(block.reads.items()))
    return data


def _block(data: Any, where: str) -> Block:
    layers = _list(data, "layers", where)
    if not all(isinstance(x, str) for x in layers):
        raise _bad(f"{where}.layers must be layer ids")
    cores = data.get("cores")
    if not isinstance(cores, int) or isinstance(cores, bool) or cores < 1:
        raise _bad(f"{where}.cores is {cores!r}, expected a number of cores from 1 up")
    template = data.get("template")
    if not isinstance(template, str):
        raise _bad(f"{where}.template is missing")
    knobs = data.get("knobs")
    if knobs is not None and not (
        isinstance(knobs, Mapping) and all(isinstance(v, int) and not isinstance(v, bool) for v in knobs.values())
    ):
        raise _bad(f"{where}.knobs must map knob names to integers")
    reads = data.get("reads", {})
    if not isinstance(reads, Mapping) or not all(isinstance(v, str) for v in reads.values()):
        raise _bad(f"{where}.reads must map tensor names to layout names")
    return Block(tuple(layers), cores, template, None if knobs is None else dict(knobs), dict(reads))


def _list(data: Any, key: str, where: str) -> list[Any]:
    if not isinstance(data, Mapping) or not isinstance(data.get(key), list) or not data[key]:
        raise _bad(f"{where}.{key} must be a list with something in it")
    return list(data[key])


def _bad(what: str) -> UserError:
    return UserError(f"The plan cannot be read: {what}.", code="bad-plan")
