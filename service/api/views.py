"""Stored values as the JSON that the API shows. Pure functions; ``Url`` makes an address from a path under /api/v1."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from db.events import Event
from db.health import DeviceHealth
from db.jobs import Job
from db.models import Model
from db.records import FoundRecord
from db.rows import LightTrial
from db.trials import StoredTrial
from service.api.jsonio import dumps, finite, milliseconds, moment
from service.devices import DeviceStatus
from tuner.types import JobSpec

Url = Callable[[str], str]
PARTS = {"plan": "plan", "report": "report", "report_html": "report.html", "artifact": "artifact", "log": "log"}


def job(job: Job, url: Url, *, listed: bool = False) -> dict[str, Any]:
    """A job; in lists without its plan, which may be large."""
    path = f"/jobs/{job.id}"
    links = {"self": path, "events": f"{path}/events", "trials": f"{path}/trials"}
    links |= {name: f"{path}/{part}" for name, part in PARTS.items()} | {"model": f"/models/{job.model}"}
    return {
        "id": job.id,
        "spec": spec(job.spec, with_plan=not listed),
        "state": job.state.value,
        "stage": job.stage,
        "message": job.message,
        "reason": job.reason,
        "wanted": job.wanted,
        "progress": {"done": finite(job.done) or 0, "total": finite(job.total), "unit": job.unit},
        "trials": {"measured": job.measured, "failed": job.failed, "reused": job.reused_trials},
        "latency_ms": latencies(job.best_seconds, job.unoptimised_seconds, job.onnxruntime_seconds),
        "speedup": {
            "over_unoptimised": _quotient(job.unoptimised_seconds, job.best_seconds),
            "over_onnxruntime": finite(job.over_onnxruntime),
        },
        "reused": job.reused,
        "answered_by": job.answered_by,
        "priority": job.priority,
        "notes": job.notes,
        "model": {"id": job.model, "name": job.model_name},
        "device": {"name": job.device_name, "fingerprint": job.device},
        "elapsed_seconds": job.elapsed,
        "curve": [[finite(value) for value in point] for point in job.curve],
        "created_at": moment(job.created_at),
        "started_at": moment(job.started_at),
        "finished_at": moment(job.finished_at),
        "links": {name: url(path) for name, path in links.items()},
    }


def spec(spec: JobSpec, *, with_plan: bool = True) -> dict[str, Any]:
    """A JobSpec, as POST /jobs takes it. Built by hand: dataclasses.asdict would copy the plan."""
    return {
        "model": spec.model,
        "device": spec.device,
        "strategy": spec.strategy,
        "budget": {"trials": spec.budget.trials, "seconds": spec.budget.seconds},
        "cores": None if spec.cores is None else list(spec.cores),
        "precision": spec.precision,
        "accuracy": spec.accuracy,
        "shapes": {name: list(shape) for name, shape in spec.shapes.items()},
        "disabled_passes": list(spec.disabled_passes),
        "plan": spec.plan if with_plan else None,
        "memory_limit": spec.memory_limit,
        "seed": spec.seed,
        "fresh": spec.fresh,
    }


def latencies(best: float | None, unoptimised: float | None, onnxruntime: float | None) -> dict[str, float | None]:
    """Seconds as the API's ``latency_ms``."""
    return {
        "best": milliseconds(best),
        "unoptimised": milliseconds(unoptimised),
        "onnxruntime": milliseconds(onnxruntime),
    }


def model(model: Model, url: Url) -> dict[str, Any]:
    """A model."""
    details, path = model.details or {}, f"/models/{model.sha256}"
    return {
        "id": model.sha256,
        "name": model.name,
        "layers": model.layers,
        "gmacs": model.macs / 1e9,
        "bytes": model.bytes,
        "inputs": [_tensor(each) for each in model.inputs],
        "outputs": [_tensor(each) for each in model.outputs],
        "parameters": details.get("parameters"),
        "ops": details.get("ops"),
        "unsupported": details.get("unsupported"),
        "blocks": details.get("blocks"),
        "file": model.file,
        "created_at": moment(model.created_at),
        "links": {
            "self": url(path),
            "graph": url(f"{path}/graph"),
            "estimate": url(f"{path}/estimate"),
            "jobs": url(f"/jobs?model={model.sha256}"),
        },
    }


def trial(trial: LightTrial) -> dict[str, Any]:
    """A trial of a list."""
    return {
        "id": trial.id,
        "workload": trial.workload,
        "summary": trial.summary,
        "template": trial.template,
        "knobs": dict(trial.knobs),
        "cores": trial.cores,
        "purpose": trial.purpose,
        "seconds": finite(trial.seconds),
        "predicted_seconds": finite(trial.predicted),
        "failure_kind": trial.failure_kind,
        "failure_message": trial.failure_message,
        "build_seconds": trial.build_seconds,
        "measure_seconds": trial.measure_seconds,
        "created_at": moment(trial.created_at),
    }


