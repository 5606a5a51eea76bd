// The drawing of the network: zoom, scrolling by mouse, and what is known of the chosen block.

import { fragment, get } from "../api.js";
import { el } from "../dom.js";
import { count, gflops, latency, ms, percent, significant, speedup, bytes } from "../format.js";

const SMALLEST = 0.1;
const LARGEST = 3;
const READABLE = 0.66; // below this the first view scrolls rather than shrinks further

export function network(card, id) {
  if (!card || card.dataset.ready) return;
  card.dataset.ready = "yes";
  const base = `/jobs/${encodeURIComponent(id)}`;
  const panel = card.querySelector("#block");
  const empty = panel.firstElementChild;
  const pictures = new Map(); // plan -> the finished node, kept when the other plan is shown
  const facts = new Map();
  let plan = "tuned";
  let zoom = 1;

  const frame = () => card.querySelector(".network-frame");
  const blocks = () => [...frame().querySelectorAll(".block")];

  // Zoom ---------------------------------------------------------------------------------------------------------

  function scale(value, at = null) {
    const box = frame();
    const before = zoom;
    zoom = Math.min(LARGEST, Math.max(SMALLEST, value));
    const drawing = box.querySelector("svg");
    const middle = at || { x: box.clientWidth / 2, y: box.clientHeight / 2 };
    const point = { x: (box.scrollLeft + middle.x) / before, y: (box.scrollTop + middle.y) / before };
    drawing.setAttribute("width", Math.round(box.dataset.width * zoom));
    drawing.setAttribute("height", Math.round(box.dataset.height * zoom));
    box.scrollTo(point.x * zoom - middle.x, point.y * zoom - middle.y);
    card.querySelector("#zoom-level").textContent = `${Math.round(zoom * 100)}%`;
  }

  const fitting = (box) => Math.min((box.clientWidth - 2) / box.dataset.width, 1);

  function first() {
    const box = frame();
    scale(Math.max(READABLE, fitting(box)));
    box.scrollTo(0, 0);
  }

  card.addEventListener("click", (event) => {
    const how = event.target.closest("[data-zoom]")?.dataset.zoom;
    if (how === "in") scale(zoom * 1.25);
    if (how === "out") scale(zoom / 1.25);
    if (how === "one") scale(1);
    if (how === "fit") scale(Math.min(fitting(frame()), (parseFloat(getComputedStyle(frame()).maxHeight) - 2) / frame().dataset.height));
  });

  // Choosing -----------------------------------------------------------------------------------------------------

  async function choose(number, { focus = false, scroll = false } = {}) {
    for (const node of card.querySelectorAll(".chosen, .near")) node.classList.remove("chosen", "near");
    for (const row of document.querySelectorAll("tr.chosen")) row.classList.remove("chosen");
    if (number === null) {
      panel.replaceChildren(empty);
      return;
    }
    const node = frame().querySelector(`[data-block="${number}"]`);
    if (!node) return;
    node.classList.add("chosen");
    for (const edge of frame().querySelectorAll(`[data-from="${number}"], [data-to="${number}"]`)) edge.classList.add("near");
    if (plan === "tuned") document.querySelector(`tr[data-row="${number}"]`)?.classList.add("chosen");
    for (const other of blocks()) other.setAttribute("tabindex", other === node ? 0 : -1);
    if (focus) node.focus({ preventScroll: true });
    if (scroll) {
      frame().scrollIntoView({ block: "nearest" });
      centre(node);
    } else if (focus) {
      reveal(node);
    }
    const shown = plan;
    try {
      if (!facts.has(shown)) facts.set(shown, await get(`${base}/boxes?plan=${shown}`));
      if (shown === plan && node.classList.contains("chosen")) panel.replaceChildren(...describe(facts.get(shown)[number], shown));
    } catch (problem) {
      panel.replaceChildren(el("p", { class: "muted" }, problem.message));
    }
  }

  function offset(node) {
    const [box, rect] = [frame().getBoundingClientRect(), node.getBoundingClientRect()];
    return { x: rect.left - box.left, y: rect.top - box.top, width: rect.width, height: rect.height };
  }

  function centre(node) {
    const box = frame();
    const at = offset(node);
    box.scrollBy(at.x + at.width / 2 - box.clientWidth / 2, at.y + at.height / 2 - box.clientHeight / 2);
  }

  function reveal(node) {
    const box = frame();
    const at = offset(node);
    if (at.x < 0 || at.y < 0 || at.x + at.width > box.clientWidth || at.y + at.height > box.clientHeight) centre(node);
  }

  document.getElementById("sections").addEventListener("click", (event) => {
    const number = event.target.closest("[data-choose]")?.dataset.choose;
    if (number === undefined || !card.isConnected) return;
    show("tuned").then(() => choose(Number(number), { focus: true, scroll: true }));
  });

  function wire() {
    const box = frame();
    for (const [place, node] of blocks().entries()) node.setAttribute("tabindex", place ? -1 : 0);
    box.addEventListener("click", (event) => {
      const node = event.target.closest(".block");
      if (node) choose(Number(node.dataset.block));
    });
    box.addEventListener("keydown", (event) => {
      const node = event.target.closest?.(".block");
      if (event.key === "+" || event.key === "=") scale(zoom * 1.25);
      else if (event.key === "-") scale(zoom / 1.25);
      else if (event.key === "0") scale(1);
      else if (event.key === "Escape") choose(null);
      else if (!node) return;
      else if (event.key === "Enter" || event.key === " ") choose(Number(node.dataset.block));
      else {
        const step = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
        if (!step) return;
        const next = Number(node.dataset.block) + step;
        if (box.querySelector(`[data-block="${next}"]`)) choose(next, { focus: true });
      }
      event.preventDefault();
    });
    box.addEventListener(
      "wheel",
      (event) => {
        if (!event.ctrlKey && !event.metaKey) return;
        event.preventDefault();
        const rect = box.getBoundingClientRect();
        scale(zoom * Math.exp(-event.deltaY / 300), { x: event.clientX - rect.left, y: event.clientY - rect.top });
      },
      { passive: false },
    );
    // A mouse drags the drawing; fingers scroll it as they scroll everything.
    let drag = null;
    box.addEventListener("pointerdown", (event) => {
      if (event.pointerType === "mouse" && event.button === 0) drag = { x: event.clientX, y: event.clientY, left: box.scrollLeft, top: box.scrollTop };
    });
    addEventListener("pointermove", (event) => {
      if (!drag) return;
      const [dx, dy] = [event.clientX - drag.x, event.clientY - drag.y];
      if (Math.hypot(dx, dy) > 4) box.classList.add("dragging");
      box.scrollTo(drag.left - dx, drag.top - dy);
    });
    addEventListener("pointerup", () => {
      drag = null;
      box.classList.remove("dragging");
    });
  }

  // The other plan -----------------------------------------------------------------------------------------------

  const note = card.querySelector("#network-note");
  const words = {
    tuned: note.textContent,
    unoptimised: "The baseline: every layer its own kernel, on one core, with default knobs. It is timed as a whole only, so no layer has a time.",
  };

  async function show(wanted) {
    if (wanted === plan) return;
    const holder = card.querySelector("#network-holder");
    if (!pictures.has(wanted)) {
      const fresh = el("div");
      fresh.innerHTML = await fragment(`${base}/network?plan=${wanted}`);
      pictures.set(wanted, [...fresh.childNodes]);
    }
    pictures.set(plan, [...holder.childNodes]);
    const known = pictures.get(wanted);
    plan = wanted;
    holder.replaceChildren(...known);
    note.textContent = words[plan];
    for (const input of card.querySelectorAll('input[name="plan"]')) input.checked = input.value === plan;
    choose(null);
    if (!frame().dataset.wired) wire();
    frame().dataset.wired = "yes";
    first();
  }

  for (const input of card.querySelectorAll('input[name="plan"]')) input.addEventListener("change", () => show(input.value));
  wire();
  frame().dataset.wired = "yes";
  first();
}

