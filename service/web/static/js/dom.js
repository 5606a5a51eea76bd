// Small helpers for elements. Text is always set as text, never parsed.

const icons = document.documentElement.dataset.icons;
const SVG = "http://www.w3.org/2000/svg";

export const el = (tag, attributes = {}, ...children) => build(document.createElement(tag), attributes, children);
export const svg = (tag, attributes = {}, ...children) => build(document.createElementNS(SVG, tag), attributes, children);

function build(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "class") node.setAttribute("class", value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** Set an element's text, leaving the page alone when nothing changes. */
export function setText(node, text) {
  if (node && node.textContent !== String(text)) node.textContent = text;
}

export const icon = (name) => svg("svg", { class: "icon", "aria-hidden": "true" }, svg("use", { href: `${icons}#${name}` }));

const WORDS = { CANCELLING: "Cancelling" };

/** The state of a job in colour, word and shape; `wanted` "pause" says that it is about to pause. */
export function badge(state, wanted = null) {
  const word = state === "RUNNING" && wanted === "pause" ? "Pausing" : WORDS[state] || sentence(state);
  return el("span", { class: `badge state-${state}` }, icon(state), word);
}

export const sentence = (word) => word.charAt(0) + word.slice(1).toLowerCase();

export const cssVar = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** Call back whenever the system changes between light and dark. */
export function onTheme(callback) {
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", callback);
}

/** Which of the eight steps of a colour scale stands for a value; the maximum has the strongest. */
export function step(value, maximum) {
  if (!(value > 0) || !(maximum > 0)) return 0;
  return Math.max(0, Math.min(7, Math.round((7 * value) / maximum)));
}
