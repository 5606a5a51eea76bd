"""Questions of jobs in bf16: both precisions compete, records stay apart, and what has to be exact is not asked."""

from __future__ import annotations

from dataclasses import replace

from tests.unit.search.search_fakes import DEVICE, FakeRunner, MemoryStore
from tests.unit.search.test_replanning import CORES, residual_net
from tuner.graph.ir import Constant, Graph, Layer, Tensor, freeze_attrs
from tuner.kernels.dot import LANES
from tuner.plan.bf16 import OPSET
from tuner.plan.plan import Plan
from tuner.precision import BF16, DOT_FEATURE, FP32, INT8, INT8_FEATURE, LOWERED, precision_of
from tuner.search.fusion import greedy
from tuner.search.lowering import computation
from tuner.search.questions import Asked, answered, defaults, distinct, questions
from tuner.search.replanning import replan
from tuner.search.strategies.joint import Joint
from tuner.search.tuning import Tuning
from tuner.types import Candidate

GRAPH = residual_net()
DENSE = Graph(
    ("x",), ("y",), (Layer("a", "Gemm", ("x", "w"), ("y",)),), {"x": Tensor("x", (1, 512)), "y": Tensor("y", (1, 256))},
    {"w": Constant("w", (512, 256), digest="w")},
)  # fmt: skip


def asked(graph: Graph, precision: str, exact: frozenset[str] = frozenset()) -> tuple[Plan, Asked]:
    plan = greedy(graph, DEVICE, max(CORES))
    found = questions(
        plan, graph, DEVICE, cores=CORES, precision=precision, seed=0, residency="cache", exact=exact
    )  # fmt: skip
    return plan, found


def candidates(found: Asked) -> list[Candidate]:
    return [s.candidate for q in distinct(found) for s in q.searches.values()]


def seconds(candidate: Candidate) -> float:
    return 1e-3 if candidate.precision == BF16 else 2e-3


def test_each_kernel_says_its_own_precision_and_float32_ones_are_those_of_float32_jobs() -> None:
    plain, lowered = (candidates(asked(GRAPH, p)[1]) for p in (FP32, BF16))
    assert {c.precision for c in plain} == {FP32}
    assert all(c.precision == precision_of(c.template) for c in lowered)
    assert {c.template for c in lowered if c.precision == BF16} == {"conv2d_bf16"}
    known = {c.record_key for c in plain}
    assert {c.record_key for c in lowered if c.precision == FP32} == known
    assert not {c.record_key for c in lowered if c.precision == BF16} & known


def test_what_has_to_be_exact_is_not_asked_in_bf16() -> None:
    exact = frozenset({computation(GRAPH, GRAPH.by_id["a"])})
    assert {c.precision for c in candidates(asked(GRAPH, BF16, exact)[1])} == {FP32}


def test_the_faster_precision_wins_and_may_be_renounced() -> None:
    plan, found = asked(GRAPH, BF16)
    tuning = Tuning(distinct(found), DEVICE, MemoryStore())
    for _ in tuning.run(FakeRunner(seconds), 60, None):
        pass
    convs = {b.template for b in answered(plan, found).blocks if "conv" in b.template}
    assert convs == {"conv2d_bf16"}
    exact = {b.template for b in answered(plan, found, tuple(LOWERED.values())).blocks}
    assert not exact & set(LOWERED.values())


def test_other_plans_are_asked_in_bf16_too_unless_they_have_to_be_exact() -> None:
    for exact, expected in ((frozenset(), {BF16, FP32}), (frozenset({computation(GRAPH, GRAPH.by_id["a"])}), {FP32})):
        runner = FakeRunner(seconds)
        tuning = Tuning(distinct(asked(GRAPH, BF16, exact)[1]), DEVICE, MemoryStore())
        replanning = replan(GRAPH, CORES, "cache", tuning, Joint(), precision=BF16, exact=exact)
        for _ in replanning.run(runner, 30, None):
            pass
        convs = [c for c, _ in runner.asked if any(x["op"] == "Conv" for x in c.workload["layers"])]
        assert {c.precision for c in convs} == expected


def test_without_measurements_layers_bound_by_their_weights_are_in_bf16() -> None:
    for graph, expected in ((DENSE, "dense_bf16"), (GRAPH, "conv2d")):
        plan, found = asked(graph, BF16)
        templates = {b.template for b in defaults(plan, found).blocks}
        assert expected in templates and defaults(plan, found).hash == answered(plan, found).hash
    plan, found = asked(DENSE, BF16)
    assert next(answered(plan, found, tuple(LOWERED.values())).blocks).template == "dense"
    plan, found = asked(DENSE, FP32)
    assert next(defaults(plan, found).blocks).template == "dense"


def test_jobs_in_int8_choose_between_integers_and_float32() -> None:
    device = replace(DEVICE, lanes=LANES, features=(*DEVICE.features, DOT_FEATURE, INT8_FEATURE))
    graph = replace(GRAPH, opset=OPSET)
    plan = greedy(graph, device, max(CORES))
    kernels = {}
    for precision in (FP32, BF16, INT8):
        found = questions(plan, graph, device, cores=CORES, precision=precision, seed=0, residency="cache")
        kernels[precision] = {c.record_key: c.precision for c in candidates(found)}
        begun = {b.template for b in defaults(plan, found).blocks if "conv" in b.template}
        assert (begun == {"conv2d_int8"}) == (precision == INT8)
    assert set(kernels[INT8].values()) == {FP32, INT8}
    assert {k for k, p in kernels[INT8].items() if p == FP32} == kernels[FP32].keys()
    assert not {k for k, p in kernels[INT8].items() if p == INT8} & kernels[BF16].keys()
    exact = frozenset(computation(graph, x) for x in graph.layers)
    found = questions(plan, graph, device, cores=CORES, precision=INT8, seed=0, residency="cache", exact=exact)
    assert {c.precision for c in candidates(found)} == {FP32}


def test_a_grouped_convolution_begins_with_products_of_bfloat16_whether_its_groups_fill_blocks_or_cut_through() -> None:
    device = replace(DEVICE, lanes=LANES, features=(*DEVICE.features, DOT_FEATURE))
    for channels, expected in ((64, "conv2d_dot"), (34, "conv2d_grouped_dot")):
        tensors = {n: Tensor(n, (1, 4 * channels, 14, 14)) for n in ("x", "a", "y")}
        weights = {n: Constant(n, (4 * channels, channels, 1, 1), digest=n) for n in ("w", "v")}
        attrs = freeze_attrs({"group": 4, "kernel_shape": (1, 1)})
        layers = (Layer("a", "Conv", ("x", "w"), ("a",), attrs), Layer("b", "Conv", ("a", "v"), ("y",), attrs))
        graph = Graph(("x",), ("y",), layers, tensors, weights, OPSET)
        plan = greedy(graph, device, 2)
        found = questions(plan, graph, device, cores=(2,), precision=BF16, seed=0, residency="cache")
        assert list(defaults(plan, found).blocks)[-1].template == expected
