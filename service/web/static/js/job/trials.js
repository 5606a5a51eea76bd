// The table of trials: rows are fetched a page at a time as they come into view, however many there are.

import { get } from "../api.js";
import { el } from "../dom.js";
import { count, latency } from "../format.js";

const PAGE = 100;
const KEPT = 1200; // rows in the page at once; earlier ones go when later ones come

const WHY = { search: "search", cores: "other core counts", final: "measured again", plan: "whole model" };

export function trials(card) {
  if (!card || card.dataset.ready) return card?.table || null;
  card.dataset.ready = "yes";
  const path = `/api/v1/jobs/${encodeURIComponent(card.dataset.source)}/trials`;
  const scroll = card.querySelector("#trials-scroll");
  const rows = card.querySelector("#trials-rows");
  const foot = card.querySelector("#trials-foot");
  const order = card.querySelector("#trial-order");
  let cursor = null;
  let done = false;
  let loading = null;
  let total = Number(card.dataset.measured) || 0;
  let seen = 0; // rows shown since the last change of order, those dropped again included

  function restart(from = null) {
    loading?.abort();
    loading = null;
    cursor = from;
    done = false;
    seen = 0;
    rows.replaceChildren();
    scroll.scrollTop = 0;
    more();
  }

  async function more() {
    if (done || loading) return;
    const request = new AbortController();
    loading = request;
    const outcome = card.querySelector('input[name="outcome"]:checked').value;
    const query = new URLSearchParams({ limit: PAGE, order: order.value });
    if (outcome) query.set("state", outcome);
    if (cursor) query.set("cursor", cursor);
    try {
      const page = await get(`${path}?${query}`, { signal: request.signal });
      seen += page.items.length;
      rows.append(...page.items.map(row));
      cursor = page.next;
      done = !cursor;
      trim();
      foot.textContent = page.items.length || seen
        ? `${count(seen)} ${done ? "shown, all there are" : `of ${count(Math.max(total, seen))} fetched; more come as you scroll`}.`
        : "No trial of this kind.";
      loading = null;
      if (!done && scroll.scrollHeight <= scroll.clientHeight + 200) more();
    } catch (problem) {
      if (problem.name === "AbortError") return;
      loading = null;
      done = true;
      const again = el("button", { type: "button", class: "button small", onclick: () => ((done = false), more()) }, "Try again");
      foot.replaceChildren(`${problem.message} `, again);
    }
  }

  /** Keep the page light: what was scrolled by long ago goes, and its place with it. */
  function trim() {
    if (rows.childElementCount <= KEPT) return;
    const before = scroll.scrollHeight;
    while (rows.childElementCount > KEPT - 3 * PAGE) rows.firstElementChild.remove();
    scroll.scrollTop -= before - scroll.scrollHeight;
  }

  scroll.addEventListener("scroll", () => {
    if (scroll.scrollTop + scroll.clientHeight > scroll.scrollHeight - 600) more();
  });
  order.addEventListener("change", () => restart());
  for (const input of card.querySelectorAll('input[name="outcome"]')) input.addEventListener("change", () => restart());
  card.querySelector("#trial-jump").addEventListener("change", async (event) => {
    const number = Number(event.target.value);
    if (!Number.isInteger(number) || number < 1) return;
    if (!order.value.endsWith("id")) order.value = "id";
    restart((await get(`/jobs/${encodeURIComponent(card.dataset.source)}/jump?trial=${number}&order=${order.value}`)).cursor);
  });

  const near = new IntersectionObserver(
    (entries) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      near.disconnect();
      more();
    },
    { rootMargin: "600px" },
  );
  near.observe(card);

  card.table = {
    /** The running job has made more trials. */
    grown(number) {
      if (number <= total) return;
      total = number;
      // Newest first: what is on the screen would be old; a word is quieter than moving rows.
      if (seen && done) {
        const show = el("button", { type: "button", class: "button small", onclick: () => restart() }, "Show them");
        foot.replaceChildren(`${count(Math.max(0, total - seen))} more since then. `, show);
      }
    },
  };
  return card.table;
}

function row(trial) {
  const knobs = Object.entries(trial.knobs).map(([name, value]) => `${name}=${value}`).join(" ");
  const failed = trial.failure_kind !== null;
  return el(
    "tr",
    { class: failed ? "failed" : null },
    el("td", { class: "num" }, String(trial.id)),
    el("td", {}, trial.summary || el("span", { class: "mono" }, trial.workload.slice(0, 12))),
    el("td", { class: "knobs" }, trial.template, el("span", { class: "sub mono" }, knobs)),
    el("td", { class: "num" }, String(trial.cores)),
    el("td", { class: "num" }, failed ? "–" : latency(trial.seconds)),
    el("td", { class: "num" }, latency(trial.predicted_seconds)),
    el(
      "td",
      { class: "why" },
      failed ? el("span", { class: "tag warn" }, trial.failure_kind) : WHY[trial.purpose] || trial.purpose,
      failed ? el("span", { class: "sub" }, trial.failure_message) : null,
    ),
  );
}
