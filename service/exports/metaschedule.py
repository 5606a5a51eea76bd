"""A job's best trials as a zipped TVM MetaSchedule database, for jobs that have not ended with one.

A program of its own, because it needs TVM: ``python -m service.exports.metaschedule --db URL --job ID --out FILE``.
"""

from __future__ import annotations

import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from db.store import Store
from service.exports.program import known_job, main, trials_of
from tuner.errors import UserError
from tuner.types import Trial

FILES = ("database_workload.json", "database_tuning_record.json")


def write_database(store: Store, job: str, out: Path) -> None:
    """Write the zip to ``out``. Raises UserError (``unknown-job``, ``unknown-device``)."""
    from tuner.build.tuning_log import write_tuning_log

    facts = known_job(store, job)
    known = store.devices.get(facts.device)
    if known is None:
        raise UserError(f"The device {facts.device!r} is not known.", code="unknown-device")
    with tempfile.TemporaryDirectory(prefix="fusetune-") as scratch:
        write_tuning_log(Path(scratch), _reproducible(store, job), known.device)
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in FILES:
                file = Path(scratch) / name
                archive.writestr(name, file.read_bytes() if file.exists() else b"")  # TVM writes none without records


def _reproducible(store: Store, job: str) -> Iterator[Trial]:
    """Trials whose schedules can be made again: of templates as they are today, not of an earlier fusetune."""
    from tuner.kernels.registry import BY_NAME

    for stored in trials_of(store, job):
        c = stored.trial.candidate
        if c.template in BY_NAME and BY_NAME[c.template].version == c.template_version:
            yield stored.trial


if __name__ == "__main__":
    sys.exit(main("service.exports.metaschedule", write_database))
