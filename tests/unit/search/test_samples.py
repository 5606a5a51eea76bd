"""What the block model learns from before a job measures anything, read from the database."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cost_model.block_features import INDEX
from cost_model.block_model import RELATIVE, BlockModel
from cost_model.quality import rank_correlation
from cost_model.synthetic import BlockDesign, design
from db.store import Store
from tests.unit.search.search_fakes import DEVICE
from tuner.search.blocks import block_rows, machine_of
from tuner.search.calibration import Sample, place
from tuner.search.samples import DEFAULT, DOUBT, Gain, load_samples, relatives
from tuner.search.synthetic import synthetic_workload
from tuner.types import Candidate, Device, JobSpec, Purpose, Trial

DESIGNS = [d for d in design(DEVICE.cores, 40) if d.kind == "conv"][:6]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(f"sqlite:///{tmp_path / 'test.db'}") as store:
        yield store


def asked(block: BlockDesign, knob: int = 0, template: str = "conv2d") -> Candidate:
    workload = synthetic_workload(block)
    layouts = dict.fromkeys((*workload.inputs, *workload.outputs), "plain")
    return Candidate(workload.to_json(), workload.hash, layouts, template, 1, {"rows": knob}, block.cores)


def tried(
    block: BlockDesign, *seconds: float, template: str = "conv2d", purpose: Purpose = Purpose.SEARCH
) -> list[Trial]:
    return [
        Trial(asked(block, n, template), purpose, samples=(s,), max_rel_error=0.0) for n, s in enumerate(seconds)
    ]  # fmt: skip


def job(store: Store, trials: list[Trial], device: Device = DEVICE) -> None:
    """A job that made these trials and has ended."""
    store.devices.put(device)
    spec = JobSpec(model="ab" * 32, seed=time.monotonic_ns() % 2**31)
    found, _ = store.jobs.submit(spec, device.fingerprint, place(device))
    for trial in trials:
        store.trials.add(found.id, trial, device=device.fingerprint, toolchain=place(device))
    store.jobs.request(found.id, "cancel")


def calibrated(store: Store, device: Device = DEVICE, seconds: float = 1e-3) -> None:
    store.devices.put(device)
    samples = [Sample(d, "conv2d", asked(d).layouts, seconds).to_json() for d in DESIGNS]
    store.calibrations.put(device.fingerprint, place(device), samples, seconds=1.0)


def test_nothing_is_known_of_a_new_device(store: Store) -> None:
    assert load_samples(store, DEVICE) is None


def test_a_job_teaches_the_best_time_of_each_of_its_blocks(store: Store) -> None:
    job(store, tried(DESIGNS[0], 5e-3, 4e-3, 2e-3, 3e-3) + tried(DESIGNS[1], 9e-3, 8e-3, 8e-3, 8e-3))
    found = load_samples(store, DEVICE)
    assert found is not None
    assert found.seconds.tolist() == [2e-3, 8e-3]
    assert found.weights.tolist() == [1.0, 1.0] and not found.groups.any()
    assert found.rows[:, INDEX["cores"]].tolist() == [d.cores for d in DESIGNS[:2]]


def test_the_best_template_answers_for_the_planned_one(store: Store) -> None:
    job(store, tried(DESIGNS[0], 5e-3, 4e-3, 4e-3) + tried(DESIGNS[0], 6e-3, 1e-3, template="winograd"))
    planned = load_samples(store, DEVICE)
    assert planned is not None and planned.seconds.tolist() == [1e-3]
    job(store, tried(DESIGNS[1], 5e-3, 1e-3))
    assert len({*load_samples(store, DEVICE).rows[:, INDEX["template"]].tolist()}) == 1  # type: ignore[union-attr]


def test_a_calibration_counts_as_it_is_while_nobody_searched(store: Store) -> None:
    calibrated(store)
    found = load_samples(store, DEVICE)
    assert found is not None
    assert found.seconds.tolist() == [1e-3] * len(DESIGNS) and found.weights.tolist() == [1.0] * len(DESIGNS)


def test_default_knobs_are_made_comparable_by_what_searching_gained(store: Store) -> None:
    calibrated(store)
    gaining = [tried(d, 8e-3, 7e-3, 5e-3, 4e-3) for d in DESIGNS[:5]]  # twice as fast, five times
    job(store, [trial for each in gaining for trial in each] + tried(DESIGNS[5], 6e-3))
    found = load_samples(store, DEVICE)
    assert found is not None
    *searched, default = found.seconds[:6].tolist()
    assert searched == [4e-3] * 5
    half = 2 ** -(5 / (5 + DOUBT))  # not quite a half, because five are few
    assert default == pytest.approx(6e-3 * half)
    assert found.weights.tolist() == [1.0] * 5 + [DEFAULT] * (1 + len(DESIGNS))
    assert found.seconds[6:] == pytest.approx(1e-3 * half)


def test_what_was_tried_at_another_core_count_says_nothing_of_the_gain(store: Store) -> None:
    calibrated(store)
    job(store, tried(DESIGNS[0], 8e-3, 4e-3, 4e-3, 4e-3, purpose=Purpose.CORES))
    assert load_samples(store, DEVICE).seconds.tolist() == [4e-3] + [1e-3] * len(DESIGNS)  # type: ignore[union-attr]


def test_a_template_that_was_hardly_searched_gains_little() -> None:
    found = Gain.among([*[("conv2d", 1.0)] * 30, ("conv2d", 9.0), ("dense", 1.0)])
    assert found.of("conv2d") == pytest.approx(1.0, abs=0.1)
    assert found.of("dense") == pytest.approx(1 / (1 + DOUBT))
    assert found.of("pool") == 0.0
    assert found.known and not Gain.among([]).known


def test_relatives_come_nearest_first_and_real_ones_only() -> None:
    class Devices:
        def list(self) -> list[object]:
            return [type("Known", (), {"device": d}) for d in (other, simulated, near, DEVICE, gpu, far)]

    near = replace(DEVICE, cores=DEVICE.cores * 2)
    other = replace(DEVICE, mcpu="another", model="Another")
    far = replace(DEVICE, mcpu="distant", lanes=DEVICE.lanes * 2, features=(), model="Distant")
    gpu = replace(DEVICE, kind="cuda", mcpu="sm_86", model="GPU")
    simulated = replace(DEVICE, simulated=True, model="Simulated")
    store = type("Stored", (), {"devices": Devices()})
    assert relatives(store, DEVICE) == [near, other, far]  # type: ignore[arg-type]
    assert relatives(store, simulated) == []  # type: ignore[arg-type]


def test_relatives_samples_have_their_own_group_and_count_less(store: Store) -> None:
    twin = replace(DEVICE, model="Twin")
    calibrated(store, twin, 3e-3)
    job(store, tried(DESIGNS[0], 5e-3, 4e-3), twin)
    job(store, tried(DESIGNS[1], 2e-3, 2e-3))
    found = load_samples(store, DEVICE)
    assert found is not None
    assert found.groups.tolist() == [0] + [1] * (1 + len(DESIGNS))
    assert found.weights.tolist() == [1.0] + [RELATIVE] * (1 + len(DESIGNS))


def test_too_many_samples_are_cut_at_the_relatives(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuner.search.samples.MOST", 4)
    twin = replace(DEVICE, model="Twin")
    job(store, [t for d in DESIGNS for t in tried(d, 5e-3)], twin)
    job(store, tried(DESIGNS[0], 2e-3) + tried(DESIGNS[1], 2e-3))
    assert load_samples(store, DEVICE).groups.tolist() == [0, 0, 1, 1]  # type: ignore[union-attr]


def test_a_slower_relative_helps_a_device_of_which_little_is_known(store: Store) -> None:
    """The twin takes three times as long for everything; a quarter of its blocks are known here too."""
    designs = [d for d in design(DEVICE.cores, 120) if d.kind == "conv"]
    truth = {d: 1e-5 + synthetic_workload_ops(d) / (3e10 * d.cores**0.7) for d in designs}
    twin = replace(DEVICE, model="Twin")
    here, unseen = designs[::4], [d for n, d in enumerate(designs) if n % 4]
    job(store, [t for d in here for t in tried(d, truth[d], truth[d])])
    alone = load_samples(store, DEVICE)
    job(store, [t for d in designs for t in tried(d, 3 * truth[d], 3 * truth[d])], twin)
    together = load_samples(store, DEVICE)
    job(store, [t for d in unseen for t in tried(d, truth[d], truth[d])])
    asked = load_samples(store, DEVICE)
    assert alone is not None and together is not None and asked is not None
    new = [i for i in range(len(asked)) if asked.groups[i] == 0][len(alone) :]

    def error(samples: object) -> float:
        model = BlockModel(machine_of(DEVICE))
        model.fit(samples.rows, samples.seconds, samples.weights, samples.groups)  # type: ignore[attr-defined]
        return float(np.median(np.abs(model.predict(asked.rows[new])[0] - np.log(asked.seconds[new]))))

    assert error(together) < error(alone)


def synthetic_workload_ops(block: BlockDesign) -> float:
    from tuner.graph.costs import layer_cost

    workload = synthetic_workload(block)
    return float(sum(layer_cost(workload, x).ops for x in workload.layers))


def test_of_more_questions_than_are_learned_from_the_newest_count(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tuner.search.samples.QUESTIONS", 4)
    job(store, [Trial(asked(d), samples=(1e-3 * n,), max_rel_error=0.0) for n, d in enumerate(DESIGNS, start=1)])
    assert load_samples(store, DEVICE).seconds.tolist() == [3e-3, 4e-3, 5e-3, 6e-3]  # type: ignore[union-attr]


def test_a_device_that_was_never_measured_begins_with_what_its_relatives_know(store: Store) -> None:
    designs = [d for d in design(DEVICE.cores, 120) if d.kind == "conv"]
    truth = {d: 1e-5 + synthetic_workload_ops(d) / (3e10 * d.cores**0.7) for d in designs}
    job(store, [t for d in designs[::2] for t in tried(d, truth[d])], replace(DEVICE, model="Twin"))
    found = load_samples(store, DEVICE)
    assert found is not None and set(found.groups.tolist()) == {1}
    model = BlockModel(machine_of(DEVICE))
    model.fit(found.rows, found.seconds, found.weights, found.groups)
    rows = np.concatenate([
        block_rows(synthetic_workload(d), [d.cores], DEVICE, layouts=asked(d).layouts, template="conv2d")
        for d in designs[1::2]
    ])  # fmt: skip
    mean, std = model.predict(rows)
    correlation = rank_correlation(mean, np.log([truth[d] for d in designs[1::2]]))
    assert correlation is not None and correlation > 0.95
    assert std.min() > 0.2  # it knows that it has seen nothing of this machine
