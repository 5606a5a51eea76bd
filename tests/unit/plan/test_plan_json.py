"""A plan survives JSON, and every plan that cannot be read is refused with the name of the field at fault."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from tuner.errors import UserError
from tuner.plan.plan import Block, Lane, Plan, Stage

PLAN = Plan(
    "f" * 64,
    (
        Stage((
            Lane((Block(("a",), 1, "conv2d", {"oc_t": 2}), Block(("b",), 2, "view"))),
            Lane((Block(("c",), 1, "pool"),)),
        )),
        Stage((Lane((Block(("d", "e"), 4, "imported", None, {"x": "plain"}),)),)),
    ),
    {"x": "NCHW16c"},
)  # fmt: skip


def changed(path: list[Any], value: Any) -> dict[str, Any]:
    """The plan's JSON with the thing at ``path`` replaced, or removed for ``...``."""
    data = copy.deepcopy(json.loads(json.dumps(PLAN.to_json())))
    *parents, last = path
    place: Any = data
    for step in parents:
        place = place[step]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return data


def test_round_trip_through_text() -> None:
    text = json.dumps(PLAN.to_json())
    assert Plan.from_json(json.loads(text)) == PLAN
    assert Plan.from_json(json.loads(text)).hash == PLAN.hash
    assert json.dumps(Plan.from_json(json.loads(text)).to_json()) == text


def test_absent_knobs_and_empty_knobs_stay_apart() -> None:
    plan = Plan.sequential("g", [Block(("a",), 1, "t", None), Block(("b",), 1, "t", {})], {})
    assert [b.knobs for b in Plan.from_json(plan.to_json()).blocks] == [None, {}]
    assert plan.hash != plan.map(lambda b: Block(b.layers, b.cores, b.template)).hash


def test_layout_defaults_to_plain_and_map_reaches_every_block() -> None:
    assert (PLAN.layout("x"), PLAN.layout("y")) == ("NCHW16c", "plain")
    one_core = PLAN.map(lambda b: Block(b.layers, 1, b.template))
    assert [b.cores for b in one_core.blocks] == [1, 1, 1, 1]
    assert [lane.cores for lane in PLAN.stages[0].lanes] == [2, 1]


BLOCK = ["stages", 0, "lanes", 0, "blocks", 1]
AT = "stages[0].lanes[0].blocks[1]"


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (["version"], 2, "version is 2"),
        (["version"], ..., "version is None"),
        (["graph"], 7, "graph must be the hash"),
        (["graph"], ..., "graph must be the hash"),
        (["stages"], ..., "plan.stages must be a list"),
        (["stages"], [], "plan.stages must be a list"),
        (["stages", 1], 3, "stages[1].lanes must be a list"),
        (["stages", 1, "lanes"], {}, "stages[1].lanes must be a list"),
        (["stages", 0, "lanes", 1, "blocks"], [], "stages[0].lanes[1].blocks must be a list"),
        ([*BLOCK], "b", f"{AT}.layers must be a list"),
        ([*BLOCK, "layers"], [], f"{AT}.layers must be a list"),
        ([*BLOCK, "layers"], [1], f"{AT}.layers must be layer ids"),
        ([*BLOCK, "cores"], ..., f"{AT}.cores is None"),
        ([*BLOCK, "cores"], 0, f"{AT}.cores is 0"),
        ([*BLOCK, "cores"], True, f"{AT}.cores is True"),
        ([*BLOCK, "cores"], "2", f"{AT}.cores is '2'"),
        ([*BLOCK, "template"], None, f"{AT}.template is missing"),
        ([*BLOCK, "knobs"], [1], f"{AT}.knobs must map"),
        ([*BLOCK, "knobs"], {"rows": 1.5}, f"{AT}.knobs must map"),
        ([*BLOCK, "knobs"], {"rows": True}, f"{AT}.knobs must map"),
        ([*BLOCK, "reads"], {"x": 16}, f"{AT}.reads must map"),
        ([*BLOCK, "reads"], ["x"], f"{AT}.reads must map"),
        (["layouts"], ["x"], "layouts must map"),
        (["layouts"], {"x": None}, "layouts must map"),
    ],
)
def test_a_plan_that_cannot_be_read_names_the_field(path: list[Any], value: Any, named: str) -> None:
    with pytest.raises(UserError) as caught:
        Plan.from_json(changed(path, value))
    assert caught.value.code == "bad-plan"
    assert caught.value.message.startswith("The plan cannot be read: ")
    assert named in caught.value.message


@pytest.mark.parametrize("data", [None, [], "plan", 3])
def test_not_even_an_object(data: Any) -> None:
    with pytest.raises(UserError, match="not a JSON object"):
        Plan.from_json(data)
