"""Calibrations: one per device, toolchain and protocol, replaced as it grows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from db_values import DEVICE, TOOLCHAIN

from db.store import Store
from tuner.errors import InternalError

SAMPLES = [{"design": {"kind": "conv"}, "seconds": 1e-5}, {"design": {"kind": "pool"}, "seconds": None}]


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with Store.open(url) as store:
        store.devices.put(DEVICE)
        yield store


def test_what_is_put_comes_back(store: Store) -> None:
    store.calibrations.put(
        DEVICE.fingerprint, TOOLCHAIN, SAMPLES, seconds=2.5, model={"version": 1}, quality={"median_error": 0.02}
    )
    found = store.calibrations.get(DEVICE.fingerprint, TOOLCHAIN)
    assert found is not None
    assert list(found.samples) == SAMPLES
    assert (found.seconds, found.model, found.quality) == (2.5, {"version": 1}, {"median_error": 0.02})


def test_a_later_one_takes_its_place_and_keeps_its_beginning(store: Store) -> None:
    store.calibrations.put(DEVICE.fingerprint, TOOLCHAIN, SAMPLES[:1], seconds=1.0, model={"version": 1})
    first = store.calibrations.get(DEVICE.fingerprint, TOOLCHAIN)
    store.calibrations.put(DEVICE.fingerprint, TOOLCHAIN, SAMPLES, seconds=2.0)
    second = store.calibrations.get(DEVICE.fingerprint, TOOLCHAIN)
    assert first is not None
    assert second is not None
    assert (len(second.samples), second.seconds, second.model) == (2, 2.0, None)
    assert second.created_at == first.created_at <= second.updated_at


def test_toolchains_and_protocols_are_told_apart(store: Store) -> None:
    store.calibrations.put(DEVICE.fingerprint, TOOLCHAIN, SAMPLES, seconds=1.0)
    assert store.calibrations.get(DEVICE.fingerprint, "another") is None
    assert store.calibrations.get(DEVICE.fingerprint, TOOLCHAIN, protocol="another") is None


def test_the_device_comes_first(store: Store) -> None:
    with pytest.raises(InternalError) as error:
        store.calibrations.put("f" * 16, TOOLCHAIN, SAMPLES, seconds=1.0)
    assert error.value.code == "database-invariant"


def test_figures_are_those_of_each_devices_newest_calibration(store: Store) -> None:
    assert store.calibrations.figures() == {}
    store.calibrations.put(DEVICE.fingerprint, "old", SAMPLES, seconds=1.0, quality={"median_error": 0.5})
    store.calibrations.put(DEVICE.fingerprint, TOOLCHAIN, SAMPLES, seconds=2.0, quality={"median_error": 0.02})
    store.calibrations.put(DEVICE.fingerprint, "other", SAMPLES, seconds=3.0, protocol="another")
    (found,) = store.calibrations.figures().values()
    assert (found.device, found.toolchain) == (DEVICE.fingerprint, TOOLCHAIN)
    assert (found.quality, found.seconds) == ({"median_error": 0.02}, 2.0)