/** What is known of a block, as nodes. */
function describe(box, plan) {
  const pair = (name, value) => (value === null || value === undefined || value === "" ? [] : [el("dt", {}, name), el("dd", {}, value)]);
  const tried = box.tried;
  const known = Object.entries(tried?.best || {}).sort((a, b) => a[1] - b[1]);
  const view = box.template === "view";
  return [
    el("h3", {}, box.title),
    el(
      "ul",
      { class: "layers" },
      ...box.layers.map((layer) =>
        el("li", {}, el("strong", {}, layer.op), ` ${layer.what}`, el("span", { class: "muted" }, `${layer.id} → ${layer.shape.join("×")}${layer.ops ? `, ${work(layer.ops)}` : ""}`)),
      ),
    ),
    view ? el("p", { class: "muted small" }, "It only renames memory: there is no kernel.") : null,
    el(
      "dl",
      { class: "kv" },
      ...pair("Time", box.ms === null || view ? null : ms(box.ms)),
      ...pair("Time with others", box.together && ms(box.together)),
      ...pair("Share", box.share === null || view ? null : percent(box.share)),
      ...pair("Rate", box.gflops && gflops(box.gflops)),
      ...pair("Of the roofline", box.roof && `${percent(box.roof)}, bound by ${box.bound}`),
      ...pair("Operations", box.ops ? work(box.ops) : null),
      ...pair("Moves", bytes(box.bytes)),
      ...pair("Cores", view ? null : plan === "tuned" ? box.cores : `${box.cores} (the baseline)`),
      ...pair("Template", box.template),
      ...pair("Layouts", box.layouts.join(", ")),
      ...pair("Knobs", box.knobs && Object.entries(box.knobs).map(([k, v]) => `${k} = ${v}`).join(", ")),
      ...pair("Tried", tried && `${count(tried.trials)} candidates, ${count(tried.failed)} failed`),
      ...(known.length > 1 ? known : []).flatMap(([name, seconds]) => pair(`Best ${name}`, latency(seconds))),
      ...pair("Over default", tried?.default && known.length ? speedup(tried.default / known[0][1]) : null),
    ),
  ].filter(Boolean);
}

const work = (ops) => (ops >= 1e9 ? `${significant(ops / 1e9)} GFLOP` : ops >= 1e6 ? `${significant(ops / 1e6)} MFLOP` : `${significant(ops / 1e3)} kFLOP`);
