"""Spec files: what is read, and what every bad one is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sim_blocks import MLU, XEON, spec_json

from tuner.errors import UserError
from tuner.simulate.spec import from_json, load, names, read

FIELDS = [k for k in spec_json() if k not in ("version", "name", "title")]


def refused(data: Any) -> str:
    with pytest.raises(UserError) as raised:
        from_json(data)
    assert raised.value.code == "bad-spec"
    return raised.value.message


def test_the_specs_that_come_along_name_a_source_for_every_value() -> None:
    assert names() == ("mlu100", "xeon-4214r")
    for spec in map(load, names()):
        assert sorted(spec.entries) == sorted(FIELDS)
        assert all(len(e.source) > 5 for e in spec.entries.values())
        assert any(e.assumed for e in spec.entries.values())


def test_published_figures() -> None:
    assert (MLU.cores, MLU.peak, MLU.bandwidth, MLU.element_bytes) == (32, 64e12, 102.4e9, 2)
    assert not any(MLU.entries[f].assumed for f in ("cores", "core_peak", "bandwidth", "element_bytes"))
    assert (XEON.cores, XEON.core_peak, XEON.bandwidth) == (
        12,
        pytest.approx(16 * 2 * 2.4e9),
        pytest.approx(6 * 8 * 2.4e9),
    )
    assert (XEON.core_memory, XEON.shared_memory, XEON.element_bytes) == (1 << 20, 16.5 * (1 << 20), 4)


def test_units_are_scaled() -> None:
    data = spec_json()
    data["launch"] |= {"value": 0.005, "unit": "ms"}
    data["core_peak"] |= {"value": 2000, "unit": "GFLOP/s"}
    data["core_memory"] |= {"value": 1536, "unit": "KiB"}
    assert from_json(data) == MLU


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_is_needed_and_named_when_it_is_wrong(field: str) -> None:
    whole = spec_json()
    assert refused({k: v for k, v in whole.items() if k != field}).endswith(f"{field} is missing.")
    assert field in refused(whole | {field: 3})
    for part in ("value", "unit", "source", "assumed"):
        left = {k: v for k, v in whole[field].items() if k != part}
        assert f"{field}.{part}" in refused(whole | {field: left})
    assert f"{field}.colour" in refused(whole | {field: whole[field] | {"colour": 1}})
    assert f"{field}.value" in refused(whole | {field: whole[field] | {"value": "much"}})
    assert f"{field}.value" in refused(whole | {field: whole[field] | {"value": True}})
    assert f"{field}.source" in refused(whole | {field: whole[field] | {"source": " "}})
    if field != "sync_growth":
        assert f"{field}.unit" in refused(whole | {field: whole[field] | {"unit": "furlong"}})
        for bad in (-1, float("nan"), float("inf"), 10**400):
            assert f"{field}.value" in refused(whole | {field: whole[field] | {"value": bad}})


@pytest.mark.parametrize(
    ("field", "value"),
    [("cores", 0), ("cores", 2.5), ("cores", 5000), ("core_peak", 0), ("peak_share", 1.5), ("element_bytes", 3.5),
     ("noise", 2), ("core_bandwidth", 500), ("sync_growth", "cubic"), ("core_memory", 0)],
)  # fmt: skip
def test_values_out_of_range(field: str, value: Any) -> None:
    data = spec_json()
    data[field]["value"] = value
    assert field in refused(data)


@pytest.mark.parametrize("field", ["half_work", "shared_memory", "launch", "sync", "noise"])
def test_what_may_be_nothing(field: str) -> None:
    data = spec_json()
    data[field]["value"] = 0
    assert getattr(from_json(data), field) == 0


def test_no_spec_at_all() -> None:
    assert "object" in refused([1])
    assert "version" in refused({})
    assert "name" in refused(spec_json() | {"name": "../x"})
    assert "title" in refused(spec_json() | {"title": ""})
    assert "frequency" in refused(spec_json() | {"frequency": 1})


@pytest.mark.parametrize(
    "write",
    [
        lambda p: p.write_text("{"),
        lambda p: p.write_bytes(b"\xff\xfe"),
        lambda p: p.write_text('{"version": 1, "version": 1}'),
        lambda p: p.write_text(" " * (1 << 21)),
        lambda p: p.write_text("[" * 100_000),
        lambda p: p.mkdir(),
        lambda p: None,
    ],
)  # fmt: skip
def test_files_that_cannot_be_read(tmp_path: Path, write: Callable[[Path], object]) -> None:
    path = tmp_path / "mine.json"
    write(path)
    with pytest.raises(UserError) as raised:
        read(path)
    assert raised.value.code == "bad-spec"


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    data = spec_json() | {"name": "mine", "title": "My machine"}
    (tmp_path / "mine.json").write_text(json.dumps(data))
    spec = load(f"sim:{tmp_path}/mine.json")
    assert (spec.name, spec.cores) == ("mine", 32) and spec.digest != MLU.digest


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match="mlu100, xeon-4214r") as raised:
        load("sim:mlu200")
    assert raised.value.code == "unknown-device"
