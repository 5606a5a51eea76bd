"""The block model: what it must learn of a toy machine, and what it says of its own errors."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest
from toy_machine import CORES, DEVICE, MACHINE, toy_seconds

from cost_model.block_features import COLUMNS, INDEX
from cost_model.block_model import BlockModel
from cost_model.quality import choice_recall, held_out, judge, top_recall
from cost_model.roofline import PRIOR, Roofline
from cost_model.synthetic import design
from tuner.search.blocks import block_rows
from tuner.search.synthetic import synthetic_workload

SEEN = 200


@dataclass(frozen=True)
class Samples:
    rows: np.ndarray
    seconds: np.ndarray

    def __getitem__(self, part: slice) -> Samples:
        return Samples(self.rows[part], self.seconds[part])


@pytest.fixture(scope="module")
def every() -> Samples:
    """The toy's times of a design; the first SEEN are what a calibration measures."""
    blocks = design(CORES, 400)
    workloads = [synthetic_workload(b) for b in blocks]
    rows = [block_rows(w, [b.cores], DEVICE) for w, b in zip(workloads, blocks, strict=True)]
    times = [toy_seconds(w, [b.cores]) for w, b in zip(workloads, blocks, strict=True)]
    return Samples(np.concatenate(rows), np.concatenate(times))


@pytest.fixture(scope="module")
def trained(every: Samples) -> BlockModel:
    model = BlockModel(MACHINE)
    scatter = np.exp(0.01 * np.random.default_rng(0).standard_normal(SEEN))
    model.fit(every.rows[:SEEN], every.seconds[:SEEN] * scatter)
    return model


def errors(model: BlockModel, samples: Samples) -> np.ndarray:
    return np.abs(model.predict(samples.rows)[0] - np.log(samples.seconds))


class TestLearning:
    def test_untrained_it_answers_the_roofline_and_is_unsure(self, every: Samples) -> None:
        mean, std = BlockModel(MACHINE).predict(every.rows)
        assert np.array_equal(mean, Roofline(MACHINE).log_seconds(every.rows))
        assert (std >= 0.5).all()
        assert np.median(np.abs(mean - np.log(every.seconds))) < 1.0  # within a factor of three

    def test_a_calibration_predicts_unseen_blocks_within_a_few_per_cent(
        self, every: Samples, trained: BlockModel
    ) -> None:
        assert np.median(errors(trained, every[SEEN:])) < 0.05

    def test_more_samples_make_it_better(self, every: Samples, trained: BlockModel) -> None:
        few = BlockModel(MACHINE)
        few.fit(every.rows[:20], every.seconds[:20])
        assert np.mean(errors(trained, every[SEEN:])) < np.mean(errors(few, every[SEEN:]))

    @pytest.mark.parametrize("count", [0, 1, 2, 5, 13])
    def test_few_samples_do_no_harm(self, every: Samples, count: int) -> None:
        model = BlockModel(MACHINE)
        model.fit(every.rows[:count], every.seconds[:count])
        before = np.median(errors(BlockModel(MACHINE), every[SEEN:]))
        assert np.median(errors(model, every[SEEN:])) < before * 1.3
        assert (model.predict(every.rows)[1] > 0).all()

    def test_equal_samples_give_equal_answers(self, every: Samples, trained: BlockModel) -> None:
        one, two = BlockModel(MACHINE, seed=3), BlockModel(MACHINE, seed=3)
        for model in (one, two):
            model.fit(every.rows[:60], every.seconds[:60])
        assert np.array_equal(one.predict(every.rows), two.predict(every.rows))

    def test_unknown_and_failed_samples_are_left_out(self, every: Samples) -> None:
        rows = np.concatenate([every.rows[:40], every.rows[:2]])
        clean, soiled = BlockModel(MACHINE), BlockModel(MACHINE)
        clean.fit(every.rows[:40], every.seconds[:40])
        soiled.fit(rows, np.append(every.seconds[:40], [np.inf, np.nan]))
        assert np.array_equal(clean.predict(every.rows), soiled.predict(every.rows))


class TestUncertainty:
    def test_about_as_many_errors_lie_within_one_and_two_deviations_as_should(
        self, every: Samples, trained: BlockModel
    ) -> None:
        std = trained.predict(every.rows[SEEN:])[1]
        size = errors(trained, every[SEEN:])
        assert 0.55 < np.mean(size < std) < 0.9
        assert 0.86 < np.mean(size < 2 * std) <= 1.0

    def test_it_is_surer_near_what_was_measured(self, every: Samples) -> None:
        model = BlockModel(MACHINE)
        small = np.log2(1 + every.rows[:, INDEX["ops"]]) < 24
        model.fit(every.rows[small], every.seconds[small])
        std = model.predict(every.rows)[1]
        assert np.median(std[small]) < np.median(std[~small])

    def test_larger_uncertainty_means_larger_errors(self, every: Samples, trained: BlockModel) -> None:
        std, size = trained.predict(every.rows[SEEN:])[1], errors(trained, every[SEEN:])
        unsure = std > np.median(std)
        assert np.mean(size[unsure]) > 1.3 * np.mean(size[~unsure])


