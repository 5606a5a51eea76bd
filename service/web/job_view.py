"""What the job page shows, made of stored values; the dear parts of ended jobs are kept for the next visit."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from markupsafe import Markup

from db.insight import Group, Insight
from db.jobs import Job
from service.exports.drawing.boxes import Box, Network, network
from service.exports.drawing.lines import Mark, shares, steps
from service.exports.drawing.network import draw
from service.exports.facts import Row, Tried, bound_seconds, marks, roofline, rows, time_spent, tried_for
from service.exports.knobs import Importance, importances
from service.exports.report_html import Failures, legend
from service.web.render import Web
from tuner.errors import FusetuneError
from tuner.types import JobState

KEPT = 24  # parts of pages; a drawing takes 50 to 400 kB
ENDED = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})
TICKS = 400  # failed trials marked in the chart
T = TypeVar("T")


@dataclass(frozen=True)
class Picture:
    """The network as it is drawn, and what its legend says."""

    svg: str
    width: int
    height: int
    legend: list[tuple[int, int]]
    converted: bool
    network: Network

    @property
    def timed(self) -> bool:
        return any(box.ms is not None for box in self.network.boxes)


@dataclass(frozen=True)
class Searched:
    """What a job's trials say when they are looked at together."""

    tried: Mapping[str, Tried]  # by workload hash
    templates: Mapping[str, str]  # record key -> template
    heaviest: str  # the workload whose knobs are looked at, in words
    knobs: Sequence[Importance]
    predictions: bool  # there is something to draw
    failures: Sequence[Failures]


