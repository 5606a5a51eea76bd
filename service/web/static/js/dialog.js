// Questions before something is lost, passing messages, and problems where they happened.

import { el, icon } from "./dom.js";

/** Ask; true if the action was chosen. Escape and the other button mean no. */
export function ask({ title, text = "", action = "Continue", danger = false }) {
  return new Promise((resolve) => {
    const yes = el("button", { class: `button ${danger ? "danger" : "primary"}`, value: "yes" }, action);
    const no = el("button", { class: "button", value: "no", autofocus: true }, "Keep it as it is");
    const dialog = el(
      "dialog",
      { "aria-labelledby": "ask-title" },
      el("form", { method: "dialog" }, el("h2", { id: "ask-title" }, title), text && el("p", {}, text), el("div", { class: "toolbar" }, no, yes)),
    );
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Say something in passing; screen readers hear it too. */
export function toast(text, seconds = 5) {
  const box = document.getElementById("toasts");
  const note = el("div", { class: "toast" }, text);
  box.append(note);
  setTimeout(() => note.remove(), seconds * 1000);
}

/** Show a problem in an element made for it, or take it away with null. */
export function showProblem(element, problem) {
  element.replaceChildren();
  element.hidden = !problem;
  if (!problem) return;
  const lines = (problem.errors || []).map((one) => el("li", {}, `${one.where}: ${one.message}`));
  element.append(
    el(
      "div",
      { class: "problem", role: "alert" },
      icon("warning"),
      el(
        "div",
        {},
        el("strong", {}, problem.title || "It did not work"),
        el("p", {}, problem.detail || problem.message || ""),
        lines.length ? el("ul", {}, ...lines) : null,
        problem.hint ? el("p", {}, problem.hint) : null,
      ),
    ),
  );
}
