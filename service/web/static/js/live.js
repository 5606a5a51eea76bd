// What happens in a job, as it happens: server-sent events, resumed where they broke off; polling where they cannot pass.

import { get, href } from "./api.js";

const KINDS = ["state", "progress", "end"];
const ENDED = new Set(["SUCCEEDED", "FAILED", "CANCELLED"]);
const PATIENCE = 3; // streams that fail in a row before polling takes over
const POLL = 2000; // ms

/**
 * Watch a job. `onEvent(kind, data, seq)` for each event after number `after`, `onEnd(data)` once it is over,
 * `onStatus("live" | "reconnecting" | "polling")`. Gives back a function that stops. Sleeps while the tab is hidden.
 */
export function watch(job, { after = 0, onEvent = () => {}, onEnd = () => {}, onStatus = () => {} } = {}) {
  const path = `/api/v1/jobs/${encodeURIComponent(job)}/events`;
  let last = after;
  let failures = 0;
  let stream = null;
  let timer = null;
  let over = false;

  function take(kind, data, seq) {
    if (over || (seq && seq <= last)) return;
    if (seq) last = seq;
    if (kind === "end") {
      stop();
      onEnd(data);
    } else {
      onEvent(kind, data, seq);
    }
  }

  function listen() {
    stream = new EventSource(href(`${path}?after=${last}`));
    stream.onopen = () => {
      failures = 0;
      onStatus("live");
    };
    for (const kind of KINDS) {
      stream.addEventListener(kind, (event) => take(kind, JSON.parse(event.data), Number(event.lastEventId) || 0));
    }
    stream.onerror = () => {
      stream?.close();
      stream = null;
      if (over) return;
      failures += 1;
      onStatus(failures > PATIENCE ? "polling" : "reconnecting");
      timer = setTimeout(failures > PATIENCE ? poll : listen, failures > PATIENCE ? 0 : 500 * 2 ** failures);
    };
  }

  async function poll() {
    timer = null;
    try {
      const page = await get(`${path}?after=${last}`);
      for (const event of page.items) take(event.kind, event.data, event.seq);
      // Only streams say "end": here the newest event is the end if its state is one.
      const newest = page.items.at(-1);
      if (newest?.kind === "state" && ENDED.has(newest.data.state)) take("end", newest.data);
      if (!over) onStatus("polling");
    } catch {
      onStatus("reconnecting");
    }
    if (!over && !document.hidden) timer = setTimeout(poll, POLL);
  }

  function sleepOrWake() {
    clearTimeout(timer);
    timer = null;
    stream?.close();
    stream = null;
    if (over || document.hidden) return;
    if (failures > PATIENCE) poll();
    else listen();
  }

  function stop() {
    over = true;
    clearTimeout(timer);
    stream?.close();
    document.removeEventListener("visibilitychange", sleepOrWake);
  }

  document.addEventListener("visibilitychange", sleepOrWake);
  if (!document.hidden) listen();
  return stop;
}
