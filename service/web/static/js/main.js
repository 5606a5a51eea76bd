// What every page does: relative times, copying, tabs, questions before forms, filters that apply themselves.

import { ask, toast } from "./dialog.js";
import { setText } from "./dom.js";
import { ago } from "./format.js";

/** Bring relative times up to date. */
export function times(within = document) {
  for (const time of within.querySelectorAll("time[datetime]")) setText(time, ago(time.dateTime));
}

times();
setInterval(times, 30_000);

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const source = button.dataset.copy || button.parentElement.querySelector("code").textContent;
  try {
    await navigator.clipboard.writeText(source);
    toast("Copied.");
  } catch {
    // Without HTTPS browsers keep the clipboard to themselves: mark the text, so that one key does it.
    getSelection().selectAllChildren(button.parentElement.querySelector("code"));
    toast("Press Ctrl+C to copy.");
  }
});

document.addEventListener("submit", async (event) => {
  const form = event.target;
  const question = event.submitter?.dataset.confirm || form.dataset.confirm;
  if (!question || form.dataset.confirmed) return;
  event.preventDefault();
  const action = event.submitter?.textContent.trim() || "Continue";
  if (await ask({ title: question, text: form.dataset.confirmText, action, danger: true })) {
    form.dataset.confirmed = "yes";
    form.requestSubmit(event.submitter);
  }
});

for (const form of document.querySelectorAll("form[data-auto]")) {
  form.addEventListener("change", (event) => {
    if (event.target.matches("select, input[type=checkbox], input[type=radio]")) form.requestSubmit();
  });
  // Empty fields would only make the address longer.
  form.addEventListener("formdata", (event) => {
    for (const [name, value] of [...event.formData]) if (value === "") event.formData.delete(name);
  });
}

for (const list of document.querySelectorAll("[data-tabs]")) {
  const tabs = [...list.querySelectorAll('[role="tab"]')];
  const select = (chosen) => {
    for (const tab of tabs) {
      const on = tab === chosen;
      tab.setAttribute("aria-selected", on);
      tab.tabIndex = on ? 0 : -1;
      document.getElementById(tab.getAttribute("aria-controls")).hidden = !on;
    }
    chosen.dispatchEvent(new CustomEvent("tab", { bubbles: true }));
  };
  list.addEventListener("click", (event) => {
    const tab = event.target.closest('[role="tab"]');
    if (tab) select(tab);
  });
  list.addEventListener("keydown", (event) => {
    const move = { ArrowRight: 1, ArrowLeft: -1, Home: -tabs.length, End: tabs.length }[event.key];
    if (!move) return;
    event.preventDefault();
    const at = tabs.indexOf(document.activeElement);
    const next = Math.abs(move) === 1 ? (at + move + tabs.length) % tabs.length : move < 0 ? 0 : tabs.length - 1;
    tabs[next].focus();
    select(tabs[next]);
  });
}
