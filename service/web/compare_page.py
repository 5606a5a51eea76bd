"""Two jobs side by side, block by block, what differs most first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from db.jobs import Job
from service.web import units
from service.web.render import Web
from service.web.views import model_name, settings_of
from tuner.types import JobState

if TYPE_CHECKING:
    from service.exports.difference import Pair
    from service.web.job_view import JobViews

CHOICES = 200  # finished jobs to pick from
LATENCIES = (("tuned", "fusetune"), ("default", "Default plan"), ("unfused", "Unfused"), ("unoptimised", "Unoptimised"),
             ("onnxruntime", "ONNX Runtime"))  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """One fact about both jobs."""

    name: str
    a: str
    b: str
    ratio: float | None = None  # a over b, where less is better: above 1, b is better

    @property
    def same(self) -> bool:
        return self.a == self.b


def router(web: Web, views: JobViews) -> APIRouter:
    """Route of /compare: jobs as ``a`` and ``b``, or as ``job`` twice."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/compare")
    def compare(request: Request, a: str = "", b: str = "", job: Annotated[list[str], Query()] = []) -> HTMLResponse:  # noqa: B006
        from service.exports.difference import pairs

        ids = (a, b) if a or b else (*job, "", "")[:2]
        chosen = [web.jobs.get(id) if id else None for id in ids]
        jobs = [each for each in chosen if each is not None]
        reported = [each for each in jobs if each.report is not None]
        both = len(reported) == 2
        first, second = (reported[0], reported[1]) if both else (None, None)
        matched = both and _graph(first) == _graph(second)
        found = pairs(_blocks(first), _blocks(second)) if matched else []
        return web.page(
            request,
            "compare.html",
            chosen=chosen,
            unfinished=[each for each in jobs if each.report is None],
            choices=_choices(web, jobs),
            sentence=_sentence(first, second) if first and second else "",
            figures=_figures(first, second) if first and second else [],
            asked=_asked(first, second) if first and second else [],
            matched=matched,
            titles=_titles(views, first) if first else {},
            pairs=[pair for pair in found if pair.differs or (pair.delta or 0.0) != 0.0],
            same=sum(1 for pair in found if not pair.differs and not pair.delta),
            widest=max((abs(pair.delta or 0.0) for pair in found), default=0.0),
            total=_total(found),
            name=model_name,
            settings_of=settings_of,
        )

    return routes


def _report(job: Job | None) -> Mapping[str, Any]:
    return (job.report if job else None) or {}


def _graph(job: Job | None) -> object:
    return _report(job).get("model", {}).get("graph")


def _blocks(job: Job | None) -> list[Mapping[str, Any]]:
    return list(_report(job).get("blocks", ()))


def _choices(web: Web, jobs: list[Job]) -> list[Job]:
    """Finished jobs, those with a chosen one's model first."""
    found = web.jobs.list(state=[JobState.SUCCEEDED], limit=CHOICES).items
    known = {job.id for job in found}
    found += [job for job in jobs if job.id not in known]
    models = {job.model for job in jobs}
    return sorted(found, key=lambda job: job.model not in models)


def _titles(views: JobViews, job: Job) -> dict[str, str]:
    """Layer -> the name of its block in the drawing."""
    picture = views.picture(job)
    return {layer: box.title for box in picture.network.boxes for layer in box.ids} if picture else {}


def _latency(job: Job | None, name: str = "tuned") -> float | None:
    entry = _report(job).get("latency_ms", {}).get(name)
    return entry["median"] if entry else None


def _sentence(a: Job, b: Job) -> str:
    """The difference in one sentence."""
    ours, theirs = _latency(a), _latency(b)
    if ours is None or theirs is None:
        return "One of the two has no measured latency."
    if a.model != b.model:
        return f"Different models: {model_name(a)} takes {units.ms(ours)}, {model_name(b)} {units.ms(theirs)}."
    if a.device != b.device:
        return f"Different devices: {units.ms(ours)} on {_machine(a)}, {units.ms(theirs)} on {_machine(b)}."
    if abs(ours / theirs - 1) < 0.005:
        return f"Both builds are as fast: {units.ms(ours)} and {units.ms(theirs)}."
    faster, slower, name = (theirs, ours, "B") if theirs < ours else (ours, theirs, "A")
    return (
        f"{name} is {units.speedup(slower / faster)} faster: {units.ms(faster)} against {units.ms(slower)}. "
        "They were timed in different runs, so a few percent may be the machine."
    )


def _machine(job: Job) -> str:
    device = _report(job)["device"]
    return f"{device['model']} ({units.count(device['cores'])} cores, {job.device[:8]})"


def _figures(a: Job, b: Job) -> list[Figure]:
    found = []
    for key, name in LATENCIES:
        ours, theirs = _latency(a, key), _latency(b, key)
        if ours is not None or theirs is not None:
            ratio = ours / theirs if ours and theirs else None
            found.append(Figure(name, units.ms(ours), units.ms(theirs), ratio))
    x, y = _report(a), _report(b)
    texts: tuple[tuple[str, Callable[[Mapping[str, Any]], str]], ...] = (
        ("Speed-up over ONNX Runtime", lambda r: units.speedup(r["speedup"].get("over_onnxruntime"))),
        ("Speed-up over unoptimised", lambda r: units.speedup(r["speedup"].get("over_unoptimised"))),
        ("Error", lambda r: units.error((r["verification"] or {}).get("max_rel_error"))),
        ("Kernels", lambda r: units.count(sum(block["template"] != "view" for block in r["blocks"]))),
        ("Trials measured", lambda r: units.count(r["trials"]["measured"])),
        ("Job took", lambda r: units.duration(r["seconds"]["total"])),
    )
    found += [Figure(name, text(x), text(y)) for name, text in texts]
    return found


def _asked(a: Job, b: Job) -> list[Figure]:
    """What the two jobs were asked, where it is not the same."""
    x, y = a.spec.to_json(), b.spec.to_json()
    found = [
        Figure(name.replace("_", " ").capitalize(), _text(x[name]), _text(y[name]))
        for name in x
        if name not in {"plan", "model"} and x[name] != y[name]
    ]
    if x["plan"] != y["plan"]:
        first, second = ("by hand" if plan else "fusetune's own" for plan in (x["plan"], y["plan"]))
        found.append(Figure("Plan", first, second))
    for name, ours, theirs in (
        ("Model", a.model[:12], b.model[:12]), ("Device", a.device, b.device), ("Toolchain", a.toolchain, b.toolchain)
    ):  # fmt: skip
        if ours != theirs:
            found.append(Figure(name, ours, theirs))
    return found


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{_text(each)} {name}" for name, each in value.items() if each is not None) or "–"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "–"
    return "–" if value is None else str(value)


def _total(found: list[Pair]) -> tuple[float | None, float | None]:
    """Time of all kernels of both."""
    a, b = [pair.a.ms for pair in found], [pair.b.ms for pair in found]
    return (
        sum(x for x in a if x is not None) if any(x is not None for x in a) else None,
        sum(x for x in b if x is not None) if any(x is not None for x in b) else None,
    )
