// A new job: a file goes up and shows what is in it; the settings get an estimate; what is refused is said at its field.

import { fragment, get, post, Problem, upload } from "./api.js";
import { showProblem } from "./dialog.js";
import { el, setText } from "./dom.js";
import { bytes, count, duration, percent, plural } from "./format.js";

const form = document.getElementById("new-job");
const $ = (id) => document.getElementById(id);

// Codes of problems that name no field, and the field they are about.
const FIELDS = {
  "unknown-device": "device",
  "no-device": "device",
  "unknown-strategy": "strategy",
  "bad-precision": "precision",
  "bad-cores": "cores",
};

let model = null; // SHA-256 of the chosen one
let running = null; // AbortController of the upload
// One key per visit: pressing twice, or again after a lost answer, makes one job. Any change makes a new request.
let attempt = { body: "", key: "" };

if (form) {
  $("file").addEventListener("change", () => $("file").files[0] && send($("file").files[0]));
  if ($("file").files[0]) send($("file").files[0]); // chosen before this script was there
  $("known")?.addEventListener("change", (event) => event.target.value && choose(event.target.value));
  $("upload-stop").addEventListener("click", () => running?.abort());
  $("device").addEventListener("change", estimate);
  for (const id of ["minutes", "trials", "fresh", "strategy"]) $(id).addEventListener("change", estimate);
  form.addEventListener("submit", submit);
  form.addEventListener("input", (event) => clearError(event.target.closest("[data-field]")));
  dropping($("drop"));
  if (form.dataset.chosen) choose(form.dataset.chosen);
}

function dropping(zone) {
  for (const kind of ["dragenter", "dragover"]) {
    zone.addEventListener(kind, (event) => {
      event.preventDefault();
      zone.classList.add("over");
    });
  }
  for (const kind of ["dragleave", "drop"]) zone.addEventListener(kind, () => zone.classList.remove("over"));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer.files[0]) send(event.dataTransfer.files[0]);
  });
  // A file that misses the zone must not replace the page.
  for (const kind of ["dragover", "drop"]) addEventListener(kind, (event) => event.preventDefault());
}

async function send(file) {
  running?.abort();
  forget();
  showProblem($("file-error"), null);
  const limit = Number(form.dataset.limit);
  if (file.size > limit) {
    showProblem($("file-error"), {
      title: "The file is too large",
      detail: `${file.name} has ${bytes(file.size)}; this server takes ${bytes(limit)}.`,
      hint: "Whoever runs the server can raise the limit.",
    });
    return;
  }
  const own = (running = new AbortController());
  const name = file.name.replace(/\.onnx$/i, "") || "model";
  $("upload").hidden = false;
  progress(file, 0);
  try {
    const found = await upload(`/api/v1/models?name=${encodeURIComponent(name)}`, file, {
      onProgress: (share) => progress(file, share),
      signal: own.signal,
    });
    offer(found);
    await choose(found.id);
  } catch (problem) {
    if (problem.name !== "AbortError") showProblem($("file-error"), problem);
  } finally {
    if (running === own) {
      running = null;
      $("upload").hidden = true;
      $("file").value = "";
    }
  }
}

function progress(file, share) {
  const bar = $("upload-bar");
  if (share < 1) {
    bar.value = share;
    setText($("upload-text"), `Uploading ${file.name}: ${percent(share)} of ${bytes(file.size)}`);
  } else {
    bar.removeAttribute("value");
    setText($("upload-text"), `Reading the layers of ${file.name} …`);
  }
}

/** Put a model that has just come among those to choose from. */
function offer(found) {
  const list = $("known");
  if (!list) return;
  if (![...list.options].some((option) => option.value === found.id)) {
    list.add(new Option(found.name, found.id), 1);
  }
  list.value = found.id;
}

function forget() {
  model = null;
  $("submit").disabled = true;
  $("model-card").replaceChildren();
  setText($("estimate-text"), "Choose a model to see about how long it takes.");
}

async function choose(id) {
  forget();
  showProblem($("file-error"), null);
  try {
    const source = await fragment(`/models/${encodeURIComponent(id)}/card`);
    const parsed = new DOMParser().parseFromString(source, "text/html");
    $("model-card").replaceChildren(...parsed.body.childNodes);
  } catch (problem) {
    showProblem($("file-error"), problem);
    return;
  }
  model = id;
  $("submit").disabled = false;
  await estimate();
}

async function estimate() {
  if (!model) return;
  const asked = model;
  const text = $("estimate-text");
  if ($("strategy").value === "none" || $("trials").value === "0") {
    setText(text, "Nothing is searched: building and timing the whole model takes about a minute.");
    return;
  }
  try {
    const device = encodeURIComponent($("device").value);
    const found = await get(`/api/v1/models/${model}/estimate?device=${device}`);
    if (asked !== model) return;
    setText(text, words(found, $("fresh").checked, Number($("minutes").value) * 60 || null));
  } catch (problem) {
    if (asked === model) setText(text, `How long it takes is not known: ${problem.message}`);
  }
}

/** What the estimate says, within the budget: the search ends there even when there is more to try. */
function words({ questions, known, seconds }, fresh, budget) {
  if (!questions) return "How long it takes is not known: this model's kernels were not counted.";
  const open = fresh ? questions : questions - known;
  const all = known && fresh && questions > known ? (seconds * questions) / (questions - known) : seconds;
  const time = about(budget ? Math.min(all, budget) : all);
  const what = fresh
    ? `${count(questions)} workloads are searched afresh`
    : known === 0
      ? `none of its ${count(questions)} workloads is known here yet`
      : `${count(known)} of ${count(questions)} workloads are already known here`;
  const more = budget && all > budget * 1.1 && open ? ` Searching all of them well would take ${about(all).toLowerCase()}.` : "";
  return `${time}; ${what}.${more}`;
}

