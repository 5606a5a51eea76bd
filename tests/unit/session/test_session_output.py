"""The artifact's folder, checked before any work and replaced in one move; and who may use stored records."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from types import SimpleNamespace

import pytest

from tuner.errors import UserError
from tuner.output import check_writable, install
from tuner.search.courses import Planned
from tuner.session import Session
from tuner.types import Budget, Device, JobSpec, Trial

DEVICE = Device("cpu", "cpu", "Test CPU", "znver5", ("avx2",), 2, 16, 32, 2**15, 2**20, 2**25, 2**34)


def artifact(folder: Path, model: str = "code") -> Path:
    folder.mkdir(parents=True)
    (folder / "model.so").write_text(model)
    (folder / "manifest.json").write_text(json.dumps({"format": 1, "sha256": {"model.so": "00"}}))
    return folder


def contents(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    "name, text",
    [
        ("thesis.tex", "years of work"),
        ("manifest.json", '{"name": "somebody else\'s"}'),
        ("manifest.json", "no JSON"),
        ("manifest.json", '{"format": 1}'),
        ("manifest.json", "[]"),
    ],
)
def test_a_folder_that_is_no_artifact_is_refused_and_left_alone(tmp_path: Path, name: str, text: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text(text)
    with pytest.raises(UserError) as refused:
        check_writable(out)
    assert refused.value.code == "bad-output"
    with pytest.raises(UserError):
        install(artifact(tmp_path / "new"), out)
    assert contents(out) == {name: text}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new", "out"]


def test_a_new_or_empty_folder_is_filled(tmp_path: Path) -> None:
    new = artifact(tmp_path / "new")
    (tmp_path / "empty").mkdir()
    for out in (tmp_path / "deep" / "er", tmp_path / "empty"):
        check_writable(out)
        install(new, out)
        assert contents(out) == contents(new)


def test_an_earlier_artifact_is_replaced_whole(tmp_path: Path) -> None:
    out = artifact(tmp_path / "out", "old")
    (out / "left over").write_text("from then")
    new = artifact(tmp_path / "new", "newer")
    check_writable(out)
    install(new, out)
    assert contents(out) == contents(new)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new", "out"]


def test_here_is_a_folder_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new = artifact(tmp_path / "new")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    check_writable(Path())
    install(new, Path())
    assert contents(tmp_path / "here") == contents(new)


def test_what_cannot_be_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (
        tmp_path / "file",
        tmp_path / "file" / "below",
        Path("/proc"),
        Path("/proc/new"),
        tmp_path / ("x" * 300),
    ):
        with pytest.raises(UserError) as refused:
            check_writable(out)
        assert refused.value.code == "bad-output"


class Listening:
    """A store that knows nothing and notes that it was asked."""

    def __init__(self) -> None:
        self.asked = False

    def known(self, record_keys: Collection[str]) -> list[Trial]:
        self.asked = True
        return []

    def mine(self) -> list[Trial]:
        return []

    def add(self, trial: Trial) -> None:
        raise AssertionError("nothing is measured here")


@pytest.mark.parametrize(
    ("spec", "recalls"),
    [
        (JobSpec("ab", strategy="greedy"), True),
        (JobSpec("ab", strategy="none"), False),
        (JobSpec("ab", strategy="greedy", budget=Budget(trials=0)), False),
        (JobSpec("ab", strategy="greedy", fresh=True), False),
    ],
)
def test_promised_defaults_do_not_come_from_the_store(spec: JobSpec, recalls: bool) -> None:
    store = Listening()
    session = Session(spec, Path("m.onnx"), DEVICE, store=store, search=False)
    session._search(None, Planned(None, {}), SimpleNamespace(objects=None))  # type: ignore[arg-type]
    assert store.asked is recalls
