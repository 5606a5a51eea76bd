// The page of one job: buttons, what happens while it runs, and the parts that appear when it ends.

import { del, fragment, post } from "../api.js";
import { ask, showProblem, toast } from "../dialog.js";
import { setText } from "../dom.js";
import { count, duration, latency, speedup } from "../format.js";
import { watch } from "../live.js";
import { times } from "../main.js";
import { curve } from "./curve.js";
import { network } from "./network.js";
import { predictions } from "./search.js";
import { trials } from "./trials.js";

const page = document.getElementById("job");
const id = page.dataset.job;
const base = `/jobs/${encodeURIComponent(id)}`;
const $ = (name) => document.getElementById(name);
const ENDED = ["SUCCEEDED", "FAILED", "CANCELLED"];

const chart = curve($("curve"), id);
let table = parts();

/** Bring the parts below to life; again whenever they were drawn anew. */
function parts() {
  network($("network-card"), id);
  predictions($("predictions"), id);
  return trials($("trials-card"));
}

// Buttons ---------------------------------------------------------------------------------------------------------

const QUESTIONS = {
  cancel: { title: "Cancel this job?", text: "What it measures is ended at once. The best found so far is kept.", action: "Cancel the job" },
  delete: { title: "Delete this job?", text: "Its report, artifact and events go. What was measured stays known.", action: "Delete" },
};

page.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-action]");
  if (!button) return;
  const action = button.dataset.action;
  if (QUESTIONS[action] && !(await ask({ ...QUESTIONS[action], danger: true }))) return;
  button.disabled = true;
  try {
    if (action === "delete") {
      await del(`/api/v1/jobs/${id}`);
      location.assign(document.querySelector(".crumbs a").href);
      return;
    }
    const job = await post(`/api/v1/jobs/${id}:${action}`);
    showProblem($("action-problem"), null);
    await changed(job.state);
    if (action === "retry" || action === "resume") follow();
  } catch (problem) {
    showProblem($("action-problem"), problem);
    button.disabled = false;
  }
});

/** The state may be another: sentence and buttons anew, and what stands below once it has ended. */
async function changed(state) {
  const ended = ENDED.includes(state);
  const was = page.dataset.state;
  page.dataset.state = state;
  const head = await fragment(`${base}/head`);
  if (page.dataset.state !== state) return; // it has changed again meanwhile, and that is shown instead
  $("job-head").innerHTML = head;
  times($("job-head"));
  $("now").hidden = ended || state === "QUEUED";
  if (ended && !ENDED.includes(was)) {
    await sections(true);
    await chart.load();
    toast(`The job has ended: ${state.toLowerCase()}.`);
  }
}

/** Fetch what stands below. While the job runs only what is missing is added, so that nothing moves under the reader. */
async function sections(all) {
  const fresh = document.createElement("template");
  fresh.innerHTML = await fragment(`${base}/sections`);
  const holder = $("sections");
  if (all) {
    holder.replaceChildren(fresh.content);
  } else {
    for (const part of [...fresh.content.children]) if (part.id && !$(part.id)) holder.append(part);
  }
  times(holder);
  table = parts();
}

// Live ------------------------------------------------------------------------------------------------------------

const STATUS = { live: "Live", reconnecting: "Connection lost; trying again", polling: "Live, every two seconds" };
let stop = null;
let asked = false; // for the parts that need a first trial

function follow() {
  stop?.();
  stop = watch(id, {
    after: Number(page.dataset.after) || 0,
    onStatus: (status) => setText($("link-state"), STATUS[status] || ""),
    onEvent: (kind, data, seq) => {
      if (seq) page.dataset.after = seq;
      if (kind === "progress") progress(data);
      else if (kind === "state") changed(data.state).catch(() => {});
    },
    onEnd: (data) => {
      setText($("link-state"), "");
      if (!ENDED.includes(page.dataset.state)) changed(data?.state || "SUCCEEDED").catch(() => location.reload());
    },
  });
}

function progress(data) {
  if (data.stage) setText($("stage"), data.stage);
  if (data.message) setText($("doing"), data.message);
  const { done, total, unit } = data.progress || {};
  const bar = $("now").querySelector("progress");
  if (total) {
    bar.max = total;
    bar.value = Math.min(done, total);
    const rest = Math.max(0, total - done);
    const seconds = unit === "seconds" ? rest : done ? (rest * data.elapsed_seconds) / done : null;
    setText($("left"), duration(seconds));
  }
  if (data.elapsed_seconds !== undefined) setText($("elapsed"), `${duration(data.elapsed_seconds)} worked`);
  const best = data.latency_ms?.best;
  const peer = data.latency_ms?.onnxruntime;
  if (best) setText($("best"), latency(best / 1e3));
  if (best && peer) setText($("versus"), `${speedup(peer / best)} over ONNX Runtime`);
  if (data.trials) {
    setText($("trials"), count(data.trials.measured));
    setText($("failed"), `${count(data.trials.failed)} failed, ${count(data.trials.reused)} reused`);
    table?.grown(data.trials.measured);
    if (!table && !asked && data.trials.measured) {
      asked = true;
      sections(false).catch(() => (asked = false));
    }
  }
  if (best) $("time").hidden = false;
  chart.add(data);
}

if (!ENDED.includes(page.dataset.state)) follow();
