"""What is said of predictions, on errors that are made up; and one small network on the simulated device."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bench.search.predictions import alike, errors, figures, table, worst
from cost_model.block_model import BlockModel
from tuner.graph.ir import Graph, Layer, Tensor
from tuner.measure.device import devices
from tuner.search.blocks import machine_of

DEVICE = devices("sim:mlu100")


def test_errors_are_of_the_time_and_deviations_of_its_logarithm() -> None:
    found = figures(np.log(np.array([[1.1, 1 / 2.0, 1.0, 3.0]])), np.array([[0.1, 0.5, 0.0, 0.5]]))
    assert found["median"] == pytest.approx((0.1 + 0.5) / 2) and found["blocks"] == 1
    assert found["p90"] > 1.0
    assert (found["within_1_std"], found["within_2_std"]) == (0.5, 0.75)


def test_likeness_is_of_the_counts_named() -> None:
    error = np.random.default_rng(0).standard_normal((50, 32))
    error[:, 8] = 2.0 * error[:, 7]  # 9 cores and 8
    error[:, 31] = -error[:, 0]  # 32 cores and 1
    assert alike(error) == pytest.approx([1.0, -1.0])


def test_the_worst_block_is_bad_on_most_counts_not_on_one() -> None:
    error = np.array([[0.0, 0.0, 9.0], [0.3, 0.3, 0.3]])
    assert worst(error, ["Relu", "Conv"]) == {"block": "Conv", "median": pytest.approx(np.expm1(0.3))}


def test_every_block_is_asked_on_every_count() -> None:
    tensors = {f"t{i}": Tensor(f"t{i}", (1, 32, 28, 28)) for i in range(4)}
    chain = tuple(Layer(f"l{i}", "Relu", (f"t{i}",), (f"t{i + 1}",)) for i in range(3))
    model = BlockModel(machine_of(DEVICE))  # knows no more than the data sheet
    error, std, blocks = errors(model, Graph(("t0",), ("t3",), chain, tensors, {}), DEVICE)
    assert error.shape == std.shape == (3, DEVICE.cores) and np.isfinite(error).all() and (std > 0).all()
    assert sorted(blocks) == ["Relu", "Relu, Relu", "Relu, Relu, Relu"]


def data(**models: Any) -> dict[str, Any]:
    quality = {"median_error": 0.017, "p90_error": 0.071, "rank_correlation": 0.999}
    error = np.full((2, 32), 0.5)
    return {"device": "sim:mlu100", "samples": 9, "held_out": quality, "models": models,
            "all": figures(error, error)}  # fmt: skip


def test_the_table_says_simulated_and_marks_models_without_figures() -> None:
    found = figures(np.full((3, 32), 0.5), np.ones((3, 32))) | {
        "alike": [0.9, 0.1], "worst": {"block": "Conv, Relu", "median": 0.5},
    }  # fmt: skip
    text = table(data(squeezenet=found, other=found | {"alike": [0.7, 0.3]}))
    assert "**simulated**" in text
    assert "| resnet18 | missing | | | | | |" in text
    assert "| squeezenet | 3 | 64.9% | 64.9% | 64.9% | 100% / 100% | 50%: Conv, Relu |" in text
    assert "0.80 (0.70 to 0.90) between 8 and 9; 0.20 (0.10 to 0.30) between 1 and 32" in text
