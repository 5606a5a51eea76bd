"""The report of a finished job as one HTML file: gathers what service.exports draws."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from db.insight import Insight
from db.jobs import Job
from service.api.context import Context
from service.exports.facts import tried_for
from service.exports.report_html import Failures, report_html
from tuner.errors import UserError


def report_page(context: Context, job: Job) -> bytes:
    """The page. ``job`` has a report."""
    assert job.report is not None
    # A job answered at once has no trials of its own.
    source = job.answered_by if job.reused and job.answered_by else job.id
    known = context.store.devices.get(job.device)
    groups = Insight(context.store.database).groups(source)
    text = report_html(
        job.report,
        # The job's own graph is the one its plan names; the model's was made without its shapes and switched passes.
        graph=_file(context, job, "graph.json") or context.store.models.graph(job.model),
        plan=_file(context, job, "plan.json"),
        curve=[point for point in job.curve if point[2]],
        failures=[
            Failures(group.kind.value, group.count, group.message, group.stderr, group.trial)
            for group in context.store.trials.failures(source)
        ],
        about=[("Job", job.id), ("Submitted", f"{job.created_at:%Y-%m-%d %H:%M} UTC"), ("Notes", job.notes or "-")],
        tried=tried_for(groups, fresh=not job.reused_trials),
        peak=known.peak_flops if known else None,
        bandwidth=known.bandwidth if known else None,
    )
    return text.encode("utf-8", "replace")


def _file(context: Context, job: Job, name: str) -> Mapping[str, Any] | None:
    file = context.store.jobs.files(job.id).get(name)
    if file is None:
        return None
    try:
        with context.blobs.open(file.sha256) as stream:
            value: Mapping[str, Any] = json.load(stream)
    except UserError:  # the file is gone: the report is worth having without
        return None
    return value
