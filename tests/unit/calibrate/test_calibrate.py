"""``fusetune calibrate`` on a simulated device: stored, resumed, drawn, loaded by the search."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from db.store import Store
from service.cli import main
from service.commands import calibrate as command
from service.exports.calibration import plots
from service.exports.drawing.plots import Axis, Dots, Line, Plot
from tuner.measure.device import detect_cpu, devices
from tuner.measure.runner import Runner
from tuner.search import calibration as engine
from tuner.search import pretraining
from tuner.search.blocks import block_rows
from tuner.search.experience import load_experience
from tuner.search.samples import load_samples
from tuner.search.synthetic import synthetic_workload
from tuner.simulate.machine import times
from tuner.simulate.spec import load
from tuner.types import Candidate, Device, Purpose, Trial

SIM = "sim:mlu100"
DEVICE = devices(SIM)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'test.db'}"


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with Store.open(url) as store:
        yield store


def run(url: str, *options: str) -> int:
    return main(["calibrate", "--device", SIM, "--db", url, *options])


class TestCommand:
    def test_it_leaves_a_model_that_the_search_can_use(self, url: str, store: Store) -> None:
        assert engine.load_model(store, DEVICE) is None
        assert run(url, "--blocks", "80") == 0
        model = engine.load_model(store, DEVICE)
        assert model is not None
        samples = load_samples(store, DEVICE)
        assert samples is not None
        assert model.samples == len(samples) > 70
        unseen = [pair[0] for pair in engine.designed(DEVICE, 200)][120:]
        rows = np.concatenate([block_rows(synthetic_workload(b), [b.cores], DEVICE) for b in unseen])
        truth = np.log([times(load(SIM), synthetic_workload(b), [b.cores])[0] for b in unseen])
        assert np.median(np.abs(model.predict(rows)[0] - truth)) < 0.06

    def test_it_prints_figures_of_held_out_workloads(self, url: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(url, "--blocks", "40", "--json") == 0
        facts = json.loads(capsys.readouterr().out)
        assert facts["device"]["simulated"] is True
        assert facts["quality"]["samples"] == facts["samples"] == len(facts["points"])
        assert 0 < facts["quality"]["median_error"] < 0.5

    def test_a_second_run_goes_on(self, url: str, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        assert run(url, "--blocks", "20") == 0
        first = store.calibrations.get(DEVICE.fingerprint, engine.place(DEVICE))
        asked: list[int] = []
        measure = engine.measure
        monkeypatch.setattr(engine, "measure", lambda w, r: (asked.append(len(w)), measure(w, r))[1])
        assert run(url, "--blocks", "20") == 0
        second = store.calibrations.get(DEVICE.fingerprint, engine.place(DEVICE))
        assert asked == [0]
        assert first is not None
        assert second is not None
        assert list(second.samples) == list(first.samples)

    def test_interrupted_it_keeps_what_was_measured(
        self, url: str, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        measure = engine.measure

        def interrupted(*args: object) -> Iterator[engine.Sample]:
            for number, sample in enumerate(measure(*args)):  # type: ignore[arg-type]
                if number == 12:
                    raise KeyboardInterrupt
                yield sample

        monkeypatch.setattr(engine, "measure", interrupted)
        assert run(url, "--blocks", "40") == 0
        found = store.calibrations.get(DEVICE.fingerprint, engine.place(DEVICE))
        assert found is not None
        assert len(found.samples) == 12
        assert found.model is not None
        assert engine.load_model(store, DEVICE) is not None

    def test_a_budget_takes_the_beginning_of_the_design(self, url: str, store: Store) -> None:
        assert run(url, "--seconds", "0.000001") == 0
        found = store.calibrations.get(DEVICE.fingerprint, engine.place(DEVICE))
        assert found is not None
        assert len(found.samples) == 1
        first, _ = next(engine.designed(DEVICE))
        assert found.samples[0]["design"] == first.to_json()

    def test_files_stand_alone(self, url: str, tmp_path: Path) -> None:
        out = tmp_path / "plots"
        for _ in range(2):  # the second run replaces its own files
            assert run(url, "--blocks", "30", "--out", str(out)) == 0
        pictures = sorted(p.name for p in out.glob("*.svg"))
        assert pictures == ["cores.svg", "predicted.svg", "rate.svg", "roofline.svg", "uncertainty.svg"]
        for picture in out.glob("*.svg"):
            text = picture.read_text()
            assert ET.fromstring(text).tag.endswith("svg")
            assert "simulated" in text
        assert json.loads((out / "calibration.json").read_text())["samples"] > 20

    @pytest.mark.parametrize(
        ("options", "code"),
        [
            (["--device", "sim:nonsense"], "unknown-device"),
            (["--device", "xeon-4214r"], "not-this-machine"),
            (["--out", "FOLDER"], "bad-output"),
        ],
    )
    def test_bad_input_is_refused_before_anything_is_measured(
        self, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], code: str
    ) -> None:
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "letter.txt").write_text("dear")
        options = [str(tmp_path / "mine") if o == "FOLDER" else o for o in options]
        assert run(url, *options, "--json") == 2
        assert json.loads(capsys.readouterr().out)["error"]["code"] == code

    def test_a_model_of_another_version_is_learned_anew(self, url: str, store: Store) -> None:
        assert run(url, "--blocks", "20") == 0
        where = engine.place(DEVICE)
        found = store.calibrations.get(DEVICE.fingerprint, where)
        assert found is not None
        store.calibrations.put(DEVICE.fingerprint, where, found.samples, seconds=1.0, model={"version": 0})
        model = engine.load_model(store, DEVICE)
        assert model is not None
        assert model.samples == len(found.samples)


class Formula(Runner):
    """Answers at once, by the knobs."""

    def __init__(self) -> None:
        self.asked: list[Candidate] = []

    def run(
        self, candidates: Iterable[Candidate], purpose: Purpose = Purpose.SEARCH,
        best_seconds: Mapping[str, float] | None = None,
    ) -> Iterator[Trial]:  # fmt: skip
        for candidate in candidates:
            self.asked.append(candidate)
            yield Trial(candidate, samples=(1e-4 * (1 + sum(candidate.knobs.values()) % 7),) * 3)

    def devices(self) -> tuple[Device, ...]:
        return ()

    def close(self) -> None:
        return None


class TestKnobs:
    """On this machine's processor; nothing is built or measured."""

    @pytest.fixture
    def runner(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> Formula:
        here = detect_cpu()
        store.devices.put(here)
        store.devices.measured(here.fingerprint, peak_flops=1e11, bandwidth=1e10)
        runner = Formula()
        monkeypatch.setattr(command, "_runner", lambda *_: runner)
        return runner

    def calibrate(self, url: str, *options: str) -> int:
        return main(["calibrate", "--db", url, "--blocks", "3", *options])

    def test_what_was_tried_is_known_to_every_job(self, url: str, store: Store, runner: Formula) -> None:
        assert load_experience(store, detect_cpu()) is None
        assert self.calibrate(url, "--kernels", "6") == 0
        experience = load_experience(store, detect_cpu())
        wanted = list(pretraining.candidates(detect_cpu(), 6))
        assert experience is not None
        assert len(experience) == len(wanted) == len(runner.asked) - 3

    def test_it_says_how_good_the_model_is(self, url: str, runner: Formula, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.calibrate(url, "--kernels", "6", "--json") == 0
        knobs = json.loads(capsys.readouterr().out)["knobs"]
        assert knobs["trials"] == len(runner.asked) - 3
        assert knobs["quality"]["samples"] == knobs["trials"]
        assert self.calibrate(url, "--kernels", "6") == 0
        assert "whose knobs were tried" in capsys.readouterr().out

    def test_a_second_run_goes_on_and_a_fresh_one_starts_again(self, url: str, runner: Formula) -> None:
        assert self.calibrate(url, "--kernels", "2") == 0
        first = len(runner.asked)
        assert self.calibrate(url, "--kernels", "4") == 0
        knobs = runner.asked[3:]  # the first three are blocks
        assert len({c.key for c in knobs}) == len(knobs) > first - 3
        every = len(runner.asked)
        assert self.calibrate(url, "--kernels", "4", "--fresh") == 0
        assert len(runner.asked) == 2 * every

    def test_a_budget_takes_some_of_both(self, url: str, runner: Formula) -> None:
        assert self.calibrate(url, "--seconds", "0.000001") == 0
        assert len(runner.asked) == 2

    def test_without_kernels_blocks_alone(
        self, url: str, store: Store, runner: Formula, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self.calibrate(url, "--kernels", "0", "--json") == 0
        assert json.loads(capsys.readouterr().out)["knobs"] is None
        assert len(runner.asked) == 3
        assert load_experience(store, detect_cpu()) is None


class TestEngine:
    def test_samples_survive_json(self) -> None:
        block, candidate = next(engine.designed(DEVICE))
        sample = engine.Sample(block, candidate.template, candidate.layouts, None, "crash")
        assert engine.Sample.from_json(json.loads(json.dumps(sample.to_json()))) == sample

    def test_nothing_measured_is_no_calibration(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(engine, "measure", lambda *_: iter(()))
        assert run(url, "--blocks", "5") == 2

    def test_one_workload_has_nothing_held_out(self) -> None:
        block, candidate = next(engine.designed(DEVICE))
        sample = engine.Sample(block, candidate.template, candidate.layouts, 1e-5)
        assert engine.examine([sample], DEVICE, engine.machine_of(DEVICE)) is None


class TestPlots:
    def test_axes_span_the_points_and_leave_out_what_a_logarithm_cannot_show(self) -> None:
        plot = Plot(
            "t", "s", Axis("x"), Axis("y"), [Dots("d", [(1.0, 10.0), (1000.0, 0.0)])], [Line("l", [(1.0, 1.0)])]
        )
        text = plot.svg()
        assert text.count("<circle") == 2  # one point, one mark of the key
        assert ET.fromstring(text) is not None

    @pytest.mark.parametrize("values", [[], [(5.0, 5.0)], [(0.0, 0.0)]])
    def test_few_points_draw_too(self, values: list[tuple[float, float]]) -> None:
        for log in (True, False):
            assert (
                ET.fromstring(Plot("t", "s", Axis("x", log), Axis("y", log), [Dots("<&>", values)]).svg()) is not None
            )

    def test_no_points_at_all(self) -> None:
        facts = {
            "points": [], "device": {"model": "m", "simulated": False}, "machine": {"peak_flops": 1e9, "bandwidth": 1e9}
        }  # fmt: skip
        for plot in plots(facts).values():
            assert ET.fromstring(plot.svg()) is not None
