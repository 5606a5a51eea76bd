"""The comparison of knob searches: counting, bookkeeping, and what a recording keeps of its trials."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from search_fakes import DEVICE, SMALL, conv, conv_seconds

from bench.lines import keep
from bench.search.drift import without_drift
from bench.search.knobs import RECORDED, read_rows, recorded, render, run_one
from bench.search.oracle import Exhausted, Oracle
from bench.search.record import RECORDINGS, VISITS, Log, key_of
from bench.search.searches import SEARCHES
from tuner.kernels.registry import template
from tuner.measure.replay import Point, Recording
from tuner.search.experience import Experience
from tuner.types import PROTOCOL, Candidate, Failure, FailureKind, Trial

LAYOUTS = {"i0": "NCHW16c", "t0": "NCHW16c"}
QUICK = ("fusetune cold", "random")


def recording(name: str, channels: int) -> Recording:
    workload = conv(channels)
    question = Candidate(workload.to_json(), workload.hash, LAYOUTS, "conv2d", 1, SMALL.default, 4)
    points = tuple(Point(p, (conv_seconds(replace(question, knobs=p)),) * 3) for p in SMALL.points)
    values = {k: tuple(v) for k, v in SMALL.knobs.items()}
    return Recording(name, "imaginary", DEVICE, "none", PROTOCOL, question, values, points)


SPACES = [recording("a", 64), recording("b", 128)]
CURRENT = {"template_version": template("conv2d").version}  # of what teaches
EXPERIENCE = Experience.of(
    [Trial(replace(SPACES[1].candidate, knobs=p.knobs, **CURRENT), samples=p.samples) for p in SPACES[1].points], DEVICE
)


def test_the_oracle_counts_what_is_new_and_stops_at_the_top() -> None:
    oracle = Oracle(SPACES[0])
    ranked = sorted(SPACES[0].points, key=lambda p: p.seconds or 0.0)
    assert oracle.seconds(ranked[-1].knobs) == ranked[-1].seconds
    oracle.seconds(ranked[-1].knobs)
    assert len(oracle.curve) == 1
    assert oracle.reached(0.95) is None
    with pytest.raises(Exhausted):
        oracle.seconds(ranked[0].knobs)
    assert oracle.curve[-1] == 1.0
    assert oracle.reached(0.95) == 2


@pytest.mark.parametrize("search", QUICK)
def test_every_search_comes_to_the_top_the_same_way_each_time(search: str, tmp_path: Path) -> None:
    rows = [run_one(SPACES[0], search, 3, EXPERIENCE, tmp_path) for _ in range(2)]
    assert rows[0] == rows[1]
    first, second, third = rows[0]["reached"]
    assert first <= second <= third == len(rows[0]["curve"]) <= len(SPACES[0].points)
    assert rows[0]["curve"] == sorted(rows[0]["curve"])


def test_ours_needs_fewer_measurements_than_chance(tmp_path: Path) -> None:
    ours = run_one(SPACES[0], "fusetune calibrated in fours", 0, EXPERIENCE, tmp_path)["reached"][1]
    chance = sorted(run_one(SPACES[0], "random", seed, None, tmp_path)["reached"][1] for seed in range(5))[2]
    assert 2 * ours <= chance


def test_tables_mark_what_is_missing_and_the_picture_is_well_formed(tmp_path: Path) -> None:
    lines = tmp_path / "knobs.jsonl"
    rows = [run_one(SPACES[0], "random", seed, None, tmp_path) for seed in range(3)]
    lines.write_text("\n".join(json.dumps(r) for r in rows) + '\n{"recording": "a", "sea')
    found = read_rows(lines)
    assert len(found) == 3
    page = tmp_path / "RESULTS.md"
    render(found, SPACES, 4, tmp_path, page)
    table = page.read_text()
    assert "| Optuna TPE | missing | missing | missing |" in table
    random = next(line for line in table.splitlines() if line.startswith("| random |"))
    assert random.count("<sub>n=3</sub>") == 2 and random.split("|")[3].strip() == "missing"
    render({}, SPACES, 4, tmp_path, page)  # without rows: from what was kept of them
    assert page.read_text() == table
    assert json.loads((tmp_path / "knobs.json").read_text())["measurements"]["random"]["a"]["runs"] == 3
    picture = ElementTree.parse(tmp_path / "knobs.svg").getroot()
    assert picture.tag.endswith("svg")
    assert len(picture.findall("{*}polyline")) == 1
    assert set(SEARCHES) >= set(QUICK)


def test_kept_rows_count_as_long_as_the_recording_is_the_same(tmp_path: Path) -> None:
    rows = [run_one(space, "random", 0, None, tmp_path) for space in SPACES]
    (tmp_path / "knobs.jsonl").write_text("\n".join(json.dumps(r) for r in rows))
    found = read_rows(tmp_path / "knobs.jsonl")
    render(found, SPACES, 1, tmp_path, tmp_path / "RESULTS.md")
    keep(tmp_path / RECORDED.name, found.values())
    assert recorded(SPACES, tmp_path) == found
    figures = json.loads((tmp_path / "knobs.json").read_text())
    figures["recordings"][SPACES[0].name]["best_us"] += 1.0
    (tmp_path / "knobs.json").write_text(json.dumps(figures))
    assert {name for name, _, _ in recorded(SPACES, tmp_path)} == {s.name for s in SPACES[1:]}


def test_a_log_asks_for_more_of_contenders(tmp_path: Path) -> None:
    log = Log(tmp_path / "x.jsonl")
    question = SPACES[0].candidate
    fast, slow = dict(question.knobs), {**question.knobs, "rows": 2}
    points = [fast, slow]
    (few, _), (more, _), (many, _) = VISITS
    for _ in range(few):
        assert log.missing(points) == points
        for knobs, seconds in ((fast, 2e-4), (slow, 4e-4)):
            log.add(Trial(replace(question, knobs=knobs), samples=(seconds,) * 3))
    assert log.results()[key_of(fast)].seconds == pytest.approx(2e-4)
    assert log.missing(points) == [fast]  # the other is no contender
    (tmp_path / "x.jsonl").open("a").write('{"knobs": {"rows"')  # as a kill leaves it
    again = Log(tmp_path / "x.jsonl")
    assert again.visits == log.visits
    assert few < more < many
    for _ in range(many - few):
        assert again.missing(points) == [fast]
        again.add(Trial(question, samples=(2e-4,) * 3))
    assert again.missing(points) == []


def test_what_failed_for_good_is_visited_once(tmp_path: Path) -> None:
    log = Log(tmp_path / "x.jsonl")
    question = SPACES[0].candidate
    spilt, lost = dict(question.knobs), {**question.knobs, "rows": 2}
    log.add(Trial(question, failure=Failure(FailureKind.REJECTED, "It spills.", "long")))
    log.add(Trial(replace(question, knobs=lost), failure=Failure(FailureKind.LOST, "It went away.")))
    assert log.results()[key_of(spilt)] == Point(spilt, failure=Failure(FailureKind.REJECTED, "It spills."))
    assert log.missing([spilt, lost]) == [lost]
    log.add(Trial(replace(question, knobs=lost), failure=Failure(FailureKind.LOST, "It went away.")))
    assert log.missing([spilt, lost]) == []


def visits(kernels: np.ndarray, rounds: int, seed: int, spell: int) -> tuple[np.ndarray, np.ndarray]:
    """(which, seconds) of so many rounds to kernels of these seconds; foreign load comes and goes in spells."""
    random = np.random.default_rng(seed)
    which = np.concatenate([random.permutation(len(kernels)) for _ in range(rounds)])
    load = np.repeat(random.choice([1.0, 1.6], len(which) // spell + 1, p=[0.2, 0.8]), spell)[: len(which)]
    return which, kernels[which] * load * random.lognormal(0.0, 0.02, len(which))


@pytest.mark.parametrize("seed", range(3))
def test_what_foreign_load_did_is_taken_out(seed: int) -> None:
    kernels = np.random.default_rng(seed).uniform(1e-4, 3e-4, 200)
    which, seconds = visits(kernels, 8, seed, 40)
    calm = without_drift(which, seconds)
    errors = np.log([np.median(calm[which == k]) for k in range(len(kernels))] / kernels)
    raw = np.log([np.median(seconds[which == k]) for k in range(len(kernels))] / kernels)
    assert np.std(errors) < 0.03 < np.std(raw)
    assert abs(np.median(errors)) < 0.05  # given at the level of calm moments


def test_without_foreign_load_times_stay_as_they_are() -> None:
    seconds = np.tile([1e-4, 2e-4, 3e-4], 10)
    assert np.allclose(without_drift(np.tile([0, 1, 2], 10), seconds), seconds)
    assert len(without_drift(np.zeros(0, dtype=int), np.zeros(0))) == 0


@pytest.mark.parametrize("path", sorted(RECORDINGS.glob("*.json.gz")), ids=lambda p: p.name)
def test_recordings_that_come_along_are_whole(path: Path) -> None:
    found = Recording.load(path)
    assert path.name == f"{found.name}.json.gz"
    assert len(found.space.points) == len(found.points) == len({p.samples for p in found.points})
    assert found.find(found.candidate.knobs) is not None
    assert found.workload.hash == found.candidate.workload_hash
    assert "shared" in found.note
    assert path.stat().st_size < 60_000
