"""report.html: what a job found, as one file that needs no server, no network and no script. Everything is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from service.exports import facts, quality
from service.exports.drawing.boxes import Network, network
from service.exports.drawing.lines import shares, steps
from service.exports.drawing.network import draw, level

STYLES = ("tokens", "base", "frame", "components", "figures", "tables", "facts", "drawing", "report")
WORDS = {  # a kind of failure -> what happened to the trials
    "build": "could not be built",
    "rejected": "refused before running",
    "crash": "crashed",
    "timeout": "timed out",
    "memory": "needed more memory than allowed",
    "wrong": "gave a wrong result",
    "lost": "lost their device",
    "error": "raised an error",
}


@dataclass(frozen=True)
class Failures:
    """Trials that failed for one reason, with one example."""

    kind: str
    count: int
    message: str = ""
    stderr: str = ""
    trial: int | None = None

    @property
    def word(self) -> str:
        return WORDS.get(self.kind, self.kind)


def report_html(
    report: Mapping[str, Any],
    *,
    graph: Mapping[str, Any] | None = None,
    plan: Mapping[str, Any] | None = None,
    curve: Sequence[Sequence[float]] = (),
    failures: Sequence[Failures] | None = None,
    about: Sequence[tuple[str, str]] = (),
    tried: Mapping[str, facts.Tried] | None = None,
    peak: float | None = None,
    bandwidth: float | None = None,
) -> str:
    """The page for a finished job's ``report``.

    Args:
        graph: ``Graph.to_json()``; without it the network is left out.
        plan: ``Plan.to_json()``.
        curve: best latency over time, [elapsed seconds, trials, best seconds] each.
        failures: as grouped from the trials; without them the report's counts are shown.
        about: further facts about the job, (name, value), for the end of the page.
        tried: what was tried, by workload hash.
        peak: of the device, operations a second; ``bandwidth`` in bytes a second.
    """
    drawn = network(graph, plan, report["blocks"]) if graph else None
    latencies = {name: entry["median"] / 1e3 for name, entry in report["latency_ms"].items() if entry}
    marks = facts.marks(
        latencies.get("unoptimised"), latencies.get("onnxruntime"),
        facts.bound_seconds(drawn, peak, bandwidth) if drawn else None,
    )  # fmt: skip
    points = [(elapsed, best * 1e3) for elapsed, _, best in curve]
    spent = facts.time_spent(report)
    groups = failures
    if groups is None:
        groups = [Failures(kind, count) for kind, count in report["trials"]["failures"].items()]
    text: str = (
        _environment()
        .get_template("report.html")
        .render(
            report=report,
            headline=facts.headline(report),
            style=Markup(_style()),  # noqa: S704 - our own style sheets
            comparisons=facts.comparisons(report),
            left_out=facts.left_out(report),
            line=_drawn(steps(points, marks, end=report["seconds"]["total"])) if points else None,
            network=_drawn(draw(drawn, aspect=1.15).svg) if drawn else None,
            legend=legend(drawn) if drawn else [],
            converted=bool(drawn and any(link.converted for link in drawn.links)),
            planned=bool(drawn and drawn.planned),
            rows=facts.rows(report, drawn, tried or {}, peak, bandwidth),
            trust=facts.trust(report),
            judged=quality.of_report(report),
            spent=spent,
            bar=_drawn(shares(spent, "Time spent building, measuring and deciding")),
            failures=sorted(groups, key=lambda group: -group.count),
            about=about,
        )
    )
    return text


def _drawn(svg: str) -> Markup:
    """Drawings escape every text themselves."""
    return Markup(svg)  # noqa: S704


def legend(drawn: Network) -> list[tuple[int, int]]:
    """(step of the colour scale, cores) for every number of cores in the drawing."""
    counts = sorted({box.cores for box in drawn.boxes if box.cores and not box.view})
    return [(level(cores, drawn.most_cores), cores) for cores in counts]


@cache
def _environment() -> Environment:
    from service.web.filters import FILTERS

    environment = Environment(
        loader=ChoiceLoader([PackageLoader("service.exports"), PackageLoader("service.web")]), autoescape=True,
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(FILTERS)
    return environment


@cache
def _style() -> str:
    """The dashboard's own style sheets: a report looks like the page it comes from."""
    folder = files("service.web").joinpath("static", "css")
    return "\n".join(folder.joinpath(f"{name}.css").read_text("utf-8") for name in STYLES)