def full_trial(stored: StoredTrial, summary: str) -> dict[str, Any]:
    """A trial with everything known of it."""
    trial, candidate, failure = stored.trial, stored.trial.candidate, stored.trial.failure
    return {
        "id": stored.id,
        "workload": candidate.workload_hash,
        "summary": summary,
        "template": candidate.template,
        "knobs": dict(candidate.knobs),
        "cores": candidate.cores,
        "purpose": trial.purpose.value,
        "seconds": finite(trial.seconds),
        "predicted_seconds": finite(trial.predicted),
        "failure_kind": None if failure is None else failure.kind.value,
        "failure_message": None if failure is None else failure.message,
        "build_seconds": trial.build_seconds,
        "measure_seconds": trial.measure_seconds,
        "created_at": moment(stored.created_at),
        "job": stored.job,
        "device": stored.device,
        "toolchain": stored.toolchain,
        "protocol": stored.protocol,
        "layouts": dict(candidate.layouts),
        "template_version": candidate.template_version,
        "precision": candidate.precision,
        "residency": candidate.residency,
        "record_key": candidate.record_key,
        "samples": [each for each in trial.samples if finite(each) is not None],
        "max_rel_error": finite(trial.max_rel_error),
        "drift": finite(trial.drift),
        "stderr": None if failure is None else failure.stderr,
        "canonical": candidate.workload,
    }


def event(event: Event) -> dict[str, Any]:
    """An event, when polling."""
    return {"seq": event.seq, "kind": event.kind, "at": moment(event.created_at), "data": _data(event)}


def wire_event(event: Event) -> bytes:
    """An event on the wire of text/event-stream."""
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (event.seq, event.kind.encode(), dumps(_data(event)))


def record(found: FoundRecord) -> dict[str, Any]:
    """A record and where it came from."""
    record, candidate = found.record, found.record.candidate
    return {
        "workload": candidate.workload_hash,
        "summary": found.summary,
        "record_key": candidate.record_key,
        "canonical": candidate.workload,
        "layouts": dict(candidate.layouts),
        "template": candidate.template,
        "template_version": candidate.template_version,
        "knobs": dict(candidate.knobs),
        "cores": candidate.cores,
        "precision": candidate.precision,
        "residency": candidate.residency,
        "seconds": finite(record.seconds),
        "samples": record.samples,
        "device": {"name": found.device_name, "fingerprint": record.device},
        "toolchain": record.toolchain,
        "protocol": record.protocol,
        "trial": found.trial,
        "job": found.job,
        "found_at": moment(found.found_at),
    }


def device(status: DeviceStatus) -> dict[str, Any]:
    """A device at this moment."""
    known, turn = status.known, status.turn
    peak, bandwidth = finite(known.peak_flops), finite(known.bandwidth)
    return known.device.to_json() | {
        "available": status.available,
        "turn": None if turn is None else {"job": turn.job, "what": turn.what, "taken_at": moment(turn.taken_at)},
        "running": status.load.running,
        "queued": status.load.queued,
        "peak_gflops": None if peak is None else peak / 1e9,
        "bandwidth_gbs": None if bandwidth is None else bandwidth / 1e9,
        "records": status.records,
        "health": None if status.health is None else _health(status.health),
        "first_seen_at": moment(known.first_seen_at),
        "last_seen_at": moment(known.last_seen_at),
    }


def _health(health: DeviceHealth) -> dict[str, Any]:
    return {
        "drifting_since": None if health.drifting_since is None else moment(health.drifting_since),
        "drift": round(health.ratio, 3),
        "calibration_us": None if health.usual is None else health.usual * 1e6,
        "checked_at": moment(health.updated_at),
    }


_LATENCIES = {"best_seconds": "best", "unoptimised_seconds": "unoptimised", "onnxruntime_seconds": "onnxruntime"}
_TRIALS = {"measured": "measured", "failed": "failed", "reused_trials": "reused"}


def _data(event: Event) -> Mapping[str, Any]:
    """An event's payload; progress in the shape and words of a job. What did not change is left out."""
    if event.kind != "progress":
        return event.payload
    data: dict[str, Any] = {}
    for name, value in event.payload.items():
        if name in _LATENCIES:
            data.setdefault("latency_ms", {})[_LATENCIES[name]] = milliseconds(value)
        elif name in _TRIALS:
            data.setdefault("trials", {})[_TRIALS[name]] = value
        elif name in {"done", "total", "unit"}:
            data.setdefault("progress", {})[name] = value
        else:
            data["elapsed_seconds" if name == "elapsed" else name] = value
    return data


def _tensor(tensor: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": tensor["name"],
        "dtype": tensor["dtype"],
        "shape": list(tensor["shape"] or ()),
        "open": bool(tensor.get("open")),
    }


def _quotient(other: float | None, ours: float | None) -> float | None:
    return finite(other / ours) if other and ours else None