class JobViews:
    """Makes the parts of job pages. Thread-safe."""

    def __init__(self, web: Web) -> None:
        self._web = web
        self._insight = Insight(web.store.database)
        self._kept: OrderedDict[tuple[object, ...], object] = OrderedDict()
        self._lock = threading.Lock()

    def last_event(self, job: str) -> int:
        """To be asked before the job is read, so that nothing is missed between."""
        return self._insight.last_event(job)

    def picture(self, job: Job, planned: bool = True) -> Picture | None:
        """The network with the job's plan, or as the unoptimised baseline has it; None without a graph."""
        return self._once(job, ("picture", planned), lambda: self._picture(job, planned))

    def searched(self, job: Job) -> Searched:
        """What the job tried; the knobs of the kernel that takes most time are looked at."""
        return self._once(job, ("searched",), lambda: self._searched(job, self.groups(job)))

    def groups(self, job: Job) -> list[Group]:
        return self._once(job, ("groups",), lambda: self._insight.groups(source(job)))

    def rows(self, job: Job) -> list[Row]:
        """The blocks of a finished job."""
        if job.report is None:
            return []
        picture = self.picture(job)
        peak, bandwidth = self._limits(job)
        return rows(job.report, picture.network if picture else None, self.tried(job), peak, bandwidth)

    def tried(self, job: Job) -> Mapping[str, Tried]:
        """By workload hash."""
        return tried_for(self.groups(job), fresh=not job.reused_trials)

    def marks(self, job: Job) -> list[Mark]:
        """Lines to compare the best latency with."""
        bound = None
        peak, bandwidth = self._limits(job)
        if peak and bandwidth and (picture := self.picture(job)):
            bound = bound_seconds(picture.network, peak, bandwidth)
        return marks(job.unoptimised_seconds, job.onnxruntime_seconds, bound)

    def chart(self, job: Job) -> dict[str, Any]:
        """What the charts need and the page does not hold: small, however many trials there are."""
        failed = self._insight.failures(source(job))
        step = max(1, -(-len(failed) // TICKS))
        return {
            "curve": job.curve,
            "elapsed": job.elapsed,
            "trials": job.measured,
            "failed": failed[::step],
            "marks": [{"kind": m.kind, "name": m.name, "ms": m.value} for m in self.marks(job)],
        }

    def still(self, job: Job) -> Markup | None:
        """The chart as a picture, for the time until its script is there (and without one)."""
        if not job.curve:
            return None
        points = [(elapsed, best * 1e3) for elapsed, _, best in job.curve]
        return Markup(steps(points, self.marks(job), end=job.elapsed))  # noqa: S704 - our own drawing, texts escaped

    def predictions(self, job: Job) -> dict[str, list[list[float]]]:
        """Template -> [predicted seconds, measured seconds, trial] of the newest trials that were predicted."""
        templates = {group.record_key: group.template for group in self.groups(job)}
        found: dict[str, list[list[float]]] = {}
        for one in self._insight.predictions(source(job)):
            found.setdefault(templates.get(one.record_key, "other"), []).append(
                [float(f"{one.predicted:.4g}"), float(f"{one.seconds:.4g}"), one.trial]
            )
        return found

    def details(self, job: Job, planned: bool = True) -> list[dict[str, Any]]:
        """What the drawing's side panel says of each box."""
        picture = self.picture(job, planned)
        if picture is None:
            return []
        tried, limits = self.tried(job) if planned else {}, self._limits(job)
        return [_detail(box, tried.get(box.workload), *limits) for box in picture.network.boxes]

    def spent(self, job: Job) -> tuple[list[tuple[str, float]], str]:
        """(seconds by kind of work, the same as a bar)."""
        parts = time_spent(job.report) if job.report else []
        return parts, shares(parts, "Time spent building, measuring and deciding")

    # from the stores ------------------------------------------------------------------------------------------------

    def file(self, job: Job, name: str) -> Any:
        """A JSON file that the job left, or None."""
        stored = self._web.store.jobs.files(job.id).get(name)
        if stored is None:
            return None
        try:
            with self._web.blobs.open(stored.sha256) as file:
                return json.load(file)
        except (FusetuneError, OSError, ValueError):  # a page without a picture is better than none
            return None

    def _picture(self, job: Job, planned: bool) -> Picture | None:
        graph = self.file(job, "graph.json") or self._web.store.models.graph(job.model)
        if not graph or not graph.get("layers"):
            return None
        plan = self.file(job, "plan.json") if planned else None
        drawn = network(graph, plan, job.report["blocks"] if job.report and plan else ())
        if planned and plan is None:  # nobody knows yet how many cores each will get
            drawn = replace(drawn, boxes=tuple(replace(box, cores=None) for box in drawn.boxes))
        drawing = draw(drawn, aspect=1.5)
        converted = any(link.converted for link in drawn.links)
        return Picture(drawing.svg, round(drawing.width), round(drawing.height), legend(drawn), converted, drawn)

    def _searched(self, job: Job, groups: Sequence[Group]) -> Searched:
        tried = self.tried(job)
        # The question with most trials of the workload that takes most time, or of all while times are not known.
        heavy = next((row.tried for row in self.rows(job) if row.tried), None)
        workload = next((hash for hash, one in tried.items() if one is heavy), None)
        chosen = max((g for g in groups if workload in (None, g.workload)), key=lambda g: g.trials, default=None)
        knobs = importances(self._insight.knobs(source(job), chosen.record_key)) if chosen else []
        words = f"{chosen.summary or chosen.template}, {chosen.template}, {chosen.cores} cores" if chosen else ""
        failures = [
            Failures(group.kind.value, group.count, group.message, group.stderr, group.trial)
            for group in self._web.store.trials.failures(source(job))
        ]
        templates = {group.record_key: group.template for group in groups}
        predictions = bool(self._insight.predictions(source(job), 1))
        return Searched(tried, templates, words, knobs, predictions, failures)

    def _limits(self, job: Job) -> tuple[float | None, float | None]:
        """The device's measured peak and bandwidth, where somebody measured them."""
        device = self._web.store.devices.get(job.device)
        return (device.peak_flops, device.bandwidth) if device else (None, None)

    def _once(self, job: Job, part: tuple[object, ...], make: Callable[[], T]) -> T:
        """What ``make`` gives, kept while the job does not go on."""
        key = (job.id, job.state, job.fence, job.measured, *part)
        if job.state not in ENDED and part[0] != "picture":
            return make()
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]  # type: ignore[return-value]
        made = make()
        with self._lock:
            self._kept[key] = made
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return made


def source(job: Job) -> str:
    """The job whose trials stand behind the answer."""
    return job.answered_by or job.id


def _detail(box: Box, tried: Tried | None, peak: float | None, bandwidth: float | None) -> dict[str, Any]:
    roof, bound = roofline(box, box.ms, peak, bandwidth)
    return {
        "title": box.title,
        "layers": [{"id": x.id, "op": x.op, "what": x.what, "shape": list(x.shape), "ops": x.ops} for x in box.layers],
        "ops": box.ops,
        "bytes": box.bytes,
        "template": box.template,
        "cores": box.cores,
        "knobs": dict(box.knobs) if box.knobs else None,
        "layouts": sorted(set(box.layouts.values())),
        "ms": box.ms,
        "together": box.together,
        "share": box.share,
        "gflops": box.gflops or None,
        "roof": roof,
        "bound": bound,
        "tried": None
        if tried is None
        else {"trials": tried.trials, "failed": tried.failed, "best": dict(tried.best), "default": tried.default},
    }
