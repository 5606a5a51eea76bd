// Predicted against measured times: on the diagonal the cost model was right.

import { get } from "../api.js";
import { cssVar } from "../dom.js";
import { latency } from "../format.js";
import { draw } from "../plot.js";

export function predictions(element, id) {
  if (!element || element.dataset.ready) return;
  element.dataset.ready = "yes";
  // Far down the page: fetched when it comes near the window.
  const seen = new IntersectionObserver(
    (entries) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      seen.disconnect();
      show(element, id);
    },
    { rootMargin: "400px" },
  );
  seen.observe(element);
}

async function show(element, id) {
  const found = await get(`/jobs/${encodeURIComponent(id)}/predictions`).catch(() => null);
  const names = Object.keys(found || {}).sort((a, b) => found[b].length - found[a].length);
  if (!names.length) return;
  const all = names.flatMap((name) => found[name]).flatMap(([predicted, measured]) => [predicted, measured]);
  const ends = [Math.min(...all) / 1.3, Math.max(...all) * 1.3].map((s) => s * 1e6);
  await draw(element, () => ({
    traces: [
      { x: ends, y: ends, mode: "lines", line: { color: cssVar("--line-strong"), width: 1 }, hoverinfo: "skip", showlegend: false },
      ...names.map((name, i) => ({
        x: found[name].map((p) => p[1] * 1e6), y: found[name].map((p) => p[0] * 1e6), name, mode: "markers",
        marker: { size: 6, opacity: 0.6, color: cssVar(`--cat-${(i % 6) + 1}`), symbol: ["circle", "diamond", "square", "triangle-up", "cross", "x"][i % 6] },
        text: found[name].map((p) => `trial ${p[2]}: measured ${latency(p[1])}, predicted ${latency(p[0])}`),
        hovertemplate: "%{text}<extra>" + name + "</extra>",
      })),
    ],
    layout: {
      margin: { l: 8, r: 8, t: 28, b: 8 },
      xaxis: { type: "log", title: { text: "measured, µs" }, range: ends.map(Math.log10), dtick: 1, minor: { showgrid: false } },
      yaxis: { type: "log", title: { text: "predicted, µs" }, range: ends.map(Math.log10), dtick: 1 },
      showlegend: true,
    },
  }));
}
