// What devices do now, brought up to date in place: the page is asked for again, and parts that changed are exchanged.

import { fragment } from "./api.js";
import { times } from "./main.js";

const EVERY = 3000; // ms
const here = location.pathname.slice((document.documentElement.dataset.root || "").length);

async function refresh() {
  if (!document.hidden) {
    try {
      const fresh = new DOMParser().parseFromString(await fragment(here), "text/html");
      for (const part of fresh.querySelectorAll("[data-live-part]")) {
        const old = document.querySelector(`[data-live-part="${CSS.escape(part.dataset.livePart)}"]`);
        if (!old || old.contains(document.activeElement)) continue;
        times(part);
        if (old.innerHTML !== part.innerHTML) old.replaceChildren(...part.childNodes);
      }
    } catch {
      // The next round tries again.
    }
  }
  setTimeout(refresh, EVERY);
}

setTimeout(refresh, EVERY);