function about(seconds) {
  if (seconds < 45) return `About ${duration(Math.ceil(seconds / 10) * 10)}`;
  const minutes = Math.max(1, Math.round(seconds / 60));
  return minutes < 60 ? `About ${plural(minutes, "minute")}` : `About ${duration(minutes * 60)}`;
}

async function submit(event) {
  event.preventDefault();
  for (const field of form.querySelectorAll("[data-field]")) clearError(field);
  showProblem($("problem"), null);
  const body = read();
  if (!body) return;
  const text = JSON.stringify(body);
  if (attempt.body !== text) attempt = { body: text, key: key() };
  $("submit").disabled = true;
  try {
    const job = await post("/api/v1/jobs", body, { headers: { "Idempotency-Key": attempt.key } });
    location.assign(`${form.dataset.jobs}/${job.id}`);
  } catch (problem) {
    $("submit").disabled = false;
    refused(problem);
  }
}

/** The job as the API takes it, or null when a field cannot be read. */
function read() {
  const wrong = [];
  const number = (id, field, low, whole) => {
    const input = $(id);
    if (input.value === "" && !input.validity.badInput) return null;
    const value = Number(input.value);
    if (input.validity.badInput || !Number.isFinite(value) || value < low || (whole && !Number.isInteger(value))) {
      wrong.push([field, whole ? `A whole number from ${low} up.` : `A number from ${low} up.`]);
      return null;
    }
    return value;
  };
  const minutes = number("minutes", "budget.seconds", 0.1, false);
  const trials = number("trials", "budget.trials", 0, true);
  const cores = $("cores").value.trim();
  let counts = null;
  if (cores && cores !== "auto") {
    counts = cores.split(",").map((part) => Number(part.trim()));
    if (counts.some((each) => !Number.isInteger(each) || each < 1)) wrong.push(["cores", "auto, or counts such as 1,2,4."]);
  }
  const seed = number("seed", "seed", 0, true) ?? 0;
  const accuracy = number("accuracy", "accuracy", 0, false);
  const priority = number("priority", "priority", -1000, true) ?? 0;
  const shapes = {};
  for (const input of document.querySelectorAll("[data-shape]")) {
    const dims = input.value.split(/[,x×]/).map((part) => Number(part.trim()));
    const good = input.value.trim() && dims.every((dim) => Number.isInteger(dim) && dim > 0);
    shapeError(input, good ? "" : "Sizes such as 1,3,224,224.");
    if (good) shapes[input.dataset.shape] = dims;
    else wrong.push([null, ""]);
  }
  for (const [field, message] of wrong) if (field) fieldError(field, message);
  if (wrong.length) {
    form.querySelector('[aria-invalid="true"]')?.focus();
    return null;
  }
  return {
    model,
    device: $("device").value,
    strategy: $("strategy").value,
    budget: { seconds: minutes === null ? null : Math.round(minutes * 6000) / 100, trials },
    cores: counts,
    precision: $("precision").value,
    accuracy,
    shapes,
    seed,
    priority,
    notes: $("notes").value.trim() || null,
    fresh: $("fresh").checked,
  };
}

/** Say what is wrong where it is wrong, and the rest above the button. */
function refused(problem) {
  let placed = false;
  const rest = [];
  for (const { where, message } of problem.errors || []) {
    const name = where.replace(/^body\./, "");
    if (name.startsWith("shapes.")) {
      const input = [...document.querySelectorAll("[data-shape]")].find((each) => name.startsWith(`shapes.${each.dataset.shape}`));
      if (input) {
        shapeError(input, message);
        placed = true;
        continue;
      }
    }
    if (fieldError(name, message) || fieldError(name.replace(/\.\d+$/, ""), message)) placed = true;
    else rest.push({ where, message });
  }
  if (FIELDS[problem.code]) placed = fieldError(FIELDS[problem.code], [problem.detail, problem.hint].filter(Boolean).join(" ")) || placed;
  if (!placed || rest.length) {
    const shown = problem instanceof Problem ? problem : new Problem(0, { detail: problem.message });
    showProblem($("problem"), { title: shown.title, detail: shown.detail, hint: shown.hint, errors: rest });
  }
  form.querySelector('[aria-invalid="true"]')?.focus();
}

function fieldError(name, message) {
  const field = form.querySelector(`[data-field="${CSS.escape(name)}"]`);
  if (!field) return false;
  const further = $("further");
  if (further.contains(field)) further.open = true;
  mark(field, field.querySelector("input, select, textarea"), message);
  return true;
}

function shapeError(input, message) {
  if (message) mark(input.parentElement, input, message);
  else clearError(input.parentElement);
}

function mark(field, input, message) {
  clearError(field);
  const id = `${input.id}-error`;
  input.setAttribute("aria-invalid", "true");
  input.setAttribute("aria-errormessage", id);
  field.append(el("span", { class: "error", id }, message));
}

function clearError(field) {
  if (!field) return;
  for (const input of field.querySelectorAll("[aria-invalid]")) {
    input.removeAttribute("aria-invalid");
    input.removeAttribute("aria-errormessage");
  }
  for (const note of field.querySelectorAll(".error")) note.remove();
}

function key() {
  // randomUUID exists only under HTTPS and on loopback.
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
