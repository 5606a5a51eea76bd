// Charts by Plotly, whose script comes out of an installed package and is loaded only where a page charts something.

import { cssVar, onTheme } from "./dom.js";

let loading = null;

/** Plotly, loaded once, after the page is painted. */
export function plotly() {
  loading ||= new Promise((resolve, reject) => {
    const begin = () => {
      const script = document.createElement("script");
      script.src = document.documentElement.dataset.plotly;
      script.onload = () => resolve(window.Plotly);
      script.onerror = () => reject(new Error("The script that draws charts could not be loaded."));
      document.head.append(script);
    };
    requestAnimationFrame(() => setTimeout(begin, 0));
  });
  return loading;
}

// Its "Share chart" would send the chart to a server elsewhere.
export const config = { displaylogo: false, responsive: true, displayModeBar: "hover", showSendToCloud: false, plotlyServerURL: "",
  modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };

/** A layout in the colours of the page, with the given parts changed. */
export function layout(changes = {}) {
  const axis = () => ({
    gridcolor: cssVar("--grid"),
    linecolor: cssVar("--line-strong"),
    zeroline: false,
    tickcolor: cssVar("--line-strong"),
    automargin: true,
  });
  const base = {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: cssVar("--muted") },
    margin: { l: 8, r: 8, t: 8, b: 8 },
    hoverlabel: { bgcolor: cssVar("--surface"), bordercolor: cssVar("--line-strong"), font: { color: cssVar("--text") } },
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
    colorway: [1, 2, 3, 4, 5, 6].map((n) => cssVar(`--cat-${n}`)),
    xaxis: axis(),
    yaxis: axis(),
    uirevision: "same", // live data must not undo a zoom
  };
  return merge(base, changes);
}

/**
 * Draw into a .chart. `make()` gives {traces, layout}: it is called again when the theme changes, so that it can read
 * colours anew. Gives back a function that redraws with fresh data.
 */
export async function draw(element, make) {
  const Plotly = await plotly();
  if (!element.classList.contains("js-plotly-plot")) element.replaceChildren(); // the server's still picture
  const redraw = () => {
    const { traces, layout: changes = {} } = make();
    return Plotly.react(element, traces, layout(changes), config);
  };
  await redraw();
  element.removeAttribute("aria-busy");
  onTheme(redraw);
  return redraw;
}

function merge(base, changes) {
  const result = { ...base };
  for (const [name, value] of Object.entries(changes)) {
    const both = value && typeof value === "object" && !Array.isArray(value) && base[name] && typeof base[name] === "object";
    result[name] = both ? merge(base[name], value) : value;
  }
  return result;
}
