"""Trials, records and devices over HTTP."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from tests.api_server import DEVICE, TOOLCHAIN, Service, bad, good
from tuner.types import FailureKind


@pytest.fixture
def measured(either: Service) -> tuple[Service, str]:
    """A job with six trials: times 5, 4, 3 ms, then a crash, a time-out and a crash."""
    job, _ = either.running()
    kinds = (FailureKind.CRASH, FailureKind.TIMEOUT, FailureKind.CRASH)
    trials = [good(n, seconds) for n, seconds in enumerate((5e-3, 4e-3, 3e-3))]
    trials += [bad(10 + n, kind) for n, kind in enumerate(kinds)]
    for trial in trials:
        either.store.trials.add(job.id, trial, device=job.device, toolchain=TOOLCHAIN, summary="conv 3x3")
    return either, f"/api/v1/jobs/{job.id}/trials"


def numbers(service: Service, path: str, **query: Any) -> list[int]:
    """Ids of all trials of a list, counted from the first one, read two at a time."""
    with service.client() as client:
        found, cursor = [], None
        while True:
            page = client.get(path, params={"limit": 2, **query, **({"cursor": cursor} if cursor else {})}).json()
            found += [each["id"] for each in page["items"]]
            cursor = page["next"]
            if cursor is None:
                return found


def test_trials_are_listed_in_every_order(measured: tuple[Service, str]) -> None:
    assert numbers(*measured) == [1, 2, 3, 4, 5, 6]
    assert numbers(*measured, order="-id") == [6, 5, 4, 3, 2, 1]
    assert numbers(*measured, order="seconds") == [3, 2, 1, 4, 5, 6]
    assert numbers(*measured, order="-seconds") == [1, 2, 3, 4, 5, 6]


def test_trials_are_filtered(measured: tuple[Service, str]) -> None:
    assert numbers(*measured, state="ok") == [1, 2, 3]
    assert numbers(*measured, state="failed") == [4, 5, 6]
    assert numbers(*measured, kind="crash") == [4, 6]


def test_a_cursor_belongs_to_its_order(measured: tuple[Service, str]) -> None:
    service, path = measured
    with service.client() as client:
        cursor = client.get(path, params={"limit": 2}).json()["next"]
        refused = client.get(path, params={"limit": 2, "cursor": cursor, "order": "seconds"})
    assert (refused.status_code, refused.json()["code"]) == (400, "bad-cursor")


@pytest.mark.parametrize(
    ("order", "position"),
    [("id", [2**63 - 1]), ("id", [-(2**63) + 1]), ("-seconds", [1e308, 2**63 - 1]), ("seconds", [None, 2**62])],
)
def test_a_forged_cursor_is_harmless(measured: tuple[Service, str], order: str, position: list[Any]) -> None:
    service, path = measured
    cursor = base64.urlsafe_b64encode(json.dumps([order, *position]).encode()).decode().rstrip("=")
    with service.client() as client:
        assert client.get(path, params={"order": order, "cursor": cursor}).status_code == 200
        records = base64.urlsafe_b64encode(json.dumps(["records", 2**62]).encode()).decode().rstrip("=")
        assert client.get("/api/v1/records", params={"cursor": records}).status_code == 200


def test_one_trial_is_shown_whole(measured: tuple[Service, str]) -> None:
    service, path = measured
    with service.client() as client:
        one, failed = client.get(f"{path}/1").json(), client.get(f"{path}/4").json()
        stderr = client.get(f"{path}/4/stderr")
    assert (one["samples"], one["seconds"], one["stderr"]) == ([5e-3, 5e-3], 5e-3, None)
    assert (one["summary"], one["device"]) == ("conv 3x3", DEVICE.fingerprint)
    assert one["canonical"]["layers"][0]["max"] == "Infinity", "JSON has no infinity"
    assert (failed["seconds"], failed["failure_kind"], failed["failure_message"]) == (None, "crash", "it \0 died")
    assert stderr.headers["content-type"] == "text/plain; charset=utf-8"
    assert stderr.text == "last words ?\n", "what is no text is replaced"


def test_a_trial_belongs_to_its_job(measured: tuple[Service, str]) -> None:
    service, path = measured
    other = service.job()
    with service.client() as client:
        for wrong in (f"{path}/99", f"{path}/{2**63 - 1}", f"/api/v1/jobs/{other.id}/trials/1"):
            assert client.get(wrong).json()["code"] == "unknown-trial"
        for wrong in (f"{path}/0", f"{path}/x", f"{path}/{2**63}", f"{path}/-1"):
            assert client.get(wrong).json()["code"] == "not-found"


def test_records_are_found(measured: tuple[Service, str]) -> None:
    service, _ = measured
    with service.client() as client:
        (record,) = client.get("/api/v1/records").json()["items"]
        workload = record["workload"]

        def found(**query: str) -> int:
            return len(client.get("/api/v1/records", params=query).json()["items"])

        assert record["seconds"] == 3e-3
        assert record["device"] == {"name": "cpu", "fingerprint": DEVICE.fingerprint}
        assert found(workload=workload[:6]) == found(device="cpu") == found(device=DEVICE.fingerprint) == 1
        assert found(workload="0" * 8) == found(device="gpu") == found(precision="int8") == 0


def test_devices_say_what_they_do(either: Service) -> None:
    job, claim = either.running()
    either.job()
    either.store.devices.offer(DEVICE.fingerprint, "here", 60.0)
    either.store.turns.take(DEVICE.fingerprint, claim, 60.0, "a kernel")
    either.store.devices.measured(DEVICE.fingerprint, peak_flops=2e11, bandwidth=3e10)
    with either.client() as client:
        by_name = client.get("/api/v1/devices/cpu").json()
        assert client.get(f"/api/v1/devices/{DEVICE.fingerprint}").json() == by_name
        assert client.get("/api/v1/devices").json()["items"] == [by_name]
    assert (by_name["available"], by_name["running"], by_name["queued"]) == (True, 1, 1)
    assert (by_name["peak_gflops"], by_name["bandwidth_gbs"]) == (200.0, 30.0)
    assert (by_name["turn"]["job"], by_name["turn"]["what"]) == (job.id, "a kernel")
