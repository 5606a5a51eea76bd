"""Kernels are compiled once, whoever needs them: measuring, one plan or several."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from build_models import Weights, agree, candidates, cleaned, feeds, machine, node, onnxruntime_outputs, small_net

from tuner.build import objects as room
from tuner.build.artifact import load
from tuner.build.blocks import kernels_of
from tuner.build.export import build_artifact
from tuner.build.kernel import SPILLS, build_kernel
from tuner.build.objects import KernelObject, Objects, symbol_of
from tuner.errors import CandidateError, InternalError
from tuner.graph.ir import Graph
from tuner.kernels.registry import template
from tuner.measure.compiling import LEAST, compile_ahead
from tuner.search.fusion import greedy
from tuner.types import Candidate, Device


@pytest.fixture(scope="module")
def net() -> tuple[Graph, Weights]:
    return small_net()


class Broken:
    """A compiler that must not be called."""

    def __call__(self, candidate: Candidate, device: Device, path: Path, part: bool) -> KernelObject:
        raise InternalError(f"compiled {candidate.template} again")


def test_the_symbol_names_the_code_and_nothing_else(net: tuple[Graph, Weights]) -> None:
    first = candidates(net)[0]
    assert symbol_of(replace(first, residency="cache")) == symbol_of(replace(first, residency="dram"))
    knob = next(iter(first.knobs))
    others = [
        replace(first, knobs={**first.knobs, knob: first.knobs[knob] + 1}), replace(first, cores=first.cores + 1),
        replace(first, template_version=first.template_version + 1), replace(first, layouts={}),
        replace(first, workload_hash="0"), replace(first, precision="bf16"), replace(first, template="dense"),
    ]  # fmt: skip
    assert len({symbol_of(c) for c in (first, *others)}) == len(others) + 1
    assert symbol_of(first).isidentifier()


def test_a_kernel_that_is_there_is_only_linked(
    net: tuple[Graph, Weights], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidate = candidates(net)[0]
    kept = Objects(tmp_path / "kept")
    binary = build_kernel(candidate, machine(), tmp_path / "a.so", kept)
    assert kept.seconds > 0
    monkeypatch.setattr(room, "compile_kernel", Broken())
    again = build_kernel(candidate, machine(), tmp_path / "b.so", Objects(tmp_path / "kept"))
    assert replace(again, library=binary.library) == binary
    assert (tmp_path / "b.so").read_bytes() == (tmp_path / "a.so").read_bytes()


def test_half_a_kernel_is_none(net: tuple[Graph, Weights], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    candidate, kept = candidates(net)[0], Objects(tmp_path)
    (tmp_path / f"{symbol_of(candidate)}.o").write_bytes(b"a process was killed here")
    assert kept.find(candidate) is None
    whole = kept.compiled(candidate, machine())
    assert whole.path.read_bytes().startswith(b"\x7fELF")

    monkeypatch.setattr(room, "compile_kernel", Broken())
    with pytest.raises(InternalError):
        kept.compiled(replace(candidate, cores=2), machine())
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{whole.symbol}.json", f"{whole.symbol}.o"]


def test_what_spills_is_refused_from_the_store_as_well(
    net: tuple[Graph, Weights], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = room.emit_object
    monkeypatch.setattr(room, "emit_object", lambda *args: real(*args) * 0 + SPILLS + 1)
    default = candidates(net)[0]
    space = template(default.template).space(Graph.from_json(default.workload), default.layouts, machine())
    other = replace(default, knobs=next(p for p in space.points if p != space.default))
    for _ in range(2):
        with pytest.raises(CandidateError) as caught:
            build_kernel(other, machine(), tmp_path / "a.so", Objects(tmp_path / "kept"))
        assert caught.value.code == "rejected"
    assert not (tmp_path / "a.so").exists()
    build_kernel(replace(default, knobs=dict(space.default)), machine(), tmp_path / "a.so")
    assert (tmp_path / "a.so").exists(), "what the plan begun with takes is to be known"


def test_measured_kernels_go_into_the_whole_as_they_are(
    net: tuple[Graph, Weights], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, weights = net
    device = machine()
    plan = greedy(graph, device, device.cores)
    kept = Objects(tmp_path / "kept")
    for number, candidate in enumerate(kernels_of(graph, plan, device)):
        build_kernel(replace(candidate, residency="cache"), device, tmp_path / f"{number}.so", kept)
    real, compiled = room.compile_kernel, []

    def note(candidate: Candidate, *rest: Any) -> KernelObject:
        compiled.append(candidate)
        return real(candidate, *rest)

    monkeypatch.setattr(room, "compile_kernel", note)
    build_artifact(tmp_path / "whole", graph, weights, plan, device, {"model": "test"}, Objects(tmp_path / "kept"))
    assert {c.template for c in compiled} <= {"elementwise"}  # changes of layout, which nobody measures alone
    build_artifact(tmp_path / "again", graph, weights, plan, device, {"model": "test"}, Objects(tmp_path / "kept"))
    assert len({symbol_of(c) for c in compiled}) == len(compiled)
    inputs = feeds(graph)
    agree(load(tmp_path / "again").run(inputs), onnxruntime_outputs(graph, weights, inputs))


@pytest.mark.alone
def test_many_kernels_are_compiled_side_by_side(tmp_path: Path) -> None:
    count = 2 * LEAST
    nodes = [node("Relu", [f"x{k}"], f"y{k}") for k in range(count)]
    graph, _ = cleaned(nodes, {f"x{k}": (1, 8, k + 1, 5) for k in range(count)}, [f"y{k}" for k in range(count)], {})
    device = machine()
    asked = kernels_of(graph, greedy(graph, device, 1), device)
    assert len(asked) == count
    wrong = replace(asked[3], template="dense")
    kept = Objects(tmp_path / "kept")
    compile_ahead([*asked, wrong], device, kept, tmp_path)
    found = [kept.find(c) for c in asked]
    assert kept.seconds == 0 and all(f is not None and f.path.exists() for f in found)
    assert kept.find(wrong) is None
    with pytest.raises(CandidateError):
        kept.compiled(wrong, device)
    assert list(tmp_path.glob("ahead-*")) == []


def test_few_kernels_start_no_processes(
    net: tuple[Graph, Weights], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, _ = net
    monkeypatch.setattr("tuner.measure.compiling.starter", lambda *_: pytest.fail("a process was started"))
    asked = kernels_of(graph, greedy(graph, machine(), 1), machine())
    assert len(asked) < 2 * LEAST
    compile_ahead(asked, machine(), Objects(tmp_path), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_outputs_do_not_depend_on_who_compiled(net: tuple[Graph, Weights], tmp_path: Path) -> None:
    graph, weights = net
    device = machine()
    plan = greedy(graph, device, device.cores)
    inputs, got = feeds(graph), []
    for name in ("one", "two"):
        build_artifact(tmp_path / name, graph, weights, plan, device, {"model": "test"})
        got.append(load(tmp_path / name).run(inputs))
    for name, values in got[0].items():
        np.testing.assert_array_equal(values, got[1][name])