class TestRelatives:
    def test_a_relatives_samples_help_though_it_is_faster(self, every: Samples) -> None:
        alone, helped = BlockModel(MACHINE), BlockModel(MACHINE)
        alone.fit(every.rows[:12], every.seconds[:12])
        groups = np.append(np.zeros(12), np.ones(150)).astype(int)
        helped.fit(every.rows[:162], every.seconds[:162] / np.where(groups, 2.5, 1.0), groups=groups)
        assert np.mean(errors(helped, every[SEEN:])) < np.mean(errors(alone, every[SEEN:]))
        assert helped.offsets[1] == pytest.approx(-np.log(2.5), abs=0.3)

    def test_the_uncertainty_is_of_its_own_samples(self, every: Samples) -> None:
        model = BlockModel(MACHINE)
        model.fit(every.rows[:60], every.seconds[:60], groups=np.repeat([0, 1], 30))
        assert len(model.held_out) == 30


class TestSaving:
    @pytest.mark.parametrize("count", [0, 1, 60])
    def test_a_saved_model_answers_the_same(self, every: Samples, count: int) -> None:
        model = BlockModel(MACHINE)
        model.fit(every.rows[:count], every.seconds[:count])
        back = BlockModel.from_json(json.loads(json.dumps(model.to_json())))
        assert np.allclose(back.predict(every.rows), model.predict(every.rows), rtol=1e-12, atol=1e-12)
        assert back.samples == model.samples

    @pytest.mark.parametrize("change", [{"version": 0}, {"columns": ["cores"]}])
    def test_other_versions_are_refused(self, change: dict[str, object]) -> None:
        with pytest.raises(ValueError, match="version"):
            BlockModel.from_json(BlockModel(MACHINE).to_json() | change)


class TestRoofline:
    def test_it_finds_the_parameters_that_made_the_times(self, every: Samples) -> None:
        truth = Roofline.from_json(MACHINE, {k: v for k, (v, _) in PRIOR.items()} | {"launch": 4e-5, "inputs": 2.0})
        start = Roofline(MACHINE)
        found = start.fit(every.rows, truth.log_seconds(every.rows), np.ones(len(every.rows)))
        assert found.parameters["launch"] == pytest.approx(4e-5, rel=0.05)
        assert np.abs(found.log_seconds(every.rows) - truth.log_seconds(every.rows)).max() < 0.02

    def test_one_absurd_sample_does_not_spoil_it(self, every: Samples) -> None:
        seconds = Roofline(MACHINE).log_seconds(every.rows).copy()
        clean = Roofline(MACHINE).fit(every.rows, seconds, np.ones(len(seconds)))
        seconds[7] += 3.0
        found = Roofline(MACHINE).fit(every.rows, seconds, np.ones(len(seconds)))
        assert np.median(np.abs(found.log_seconds(every.rows) - clean.log_seconds(every.rows))) < 0.01

    def test_nothing_is_faster_than_either_roof(self, every: Samples) -> None:
        terms = Roofline(MACHINE).terms(every.rows)
        assert (terms.seconds >= np.maximum(terms.compute, terms.memory)).all()


class TestQuality:
    def test_perfect_predictions_are_perfect(self) -> None:
        measured = np.log(np.arange(1.0, 21.0))
        found = judge(measured, np.full(20, 0.1), measured, np.arange(20) // 2)
        assert (found.rank_correlation, found.median_error, found.workloads) == (1.0, 0.0, 10)
        assert found.recall == {1: 1.0, 8: 1.0}
        assert (found.within_1_std, found.within_2_std) == (1.0, 1.0)

    def test_errors_are_relative(self) -> None:
        found = judge(np.log([1.1, 2.2, 3.3]), np.full(3, 0.06), np.log([1.0, 2.0, 3.0]), np.arange(3))
        assert found.median_error == pytest.approx(0.1)
        assert (found.within_1_std, found.within_2_std) == (0.0, 1.0)

    def test_no_samples_say_nothing(self) -> None:
        empty = np.zeros(0)
        assert judge(empty, empty, empty, empty).median_error is None

    def test_held_out_predictions_come_from_other_workloads(self) -> None:
        workloads = np.repeat(np.arange(10), 3)
        rows = workloads[:, None].astype(float)

        def predict(rows: np.ndarray, logs: np.ndarray, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            assert not set(rows[:, 0]) & set(asked[:, 0])
            return asked[:, 0], np.ones(len(asked))

        mean, std = held_out(predict, rows, np.zeros(30), workloads)
        assert np.array_equal(mean, workloads)
        assert (std == 1).all()

    def test_recall_counts_the_fastest_found(self) -> None:
        assert top_recall(np.array([1.0, 2, 3, 4]), np.array([2.0, 1, 4, 3]), 2) == 1.0
        assert top_recall(np.array([1.0, 2, 3, 4]), np.array([2.0, 1, 4, 3]), 1) == 0.0
        assert top_recall(np.zeros(3), np.zeros(3), 3) is None
        by_workload = choice_recall(np.array([1.0, 2, 5, 4]), np.array([1.0, 2, 4, 5]), np.array([0, 0, 1, 1]), 1)
        assert by_workload == 0.5


def test_rows_have_one_number_per_column(every: Samples) -> None:
    assert every.rows.shape == (400, len(COLUMNS))
    assert np.isfinite(every.rows).all()
