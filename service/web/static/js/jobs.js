// The list of jobs: running rows are brought up to date in place, two rows can be chosen to compare.

import { fragment } from "./api.js";
import { el, sentence, setText } from "./dom.js";
import { times } from "./main.js";

const EVERY = 2500; // ms
const rows = document.getElementById("job-rows");
const list = document.getElementById("jobs");
const news = document.getElementById("news");
const button = document.getElementById("compare-button");
const hint = document.getElementById("compare-hint");

if (rows) {
  rows.addEventListener("change", chosen);
  chosen();
  setTimeout(refresh, EVERY);
  document.addEventListener("visibilitychange", () => !document.hidden && refresh());
}

/** Exactly two jobs can be compared; with two chosen the other boxes rest. */
function chosen() {
  const boxes = [...rows.querySelectorAll('input[name="job"]')];
  const count = boxes.filter((box) => box.checked).length;
  for (const box of boxes) box.disabled = count >= 2 && !box.checked;
  button.disabled = count !== 2;
  hint.hidden = count === 2;
  hint.textContent = count === 1 ? "Choose one more." : "Choose two jobs by their boxes.";
}

let timer = null;

async function refresh() {
  clearTimeout(timer);
  if (document.hidden) return;
  const live = [...rows.querySelectorAll("tr[data-live]")].map((row) => `id=${encodeURIComponent(row.dataset.job)}`);
  try {
    if (list.dataset.newest) live.push(`after=${encodeURIComponent(list.dataset.newest)}`);
    const source = live.length ? await fragment(`/jobs/rows?${live.join("&")}`) : "<table data-newer=0></table>";
    const fresh = new DOMParser().parseFromString(source, "text/html").querySelector("table");
    for (const row of fresh.querySelectorAll("tr[data-job]")) update(row);
    announce(Number(fresh.dataset.newer));
  } catch {
    // The next round tries again; what is shown is as old as it says.
  }
  timer = setTimeout(refresh, EVERY);
}

/** Replace the cells that changed, and nothing else: focus, boxes and widths stay. */
function update(fresh) {
  const row = rows.querySelector(`tr[data-job="${CSS.escape(fresh.dataset.job)}"]`);
  if (!row) return;
  const height = row.offsetHeight;
  for (const cell of fresh.querySelectorAll("td[data-cell]")) {
    const old = row.querySelector(`td[data-cell="${cell.dataset.cell}"]`);
    const bar = old.querySelector("progress");
    const next = cell.querySelector("progress");
    if (bar && next) {
      // A bar that is kept moves on; one that is replaced would flash.
      for (const name of ["value", "max", "class"]) {
        const value = next.getAttribute(name);
        if (value === null) bar.removeAttribute(name);
        else if (bar.getAttribute(name) !== value) bar.setAttribute(name, value);
      }
      next.replaceWith(bar.cloneNode());
    }
    if (old.innerHTML !== cell.innerHTML) {
      if (cell.dataset.cell === "model") continue; // its link may have the focus, and it never changes
      old.replaceChildren(...cell.childNodes);
    }
    old.className = cell.className;
  }
  times(row);
  if (row.dataset.state !== fresh.dataset.state) {
    row.dataset.state = fresh.dataset.state;
    news.textContent = `${fresh.dataset.name}: ${sentence(fresh.dataset.state)}`;
  }
  if (!fresh.hasAttribute("data-live")) {
    // A row keeps the height it had while it ran: nothing below it jumps.
    row.style.height = `${height}px`;
    row.removeAttribute("data-live");
  }
}

/** Jobs that came since are offered in the corner, not pushed in between what somebody reads. */
function announce(count) {
  if (!count) return;
  let offer = document.getElementById("newer");
  if (!offer) {
    offer = el("a", { id: "newer", class: "toast", href: location.href });
    document.getElementById("toasts").append(offer);
  }
  setText(offer, count === 1 ? "1 newer job: show it" : `${count} newer jobs: show them`);
}
