"""The sections of RESULTS.md: everybody on every model, MetaSchedule with the same budget, and the ablation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.peers.bounding import KINDS
from bench.peers.measure import BF16, FLOAT32, INT8
from bench.peers.rows import (
    Key,
    Row,
    Rows,
    best_peer,
    by_fastest,
    circumstances,
    entries,
    failure,
    geometric_mean,
    line,
    milliseconds,
    number,
)
from bench.results import disturbed

_COLUMNS = (
    "model", "tuned ms", "default ms", *(f"{name} ms" for name in FLOAT32), "best float32 peer",
    "tuned x over it (95%, rounds)", "by fastest calls", "default x over it", "of the roofline", "MB", "of its MB",
    "tuning s", "error",
)  # fmt: skip


def plot_of(threads: int) -> str:
    """Where the comparison's plot lies, beside RESULTS.md."""
    return f"peers/peers-{threads}.svg"


def comparison(keys: Sequence[Key], rows: Rows, threads: int, command: str) -> str:
    """A line per key, all on so many threads, those without a row marked; then what it adds up to."""
    found = [rows[key] for key in keys if rows.get(key, {}).get("bench")]
    lines = [
        f"## Side by side with other libraries, {_threads(threads)}",
        "",
        circumstances(command, found),
        "",
        "Milliseconds are medians over rounds of interleaved turns, batch 1, float32; a dash is for who took no "
        "part (`--peers`). *default* = greedy fusion, no search. *x* = the latency of the best float32 peer over "
        "ours, paired within rounds, with the paired 95% interval: above 1 we are faster. *By fastest calls* = the "
        "least time that any float32 peer took over the least of ours, which other guests of the host hardly touch. "
        "*torch* = PyTorch eager, *torch-compile* = with weights frozen, both on the graph as our cleaning passes "
        "leave it. *tvm* = TVM's default pipeline, untuned. *of the roofline* = the time that the layers' operations "
        "take at the measured peak, and their weights from memory where they exceed the last-level cache, over our "
        "latency; Winograd's algorithm does fewer operations and may exceed 100%. *MB* = the most memory that our "
        "process held while it ran, *of its MB* = over that of ONNX Runtime's. *error* = max|y - ref| / max|ref| "
        "against ONNX Runtime, the final softmax looked through. Rows for one thread are measured on one core.",
        "",
        line(_COLUMNS),
        line([":--", *["--:"] * (len(_COLUMNS) - 1)]),
        *(line(_cells(key, rows.get(key))) for key in keys),
        *(_sums(found) if found else ()),
    ]
    if found:
        lines += ["", f"![our speed over each peer's]({plot_of(threads)})"]
    return "\n".join([*lines, *_problems(keys, rows)])


def bounding(keys: Sequence[Key], rows: Rows, threads: int) -> str:
    """Where each tuned plan's time goes, by what bounds its kernels."""
    lines = [
        f"## What bounds the tuned plans, {_threads(threads)}",
        "",
        "From the rows above: the share of the kernels' time, how many kernels, and in brackets what bounds them over "
        "what they take. *Winograd*: the products of direct convolutions at the measured peak (above 100%: fewer are "
        "done). *Products*: other kernels with sums over channels, at the peak. *Weights*: those that wait for weights "
        "from memory, at the measured bandwidth. *Depthwise*: lone depthwise convolutions, at the peak, which they "
        "cannot reach: each number that they read from a cache serves few products. *Small*: kernels that could take "
        "less than 2 us, where waking the cores counts. *Rest*: no products. *Whole* = the model's median over the "
        "sum of its kernels, which were timed in calm moments.",
        "",
        line(["model", *KINDS, "whole"]),
        line([":--", *["--:"] * (len(KINDS) + 1)]),
    ]
    for key in keys:
        row = rows.get(key)
        spent = (row or {}).get("parts")
        if row is None or not spent:
            lines.append(line([key[1], "not measured", *[""] * len(KINDS)]))
            continue
        total, ours = sum(part["ms"] for part in spent.values()), milliseconds(row, "tuned")
        cells = [_part(spent[kind], total) for kind in KINDS]
        lines.append(line([_marked(key[1], row), *cells, number(ours / total if ours else None)]))
    return "\n".join(lines)


def _part(part: Row, total: float) -> str:
    if not part["blocks"]:
        return "–"
    return f"{part['ms'] / total:.0%} of {part['blocks']} ({part['bound_ms'] / part['ms']:.0%})"


def bf16(keys: Sequence[Key], rows: Rows, command: str) -> str:
    """Ours in bf16 against OpenVINO in bf16, a line per key."""
    return _lowered("bf16", BF16, "OpenVINO", "", keys, rows, command)


def int8(keys: Sequence[Key], rows: Rows, command: str) -> str:
    """Ours in int8 against what ONNX Runtime's tools quantise, a line per key."""
    how = (
        " The peer is the model as `onnxruntime.quantization` quantises it statically: QDQ, uint8 and int8 per "
        "channel, all operators that it knows but Softmax, ranges from the inputs that ours are measured on."
    )
    return _lowered("int8", INT8, "ONNX Runtime", how, keys, rows, command)


def _lowered(
    precision: str, peer: str, who: str, how: str, keys: Sequence[Key], rows: Rows, command: str
) -> str:  # fmt: skip
    """Ours in a precision against ``who``, the contestant ``peer``, in the same."""
    found = [rows[key] for key in keys if rows.get(key, {}).get("bench")]
    ratios = [row["ratio"] for row in found if row["ratio"]]
    lines = [
        f"## In {precision}",
        "",
        circumstances(command, found),
        "",
        f"Tuned with `--precision {precision}`; the *limit* on the error is the usual one, or what {who}'s own error "
        f"in {precision} is on that model if that is larger. Errors are max|y - ref| / max|ref| against ONNX Runtime "
        f"in float32, the final softmax looked through. *x* = {who}'s latency over ours, paired within rounds, with "
        "the paired 95% interval. *stored* = images between layers that may lie in memory as bfloat16, of all; "
        f"*float32* = layers that keep float32 for the limit's sake.{how}",
        "",
        f"| model | threads | tuned ms | {peer} ms | x (95%, rounds) | onnxruntime ms, float32 | limit "
        "| our error | its error | stored | float32 | tuning s |",
        "|:--|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for key in keys:
        row = rows.get(key)
        cells = ["not measured" if row is None else "failed", *[""] * 9]
        if row is not None and row.get("bench"):
            rounding = row["rounding"] or {"stored_bf16": "–", "images": "–", "kept_fp32": ()}
            cells = [
                _time(row, "tuned"), _time(row, peer), _interval(row["ratio"]), _time(row, "onnxruntime"),
                f"{row['limit']:.0e}", _error(row, "tuned"), _error(row, peer),
                f"{rounding['stored_bf16']} of {rounding['images']}", f"{len(rounding['kept_fp32'])}",
                number((row["tuning"] or {}).get("seconds"), 0),
            ]  # fmt: skip
        lines.append(line([_marked(key[1], row), key[2], *cells]))
    if ratios:
        lines += [
            "",
            f"Of {len(ratios)} models ours is faster in {sum(r['low'] > 1 for r in ratios)} and slower in "
            f"{sum(r['high'] < 1 for r in ratios)}, the interval being all on that side of 1; geometric mean "
            f"{geometric_mean([r['median'] for r in ratios]):.2f}.",
        ]
    return "\n".join([*lines, *_problems(keys, rows)])


def metaschedule(keys: Sequence[Key], rows: Rows, command: str) -> str:
    """Ours against MetaSchedule's, both with the same wall-clock budget."""
    found = [rows[key] for key in keys if rows.get(key, {}).get("bench")]
    lines = [
        "## TVM MetaSchedule with the same budget",
        "",
        circumstances(command, found),
        "",
        "MetaSchedule tunes the graph as our cleaning passes leave it, weights prepacked, until the budget is spent "
        "(the half minute that it takes to import itself is not counted): task by task, those with most to compute "
        "first, eight candidates in a turn. Kernels that it did not come to are TVM's untuned ones. *x* = its latency "
        "over ours, paired within rounds.",
        "",
        "| model | threads | budget s | tuned ms | MetaSchedule ms | x (95%, rounds) | our trials | its trials |",
        "|:--|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for key in keys:
        row = rows.get(key)
        cells = ["not measured" if row is None else "failed", *[""] * 4]
        if row is not None and row.get("bench"):
            ratio = row["ratios"].get("tuned", {}).get("metaschedule")
            tuning = row["tuning"] or {"measured": "–"}
            times = [_time(row, "tuned"), _time(row, "metaschedule")]
            cells = [*times, _interval(ratio), tuning["measured"], row["trials"]]
        lines.append(line([_marked(key[1], row), key[2], f"{key[3]:g}", *cells]))
    return "\n".join([*lines, *_problems(keys, rows)])


def ablation(
    variants: Mapping[str, str], models: Sequence[str], rows: Rows, threads: int, seconds: float, command: str
) -> str:
    """Latency of each variant over that of the full tuner, a column per model."""
    keys = {(v, m): (f"ablation:{v}", m, threads, seconds) for v in variants for m in models}
    found = [rows[key] for key in keys.values() if rows.get(key, {}).get("bench")]
    lines = [
        "## What each part is worth",
        "",
        circumstances(command, found),
        "",
        f"Latency of a tuning that does without one thing over that of the full one, {threads} threads, {seconds:g} s "
        "each, paired within rounds, with the paired 95% interval: above 1 the thing is worth having, where it "
        "is further from 1 than *nothing*, by which two tunings of the same differ. All of a model's tunings begin "
        "with the records of one more. A graph pass is left out of the untuned plan, and held against that. *same "
        "graph*: the pass finds nothing to do in that model.",
        "",
        line(["without", *models]),
        line([":--", *["--:"] * len(models)]),
    ]
    for variant, meaning in variants.items():
        cells = [_ablated(rows.get(keys[variant, model]), variant) for model in models]
        lines.append(line([f"{variant} ({meaning})", *cells]))
    return "\n".join([*lines, *_problems(list(keys.values()), rows)])


def _ablated(row: Row | None, variant: str) -> str:
    if row is None:
        return "not measured"
    if row.get("same"):
        return "same graph"
    ratio = next((over.get(variant) for over in (row.get("ratios") or {}).values()), None)  # it has one
    return "failed" if ratio is None else _marked(_interval(ratio, rounds=False), row)


def _marked(text: str, row: Row | None) -> str:
    """With an asterisk where others used the cores in most rounds."""
    return text + " \\*" * (row is not None and disturbed(row))


def _cells(key: Key, row: Row | None) -> list[str]:
    head = [_marked(key[1], row)]
    if row is None or not row.get("bench"):
        return [*head, "not measured" if row is None else "failed", *[""] * (len(_COLUMNS) - 2)]
    times = [_time(row, name) for name in ("tuned", "default", *FLOAT32)]
    best, default = best_peer(row), best_peer(row, "default")
    ours = milliseconds(row, "tuned")
    error = (row["tuning"] or {}).get("max_rel_error")
    return [
        *head, *times,
        "–" if best is None else best[0],
        "–" if best is None else _interval(best[1]),
        number(by_fastest(row)),
        "–" if default is None else f"{default[1]['median']:.2f}",
        "–" if ours is None else f"{row['bound_ms'] / ours:.0%}",
        *_memory(row),
        number((row["tuning"] or {}).get("seconds"), 0),
        "–" if error is None else f"{error:.0e}",
    ]  # fmt: skip


def _memory(row: Row) -> list[str]:
    """Our peak in megabytes, and over ONNX Runtime's."""
    held = {r["name"]: r.get("peak_memory_mb") for r in entries(row)}
    ours, its = held.get("tuned"), held.get("onnxruntime")
    return [number(ours, 0), number(ours / its if ours and its else None)]


def _error(row: Row, name: str) -> str:
    """Against ONNX Runtime on the bench's own inputs."""
    found = next((r.get("max_rel_error") for r in entries(row) if r["name"] == name), None)
    return "–" if found is None else f"{found:.0e}"


def _time(row: Row, name: str) -> str:
    """Milliseconds; "missing" for what is not installed, "failed", or a dash for what took no part."""
    found, why = milliseconds(row, name), failure(row, name)
    if found is not None:
        return number(found)
    if why is None:
        return "–"
    return "missing" if "pip install" in why else "failed"


def _interval(ratio: Row | None, rounds: bool = True) -> str:
    if ratio is None:
        return "–"
    pairs = f", {ratio['pairs']}" if rounds else ""
    return f"{ratio['median']:.2f} ({ratio['low']:.2f}–{ratio['high']:.2f}{pairs})"


def _sums(found: Sequence[Row]) -> list[str]:
    tuned, default = ([b[1] for b in (best_peer(r, ours) for r in found) if b] for ours in ("tuned", "default"))
    if not tuned:
        return []
    text = (
        f"Of {len(tuned)} models the tuned plan is faster than the best float32 peer in "
        f"{sum(r['low'] > 1 for r in tuned)} and slower in {sum(r['high'] < 1 for r in tuned)}, the interval "
        f"being all on that side of 1; geometric mean {geometric_mean([r['median'] for r in tuned]):.2f}"
    )
    if default:
        text += f", of the defaults {geometric_mean([r['median'] for r in default]):.2f}"
    if fastest := [x for row in found if (x := by_fastest(row))]:
        text += f"; by fastest calls {geometric_mean(fastest):.2f}"
    return ["", f"{text}."]


def _threads(count: int) -> str:
    return f"{count} {'thread' if count == 1 else 'threads'}"


def _problems(keys: Sequence[Key], rows: Rows) -> list[str]:
    """What was disturbed, and what failed or is missing, each sentence once with the models that it is about."""
    notes, found = [], dict[str, list[str]]()
    if any(disturbed(rows[key]) for key in keys if key in rows):
        notes = ["", "\\* Other processes used the cores in most rounds: measure again on a quiet machine (--retry)."]
    for key in keys:
        row = rows.get(key, {})
        whys = [row["error"]] if row.get("error") else []
        whys += [f"{r['name']}: {r['failure']}" for r in (row.get("bench") or {}).get("rows", ()) if r["failure"]]
        for why in whys:
            where = f"{key[1]} ({key[2]} threads)"
            found[why] = [*found.get(why, ()), *([] if where in found.get(why, ()) else [where])]
    if not found:
        return notes
    return [
        *notes,
        "",
        "What went wrong:",
        "",
        *(f"- {', '.join(where)}: {_plain(why)}" for why, where in found.items()),
    ]


def _plain(message: str) -> str:
    """On one line, and short."""
    return " ".join(message.split())[:300]
