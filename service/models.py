"""The models that were uploaded: their bytes are blobs, what is in them was found out once, in a child process."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from db.blobs import Blobs
from db.models import Model
from db.paging import Page
from db.store import Store
from service.inspect import check_plan, inspect
from tuner.errors import InternalError, UserError
from tuner.types import Device, JobSpec

READERS = 2  # models inspected at once: each takes a core and, for a large model, gigabytes
WAIT = 60.0  # seconds an upload waits for its turn to be inspected
FRESH = 60.0  # seconds a blob of a deleted job is kept after it was put: another job may just be finishing with it
SECONDS_PER_QUESTION = 4.0  # for an honest guess; a kernel search rarely gains after some thirty trials
SECONDS_AROUND = 25.0  # importing, building whole models, comparing, writing


@dataclass(frozen=True)
class Estimate:
    """What tuning a model would take, as far as is known."""

    questions: int  # kernels that the default plan asks for
    known: int  # of them, those with stored trials on this device
    seconds: float  # a guess


class ModelLibrary:
    """Uploaded models. Thread-safe; ``add`` blocks for as long as the upload and the inspection take."""

    def __init__(
        self, store: Store, blobs: Blobs, device: Device, toolchain: str, max_upload: int | None = None
    ) -> None:
        self._store, self._blobs, self._device, self._toolchain = store, blobs, device, toolchain
        self._max_upload = max_upload
        self._readers = threading.BoundedSemaphore(READERS)

    def add(self, chunks: Iterable[bytes], name: str) -> tuple[Model, bool]:
        """Take in an ONNX file; False = these very bytes were known.

        Raises:
            UserError: ``too-large``, or what is wrong with the file (see tuner.graph.load.import_model).
            InternalError: ``storage-full``; ``too-busy`` when too many models are being read; ``server-busy`` when the
                file was given up by another request meanwhile.
        """
        blob = self._blobs.put(chunks, limit=self._max_upload)
        known = self._store.models.get(blob.sha256)
        if known is not None and known.file:
            return known, False
        with self._reading():
            try:
                found = inspect(self._blobs.path(blob.sha256), self._device)
            except BaseException:
                self._blobs.delete(blob.sha256)  # nobody wants it, unless a model names it
                raise
        model = self._store.models.put(
            blob.sha256, name=name, layers=found.layers, macs=found.macs, size=blob.size, inputs=found.inputs,
            outputs=found.outputs, details=found.details, graph=found.graph,
        )  # fmt: skip
        if not self._blobs.has(blob.sha256):
            self._store.models.delete(blob.sha256)
            raise InternalError(
                "The same file was refused or deleted meanwhile.", code="server-busy", hint="Send it again."
            )
        return model, True

    def check_plan(self, spec: JobSpec, device: Device) -> None:
        """Read the model as the job would, and see that the job's plan fits it. Takes seconds.

        Raises:
            UserError: ``bad-plan``, or what is wrong with the model under the job's shapes.
            InternalError: ``too-busy`` when too many models are being read.
        """
        with self._reading():
            check_plan(self._blobs.path(spec.model), spec, device)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        if not self._readers.acquire(timeout=WAIT):
            raise InternalError("Too many models are being read.", code="too-busy", hint="Try again in a minute.")
        try:
            yield
        finally:
            self._readers.release()

    def get(self, sha256: str) -> Model:
        """The model. Raises UserError (``unknown-model``)."""
        model = self._store.models.get(sha256)
        if model is None:
            raise UserError(f"There is no model '{sha256}'.", code="unknown-model", hint="Upload it first.")
        return model

    def list(self, *, limit: int = 50, cursor: str | None = None) -> Page[Model]:
        """One page of models, the newest first."""
        return self._store.models.list(limit=limit, cursor=cursor)

    def graph(self, sha256: str) -> Mapping[str, Any]:
        """The cleaned Graph as JSON. Raises UserError (``unknown-model``)."""
        graph = self._store.models.graph(sha256)
        if graph is None:
            raise UserError(f"There is no model '{sha256}'.", code="unknown-model")
        return graph

    def delete(self, sha256: str) -> None:
        """Forget the file and what is known of it; jobs and records stay.

        Raises:
            UserError: ``unknown-model``; ``model-in-use`` while unfinished jobs need it.
        """
        if not self._store.models.delete(sha256):
            raise UserError(f"There is no model '{sha256}'.", code="unknown-model")
        self._blobs.delete(sha256)

    def free(self, hashes: Iterable[str]) -> None:
        """Free the room of these blobs, as far as nothing names them; of what was put just now the collector does."""
        for sha256 in set(hashes):
            self._blobs.delete(sha256, FRESH)

    def estimate(self, sha256: str, device: Device) -> Estimate:
        """What tuning would take on ``device``. Raises UserError (``unknown-model``)."""
        details = self.get(sha256).details or {}
        groups: list[list[str]] = list(details.get("questions", ()))
        known = 0
        # Spaces and layouts depend on the device: what was asked for another one says nothing.
        if groups and details.get("device") == device.fingerprint:
            known = self._store.records.known_questions(groups, device=device.fingerprint, toolchain=self._toolchain)
        return Estimate(len(groups), known, SECONDS_AROUND + SECONDS_PER_QUESTION * (len(groups) - known))
