"""What a server knows of a cluster's devices: what its scout wrote into the database, for as long as that stands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from db.blobs import Blobs
from db.store import Store
from service.cli import _parser
from service.commands.serve import serve, settings_of
from service.commands.worker import describe, offered
from service.dispatch.dispatcher import Dispatcher
from service.dispatch.scout import Scout, holder, note
from service.settings import Settings
from tuner.errors import UserError
from tuner.measure.cluster.cluster import Member
from tuner.measure.cluster.place import choose
from tuner.measure.named import XEON_4214R

ADDRESS = "127.0.0.1:6380"
OTHER = replace(XEON_4214R, name="other", cores=4)


def seen(*devices: object) -> SimpleNamespace:
    """A cluster with these devices, and a member that has none."""
    members = [Member(f"m{n}", device, 2, {}) for n, device in enumerate(devices)]  # type: ignore[arg-type]
    return SimpleNamespace(comparable=[*members, Member("builder", None, 2, {})])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(f"sqlite:///{tmp_path}/f.db") as opened:
        yield opened


def test_devices_are_offered_while_they_are_there_and_driven_only_by_servers_of_that_cluster(
    store: Store, tmp_path: Path
) -> None:
    put: dict[str, str] = {}
    note(store, seen(XEON_4214R, OTHER), put, ADDRESS)
    store.devices.put(here := replace(XEON_4214R, cores=2, name="cpu"))
    store.devices.offer(here.fingerprint, "another server", 60.0)

    def drivable(address: str) -> set[str]:
        settings = Settings(db=f"sqlite:///{tmp_path}/f.db", data=tmp_path)
        blobs = Blobs(settings.blobs, store.database, None)
        return set(Dispatcher(store, blobs, settings, {}, Scout(settings.db, address, {}))._drivable())

    assert drivable(ADDRESS) == {XEON_4214R.fingerprint, OTHER.fingerprint}
    assert drivable("127.0.0.1:6381") == set()
    store.devices.offer(OTHER.fingerprint, holder(ADDRESS), 0.0)  # as time does
    assert drivable(ADDRESS) == {XEON_4214R.fingerprint}


def test_a_device_that_comes_back_under_another_name_is_called_that(store: Store) -> None:
    put: dict[str, str] = {}
    note(store, seen(XEON_4214R), put, ADDRESS)
    note(store, seen(replace(XEON_4214R, name="xeon-a")), put, ADDRESS)
    (known,) = store.devices.list()
    assert known.device.name == "xeon-a"


def test_a_device_is_chosen_by_name_or_fingerprint() -> None:
    devices = (XEON_4214R, OTHER, replace(OTHER, cores=6))
    assert choose(devices, "xeon-4214r") == XEON_4214R
    assert choose(devices, OTHER.fingerprint) == OTHER
    for name in ("other", "cpu"):
        with pytest.raises(UserError) as raised:
            choose(devices, name)
        assert raised.value.code == "unknown-device" and OTHER.fingerprint in raised.value.message


def test_a_server_refuses_a_cluster_that_is_not_safe_before_it_opens_anything(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    command = ["serve", "--cluster", "10.0.0.7:6380", "--data", str(tmp_path / "data"), "--port", "0"]
    with pytest.raises(UserError) as raised:
        serve(_parser().parse_args(command))
    assert raised.value.code == "cluster-not-safe" and "openssl" in raised.value.hint
    assert not (tmp_path / "data").exists()


def test_the_cluster_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSETUNE_CLUSTER", "127.0.0.1:1")
    assert settings_of(_parser().parse_args(["serve"])).cluster == "127.0.0.1:1"
    assert settings_of(_parser().parse_args(["serve", "--cluster", ADDRESS])).cluster == ADDRESS
    monkeypatch.setenv("FUSETUNE_CLUSTER", "")
    assert settings_of(_parser().parse_args(["serve"])).cluster is None


@pytest.mark.parametrize("name", ["", "sim:x", "Big", "a b", "x" * 41])
def test_what_cannot_be_a_devices_name_is_refused(name: str) -> None:
    with pytest.raises(UserError):
        offered("auto", name)


def test_a_worker_says_what_it_brings() -> None:
    assert describe(None, 0) == "no device, builds nothing"
    assert "12 cores" in describe(XEON_4214R, 1) and "builds 1 kernel side" in describe(XEON_4214R, 1)
