"""What a terminal shows of a job: a live line while it works, tables when it has ended. For jobs here and elsewhere."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from service.interval import interval_words
from tuner import events
from tuner.precision import BF16, BF16_DOT, INT8
from tuner.types import Budget

HEAVIEST = 15  # blocks in the closing table


class Live:
    """A progress bar with best latency, trials and time left; plain lines where there is no terminal.

    While it shows, Ctrl-C may mean what ``stop_on_interrupt`` says.
    """

    def __init__(self, console: Console, budget: Budget) -> None:
        self._console, self._budget = console, budget
        self._bar = Progress(
            TextColumn("{task.fields[stage]:<8}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("best {task.fields[best]}"),
            TextColumn("{task.fields[trials]} trials"),
            TimeElapsedColumn(),
            TextColumn("left {task.fields[left]}"),
            TextColumn("[dim]{task.description}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=1.0, stage="", best="-", trials=0, left="-")
        self._last = ("", -1e9)
        self._before: Any = None  # what Ctrl-C meant, once it means something else

    def __enter__(self) -> Live:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def stop_on_interrupt(self, stop: Callable[[], None], with_what: str) -> None:
        """Ctrl-C once: ``stop`` ends the work with what there is, named so. Twice: end at once."""

        def handle(_: int, __: FrameType | None) -> None:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self._console.print(f"[yellow]Stopping with {with_what}; press Ctrl-C again to stop at once.[/]")
            stop()

        self._before = signal.signal(signal.SIGINT, handle)

    def __call__(self, progress: events.Progress) -> None:
        best = "-" if progress.best_latency is None else f"{progress.best_latency * 1e3:.2f} ms"
        left = "-"
        if self._budget.seconds:
            left = f"{max(0, round(self._budget.seconds - progress.elapsed))} s"
        self._bar.update(
            self._task, completed=progress.done, description=progress.message, stage=progress.stage.value, best=best,
            trials=progress.trials, left=left,
        )  # fmt: skip
        if self._console.is_terminal:
            return
        stage, when = self._last
        if progress.stage != stage or progress.elapsed - when >= 10 or progress.stage is not events.Stage.SEARCH:
            self._last = (progress.stage, progress.elapsed)
            self._console.print(
                f"[{progress.elapsed:6.1f} s] {progress.stage.value:<8} {progress.message}; best {best}, "
                f"{progress.trials} trials, left {left}",
                markup=False, highlight=False, soft_wrap=True,
            )  # fmt: skip


def show(console: Console, report: Mapping[str, Any]) -> None:
    """The closing tables."""
    latency, speedup = report["latency_ms"], report["speedup"]
    table = Table(title=f"{report['model']['name']} on {report['device']['name']} ({report['device']['model']}, "
                        f"{report['device']['cores']} cores, {report['precision']})")  # fmt: skip
    for column in ("", "median ms", "fastest ms", "speed-up of tuned"):
        table.add_column(column, justify="left" if not column else "right")
    over = {"unoptimised": "over_unoptimised", "unfused": "over_unfused", "default": "over_default",
            "onnxruntime": "over_onnxruntime"}  # fmt: skip
    for name in ("unoptimised", "unfused", "default", "onnxruntime", "tuned"):
        entry, factor = latency[name], speedup.get(over.get(name, ""))
        if entry is not None:
            times = f"{factor:.2f}x" if factor is not None else ""
            if ends := speedup.get(f"over_{name}_interval"):
                times += f" ({interval_words(ends, speedup.get(f'over_{name}_rounds'))})"
            style = "bold" if name == "tuned" else None
            label = "ONNX Runtime" if name == "onnxruntime" else name
            table.add_row(label, f"{entry['median']:.3f}", f"{entry['min']:.3f}", times, style=style)
    console.print(table)
    for name, reason in report.get("left_out", {}).items():
        console.print(f"{name} is left out. {reason}", highlight=False, soft_wrap=True)
    console.print(_blocks(report))
    trials = report["trials"]
    reused = f", {trials['reused']} known ones reused" if trials["reused"] else ""
    console.print(
        f"{trials['measured']} trials measured ({trials['failed']} failed){reused} in "
        f"{report['seconds']['total']:.0f} s; {_checked(report)}.",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    if report.get("rounding") is not None:
        console.print(_lowered(report), highlight=False, soft_wrap=True)
    if report["reused"]:
        console.print("Everything was known already: nothing was measured but the whole models.", highlight=False)


def _checked(report: Mapping[str, Any]) -> str:
    if report["verification"] is None:
        return "every time above is simulated, nothing was built or run"
    checked = report["verification"]
    return (
        f"verified on {checked['inputs']} inputs, largest relative error {checked['max_rel_error']:.1e} "
        f"(limit {checked['limit']:g})"
    )


def _lowered(report: Mapping[str, Any]) -> str:
    """What a job in bf16 or int8 computes so, and at what price."""
    lowered, dotted, integer = (
        sum(b["precision"] == name for b in report["blocks"]) for name in (BF16, BF16_DOT, INT8)
    )
    kept, every = len(report["rounding"]["kept_fp32"]), report["rounding"]["error_of_all"]
    top1 = report["verification"]["top1"]
    text = f"Weights of {lowered} {'block is' if lowered == 1 else 'blocks are'} stored in bf16"
    if report["precision"] == INT8:
        text = f"{integer} {'block multiplies' if integer == 1 else 'blocks multiply'} 8-bit integers"
    elif dotted:
        text = (
            f"{dotted} {'block multiplies' if dotted == 1 else 'blocks multiply'} bfloat16, weights of {lowered} more "
            "are stored so"
        )
    if stored := report["rounding"]["stored_bf16"]:
        text += f"; {stored} of {report['rounding']['images']} images are"
    if kept:
        would = "could not be told" if every is None else f"would be {every:.1e}"
        text += f"; {kept} {'layer keeps' if kept == 1 else 'layers keep'} float32, or the error {would}"
    if top1 is not None:
        text += f"; the largest output is the same in {top1['agree']} of {top1['of']} row(s)"
    return f"{text}. Unoptimised, unfused and ONNX Runtime compute in float32."


def _blocks(report: Mapping[str, Any]) -> Table:
    rows = sorted((b for b in report["blocks"] if _ms(b)), key=lambda b: -_ms(b))
    shown = rows[:HEAVIEST]
    table = Table(title=f"Blocks ({len(shown)} heaviest of {len(rows)})")
    for column in ("layers", "cores", "layout", "template", "ms", "GFLOP/s", "share"):
        table.add_column(column, justify="right" if column in {"cores", "ms", "GFLOP/s", "share"} else "left")
    for b in shown:
        names = b["layers"] if len(b["layers"]) <= 3 else [b["layers"][0], f"+{len(b['layers']) - 1}"]
        table.add_row(
            " ".join(names) or "layout change", str(b["cores"]), _layout(b), b["template"], f"{_ms(b):.3f}",
            f"{b['gflops']:.0f}" if b["gflops"] else "",
            "with others" if b["share"] is None else f"{100 * b['share']:.1f}%",
        )  # fmt: skip
    return table


def _ms(block: Mapping[str, Any]) -> float:
    """Of a kernel, or of the call in which it runs beside others; 0 where that is not known."""
    return block["ms"] or (block.get("together") or {}).get("ms") or 0.0


def _layout(block: Mapping[str, Any]) -> str:
    sides: dict[str, set[str]] = {"in": set(), "out": set()}
    for name, layout in block["layouts"].items():
        sides["in" if name.startswith("i") else "out"].add(layout)
    into, out = "/".join(sorted(sides["in"])), "/".join(sorted(sides["out"]))
    return into if into == out else f"{into} -> {out}"
