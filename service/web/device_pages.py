"""The pages of devices: what each does now, what it can do as far as that was measured, what is known of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from db.calibrations import CalibrationFigures
from db.jobs import Job
from service.devices import DeviceStatus
from service.exports import quality
from service.web.render import Web
from service.web.roofline import Roofline, roofline
from service.web.views import job_row, model_name
from tuner.types import JobState

QUEUE = 100  # waiting jobs that are counted
JOBS = 20  # newest jobs on a device's page


@dataclass(frozen=True)
class DeviceCard:
    """A device as its card shows it."""

    status: DeviceStatus
    running: list[Job]
    queue: list[Job]  # the next ones first
    more_waiting: bool  # the queue is longer than what was counted
    roofline: Roofline | None
    calibration: CalibrationFigures | None  # the newest; None = never calibrated

    @property
    def names(self) -> dict[str, str]:
        """Running jobs' models by job id."""
        return {job.id: model_name(job) for job in self.running}


def router(web: Web) -> APIRouter:
    """Routes of /devices and /devices/{fingerprint}."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/devices")
    def devices(request: Request) -> HTMLResponse:
        figures = web.store.calibrations.figures()
        return web.page(request, "devices.html", cards=[_card(web, s, figures) for s in web.devices.list()])

    @routes.get("/devices/{fingerprint}")
    def device(request: Request, fingerprint: str) -> HTMLResponse:
        status = web.devices.get(fingerprint)
        this = status.known.device.fingerprint
        jobs = web.jobs.list(device=this, limit=JOBS)
        card = _card(web, status, web.store.calibrations.figures())
        return web.page(
            request,
            "device.html",
            card=card,
            judged=quality.of_calibration(card.calibration.quality) if card.calibration else None,
            jobs=[job_row(job) for job in jobs.items],
            more=web.url("/jobs", device=this) if jobs.next else None,
        )

    return routes


def _card(web: Web, status: DeviceStatus, calibrations: Mapping[str, CalibrationFigures]) -> DeviceCard:
    device = status.known.device.fingerprint
    running = web.jobs.list(state=[JobState.RUNNING, JobState.CANCELLING], device=device, limit=QUEUE)
    queue = web.jobs.list(state=[JobState.QUEUED], device=device, order="-priority", limit=QUEUE)
    # Equal urgency: the older job is next.
    waiting = sorted(queue.items, key=lambda job: (-job.priority, job.created_at))
    # What is measured this moment comes first.
    working = sorted(running.items, key=lambda job: status.turn is None or job.id != status.turn.job)
    return DeviceCard(
        status,
        working,
        waiting,
        queue.next is not None,
        roofline(status.known.peak_flops, status.known.bandwidth),
        calibrations.get(device),
    )
