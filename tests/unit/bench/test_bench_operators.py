"""bench.operators: the layers it measures are what they say, and owe something to the passes that they name."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from bench import operators
from bench.operators import OPERATORS, Row, table, write
from tuner.graph.load import import_model
from tuner.measure.contest import Ratio


@pytest.mark.parametrize("name", OPERATORS)
def test_without_its_passes_a_layer_is_another_graph(name: str, tmp_path: Path) -> None:
    path = write(OPERATORS[name], tmp_path / "m.onnx")
    ours, without = import_model(path).graph, import_model(path, disabled=OPERATORS[name].passes).graph
    assert ours.hash != without.hash
    assert ours.tensors[ours.outputs[0]].shape == without.tensors[without.outputs[0]].shape


def test_the_table_has_a_line_per_layer_and_says_what_is_missing() -> None:
    ratio = Ratio(1.25, 1.2, 1.3, 11)
    timed = [
        SimpleNamespace(name=n, min_ms=ms) for n, ms in (("default", 2.0), ("without", 50.0), ("onnxruntime", None))
    ]

    class Report(SimpleNamespace):
        def __getitem__(self, name: str) -> SimpleNamespace:
            return SimpleNamespace(ratio=ratio if name == "onnxruntime" else None)

    report = Report(rows=timed, threads=2, machine={"cpu": "Some CPU", "toolchain": "tvm-0"})
    found = table([Row("padded convolution", report, "No time.")], "`cmd`").splitlines()  # type: ignore[arg-type]
    assert found[-1] == "- padded convolution, without: No time."
    assert "| padded convolution | 1x64x56x56 | 2.000 | 50.000 | – | 25.0 | 1.25 (1.20–1.30) |" in found
    assert len({row.count("|") for row in found if row.startswith("|")}) == 1


def test_a_layer_that_cannot_be_built_without_its_passes_has_no_time_for_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tuned(path: Path, out: Path, database: Path, options: list[str], seconds: float) -> None:
        if "--disable-pass" in options:
            raise operators.UserError("No operator LSTM.", code="no-tuning")

    taken: list[list[str]] = []
    monkeypatch.setattr(operators, "tune", tuned)
    monkeypatch.setattr(operators, "bench", lambda path, artifacts, *_, **__: taken.append(list(artifacts)))
    _, why = operators.measure(OPERATORS["LSTM, 256 numbers of state"], 1, 1)
    assert why == "No operator LSTM."
    assert taken == [["default"]]


def test_a_layer_that_cannot_be_measured_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise operators.UserError("It broke.", code="no-tuning")

    monkeypatch.setattr(operators, "measure", fail)
    assert operators.main(["--only", "Einsum"]) == 1
    assert "product of Einsum: It broke." in capsys.readouterr().out
