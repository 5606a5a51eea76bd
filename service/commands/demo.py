"""The job of ``fusetune serve --demo``: submitted like any other, shown in the server's terminal."""

from __future__ import annotations

import logging
import shutil
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from db.jobs import Job
from db.schema import ENDED
from service.commands.live import Live, show
from service.rules import DEFAULT_SECONDS
from tuner.errors import FusetuneError
from tuner.events import Progress, Stage
from tuner.types import Budget, JobSpec, JobState

if TYPE_CHECKING:
    from service.api.context import Context

LOOK = 0.5  # seconds between two looks at the job
CHUNK = 1 << 20  # bytes
_UNFINISHED = (JobState.QUEUED, JobState.RUNNING)
_log = logging.getLogger(__name__)


class Demo:
    """Submits one model, follows its job to the end and says what came out, in a thread of its own."""

    def __init__(self, model: Path, seconds: float | None, context: Context, folder: Path, console: Console) -> None:
        """The artifact is left in ``folder``, in one named after the model."""
        self._model, self._seconds, self._context = model, seconds or DEFAULT_SECONDS, context
        self._out, self._console = folder / model.stem, console
        self._leaving = threading.Event()
        self._thread: threading.Thread | None = None
        self.succeeded: bool | None = None  # None until the job has ended

    def start(self, then: Callable[[], None] | None = None) -> None:
        """Begin; ``then`` is called when the job has ended, or cannot begin."""

        def work() -> None:
            try:
                self.succeeded = self._run()
            except FusetuneError as error:
                self.succeeded = False
                self._say(f"The demo failed: {error}", style="red")
            except Exception:
                self.succeeded = False
                _log.exception("a defect in the demo")
            finally:
                if then is not None:
                    then()

        self._thread = threading.Thread(target=work, name="demo", daemon=True)
        self._thread.start()

    def leave(self) -> None:
        """Stop following; the job stays where it is."""
        self._leaving.set()
        if self._thread is not None:
            self._thread.join(timeout=2.0)

    def _run(self) -> bool | None:
        job = self._submit()
        self._say(f"Job {job.id}: {self._context.settings.url}/jobs/{job.id}")
        job = self._follow(job)
        if job.state not in ENDED:
            return None
        if job.state is not JobState.SUCCEEDED or job.report is None:
            self._say(f"Job {job.id} is {job.state.value}: {job.reason or 'no reason was given'}", style="red")
            return False
        if job.reused:
            self._say(f"The answer was known: it is that of job {job.answered_by}.")
        show(self._console, job.report)
        self._leave_artifact(job)
        return True

    def _submit(self) -> Job:
        """A new job, or the one that an earlier start of the demo left unfinished."""
        model, _ = self._context.models.add(_chunks(self._model), self._model.stem)
        spec = JobSpec(model=model.sha256, strategy="greedy", budget=Budget(None, self._seconds))
        open_jobs = self._context.store.jobs.list(state=_UNFINISHED, question=spec.question, limit=10).items
        for job in open_jobs:
            if job.spec.budget == spec.budget:
                self._say(f"Going on with job {job.id}, which was interrupted.")
                return job
        return self._context.jobs.submit(spec, notes="demo")[0]

    def _follow(self, job: Job) -> Job:
        shown = None
        with Live(self._console, job.spec.budget) as live:
            while job.state not in ENDED and not self._leaving.wait(LOOK):
                job = self._context.jobs.get(job.id)
                news = (job.stage, job.message, job.measured, job.best_seconds, job.done)
                if job.stage and job.message and news != shown:
                    shown = news
                    live(progress(job))
        return job

    def _leave_artifact(self, job: Job) -> None:
        """Unpack the artifact where `fusetune tune` would leave it."""
        file = self._context.store.jobs.files(job.id).get("artifact.zip")
        if file is None:
            return
        if self._out.exists() and not (self._out / "manifest.json").is_file():
            self._out = self._out.with_name(f"{self._out.name}.fusetune")  # what stands there is no artifact of ours
        fresh = self._out.with_name(f".{self._out.name}.new")
        shutil.rmtree(fresh, ignore_errors=True)
        with self._context.blobs.open(file.sha256) as stream, zipfile.ZipFile(stream) as archive:
            archive.extractall(fresh)
        shutil.rmtree(self._out, ignore_errors=True)
        (artifact,) = (found.parent for found in fresh.rglob("manifest.json"))  # it stands in a folder of its name
        artifact.replace(self._out)
        shutil.rmtree(fresh, ignore_errors=True)
        self._say(f"Artifact {self._out}/   report {self._out / 'report.json'}   log {self._out / 'tuning_log'}/")

    def _say(self, text: str, style: str | None = None) -> None:
        self._console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def progress(job: Job) -> Progress:
    """A stored job's progress as the live display takes it."""
    return Progress(
        stage=Stage(job.stage), message=job.message or "", trials=job.measured, failed=job.failed,
        reused=job.reused_trials, best_latency=job.best_seconds, elapsed=job.elapsed,
        done=min(1.0, job.done / job.total) if job.total else min(1.0, job.done),
    )  # fmt: skip


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk
