// Best latency over time: a step line, the lines to compare it with, and a tick for every failed trial.

import { get } from "../api.js";
import { cssVar } from "../dom.js";
import { latency } from "../format.js";
import { draw } from "../plot.js";

const STYLE = {
  unoptimised: ["--line-unoptimised", "dot"],
  onnxruntime: ["--line-onnxruntime", "dash"],
  roofline: ["--line-roofline", "dashdot"],
};
const CALM = 1000; // ms between two drawings while it runs
const AGAIN = 20_000; // ms between two looks at which trials failed

export function curve(element, id) {
  const path = `/jobs/${encodeURIComponent(id)}/chart`;
  let data = { curve: [], failed: [], marks: [], elapsed: 0, trials: 0 };
  let axis = "seconds";
  let redraw = null;
  let waiting = false;
  let looked = 0;

  for (const input of document.querySelectorAll('input[name="axis"]')) {
    input.addEventListener("change", () => {
      axis = input.value;
      redraw?.();
    });
  }

  async function load() {
    looked = Date.now();
    try {
      data = await get(path);
    } catch {
      return; // what is there stays; the next event tries again
    }
    await show();
  }

  async function show() {
    if (!data.curve.length || element.closest("[hidden]")) return;
    if (redraw) redraw();
    else redraw = await draw(element, make);
  }

  /** A note of progress from the running job. */
  function add(progress) {
    const best = progress.latency_ms?.best;
    const trials = progress.trials?.measured ?? data.trials;
    data.elapsed = progress.elapsed_seconds ?? data.elapsed;
    data.trials = trials;
    const last = data.curve.at(-1);
    if (best && (!last || Math.abs(last[2] - best / 1e3) > 1e-9)) data.curve.push([data.elapsed, trials, best / 1e3]);
    for (const kind of ["unoptimised", "onnxruntime"]) {
      const ms = progress.latency_ms?.[kind];
      const name = kind === "onnxruntime" ? "ONNX Runtime" : kind;
      if (ms && !data.marks.some((mark) => mark.kind === kind)) data.marks.push({ kind, name, ms });
    }
    if (waiting) return;
    waiting = true;
    setTimeout(() => {
      waiting = false;
      if (Date.now() - looked > AGAIN) load();
      else show();
    }, CALM);
  }

  function make() {
    const column = axis === "seconds" ? 0 : 1;
    const points = data.curve.map((p) => [p[column], p[2] * 1e3]);
    const end = Math.max(axis === "seconds" ? data.elapsed : data.trials, points.at(-1)[0]);
    points.push([end, points.at(-1)[1]]);
    const marks = data.marks;
    const top = Math.max(...points.map((p) => p[1]), ...marks.map((m) => m.ms)) * 1.08;
    const failed = data.failed.map((number) => (axis === "trials" ? number : when(number)));
    const traces = [
      {
        x: points.map((p) => p[0]), y: points.map((p) => p[1]), mode: "lines", name: "best", showlegend: false,
        line: { shape: "hv", color: cssVar("--line-best"), width: 2.5 },
        text: points.map((p) => latency(p[1] / 1e3)), hovertemplate: `%{text} after %{x:.4~g} ${axis}<extra></extra>`,
      },
    ];
    if (failed.length) {
      traces.push({
        x: failed, y: failed.map(() => 0), yaxis: "y", mode: "markers", name: "failed trials", showlegend: false, cliponaxis: false,
        marker: { symbol: "line-ns-open", size: 12, color: cssVar("--line-failed"), line: { width: 1.5 } },
        hovertemplate: `failed trial, %{x:.4~g} ${axis}<extra></extra>`,
      });
    }
    return {
      traces,
      layout: {
        margin: { l: 8, r: 8, t: 12, b: 8 },
        showlegend: false,
        xaxis: { title: { text: axis === "seconds" ? "seconds worked" : "trials" }, range: [0, end * 1.01 || 1], autorange: false },
        yaxis: { title: { text: "latency, ms" }, range: [0, top], autorange: false },
        shapes: marks.map((m) => ({
          type: "line", xref: "paper", x0: 0, x1: 1, y0: m.ms, y1: m.ms,
          line: { color: cssVar(STYLE[m.kind][0]), dash: STYLE[m.kind][1], width: 1.5 },
        })),
        annotations: [...marks.map((m) => label(`${m.name} ${latency(m.ms / 1e3)}`, m.ms, cssVar(STYLE[m.kind][0]))),
          label(`best ${latency(points.at(-1)[1] / 1e3)}`, points.at(-1)[1], cssVar("--line-best"), clash(points.at(-1)[1], marks, top))],
      },
    };
  }

  /** About when a trial was measured: the curve knows how many there were at which time. */
  function when(number) {
    let [t0, n0] = [0, 0];
    for (const [t, n] of [...data.curve, [data.elapsed, data.trials]]) {
      if (n >= number) return n > n0 ? t0 + ((t - t0) * (number - n0)) / (n - n0) : t;
      [t0, n0] = [t, n];
    }
    return data.elapsed;
  }

  load();
  return { load, add };
}

const label = (text, y, color, below = false) => ({
  xref: "paper", x: 1, xanchor: "right", y, yanchor: below ? "top" : "bottom", text, showarrow: false, font: { color, size: 12 },
});

/** Whether a name right above a line would cover another line's name. */
const clash = (y, marks, top) => marks.some((m) => m.ms >= y && m.ms - y < top * 0.08);
