"""Jobs as users see them: what may be asked for, what is known already, what can be done to one.

The API, the dashboard and the demo of ``fusetune serve`` all go through here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from db.jobs import Job
from db.paging import Page
from db.store import Store
from service.models import ModelLibrary
from service.rules import check_shapes, checked, covers
from tuner.errors import UserError
from tuner.types import Device, JobSpec, JobState

Action = Literal["cancel", "pause", "resume", "retry"]


@dataclass(frozen=True)
class Known:
    """Devices by the name that users say, and the toolchain that builds for them."""

    devices: Mapping[str, Device]
    toolchain: str

    def device(self, name: str) -> Device:
        """The device of this name. Raises UserError (``unknown-device``) listing those there are."""
        if name not in self.devices:
            known = ", ".join(sorted(self.devices)) or "none yet"
            raise UserError(f"There is no device {name!r}.", code="unknown-device", hint=f"Devices here: {known}.")
        return self.devices[name]


class Jobs:
    """What can be done with jobs. Thread-safe; ``wake`` is called when there is something new to do."""

    def __init__(self, store: Store, models: ModelLibrary, known: Known, wake: Callable[[], None] = lambda: None):
        self._store, self._models, self._known, self._wake = store, models, known, wake
        self._stored: set[str] = set()  # fingerprints of devices that were put: a write less for each further job

    def submit(
        self, spec: JobSpec, *, priority: int = 0, notes: str | None = None, idempotency: str | None = None
    ) -> tuple[Job, bool]:
        """Queue a job, or answer it at once when its answer is known; False = the same request came before.

        ``idempotency`` is a key of the client's choice: a second request with it gives the first one's job.

        Raises:
            UserError: ``unknown-model``, ``unknown-device``, ``unknown-strategy``, ``bad-precision``, ``bad-cores``,
                ``unknown-pass``, ``unknown-input``, ``missing-shape``, ``shape-contradiction``, ``bad-plan``,
                ``idempotency-conflict`` (the key came with another request).
        """
        key = None
        if idempotency is not None:
            # First of all: a request that was taken is answered again, whatever has become of its model and device.
            asked = json.dumps([spec.to_json(), priority, notes], sort_keys=True)
            key = (idempotency, hashlib.sha256(asked.encode()).hexdigest())
            old = self._store.jobs.asked(*key)
            if old is not None:
                return old, False
        device = self._known.device(spec.device)
        spec = checked(spec, device)
        model = self._models.get(spec.model)
        if not model.file:
            raise UserError(
                f"The file of model '{model.name}' was deleted.", code="unknown-model", hint="Upload it again."
            )
        check_shapes(spec.shapes, model.inputs)
        self._put(device)
        known = None if spec.fresh else self._answer(spec, device)
        if spec.plan is not None and known is None:  # which takes seconds: the model is read for it
            self._models.check_plan(spec, device)
        job, created = self._store.jobs.submit(
            spec, device.fingerprint, self._known.toolchain, model_name=model.name, device_name=device.name,
            priority=priority, notes=notes, idempotency=key, answer=known, uploaded=True,
        )  # fmt: skip
        if created and job.state is JobState.QUEUED:
            self._wake()
        return job, created

    def get(self, id: str, *, light: bool = False) -> Job:
        """The job; a ``light`` one is without its report and its spec's plan. Raises UserError (``unknown-job``)."""
        job = self._store.jobs.get(id, light=light)
        if job is None:
            raise UserError(f"There is no job '{id}'.", code="unknown-job")
        return job

    def list(
        self, *, state: Collection[JobState] | None = None, device: str | None = None, model: str | None = None,
        created_after: datetime | None = None, created_before: datetime | None = None, order: str = "-created_at",
        limit: int = 50, cursor: str | None = None,
    ) -> Page[Job]:  # fmt: skip
        """One page of jobs; reports are left out."""
        return self._store.jobs.list(
            state=state, device=device, model=model, created_after=created_after, created_before=created_before,
            order=order, limit=limit, cursor=cursor,
        )  # fmt: skip

    def act(self, id: str, action: Action) -> Job:
        """Cancel, pause, resume or retry. Asking twice changes nothing.

        Raises:
            UserError: ``unknown-job``; ``wrong-state`` when the job's state does not allow it.
        """
        job = self._store.jobs.request(id, action)
        self._wake()
        return job

    def delete(self, id: str) -> None:
        """Forget a finished job; the trials it made stay known. Raises UserError (``unknown-job``, ``wrong-state``)."""
        files = self._store.jobs.files(id)
        self._store.jobs.delete(id)
        self._models.free(file.sha256 for file in files.values())

    def _put(self, device: Device) -> None:
        if device.fingerprint not in self._stored:
            self._stored.add(self._store.devices.put(device))

    def _answer(self, spec: JobSpec, device: Device) -> Job | None:
        """A finished job that asked the same with at least this budget, and whose files are still there."""
        return answer(self._store, spec, device, self._known.toolchain, files=True)


def answer(store: Store, spec: JobSpec, device: Device, toolchain: str, *, files: bool = False) -> Job | None:
    """The newest job that ended well with the same question, device, toolchain, engine and at least the same budget.

    With ``files``: one whose artifact can still be handed out.
    """
    for job in store.jobs.answers(spec.question, device.fingerprint, toolchain):
        if covers(job.spec.budget, spec.budget) and (not files or store.jobs.files(job.id)):
            return store.jobs.get(job.id)
    return None
