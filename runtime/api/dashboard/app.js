// Which page is shown, and how the node stands: asked for every two seconds, while somebody looks.

import { problem } from "./actions.js";
import { get, hasToken, useToken } from "./api.js";
import { checkpoints } from "./checkpoints.js";
import { dead } from "./dead.js";
import { h, patch } from "./dom.js";
import { overview } from "./overview.js";
import { pipeline } from "./pipeline.js";
import { topic, topics } from "./topics.js";

const EVERY = 2000;
const PAGES = [
  [/^#?\/?$/, overview],
  [/^#\/topics$/, topics],
  [/^#\/topics\/([^/?]+)(?:\?(.*))?$/, topic],
  [/^#\/checkpoints$/, checkpoints],
  [/^#\/pipelines\/([^/?]+)$/, pipeline],
  [/^#\/pipelines\/([^/?]+)\/dead$/, dead],
];

const main = document.getElementById("main");
let page, leave = new AbortController(), asking = null;

/** How the node stood last, and how fast pipelines were between the last two looks. */
const seen = { status: null, at: 0, rates: new Map() };

function show() {
  leave.abort();
  leave = new AbortController();
  const hash = location.hash;
  const [pattern, make] = PAGES.find(([pattern]) => pattern.test(hash)) ?? PAGES[0];
  const [, name, query] = hash.match(pattern) ?? [];
  page = make({ main, signal: leave.signal, name: name && decodeURIComponent(name), query: new URLSearchParams(query) });
  document.title = name ? `${decodeURIComponent(name)} – Sluicegate` : "Sluicegate";
  for (const link of document.querySelectorAll("header nav a")) {
    const own = link.getAttribute("href");
    const here = own === "#/" ? !/^#\/(topics|checkpoints)/.test(hash) : hash.startsWith(own);
    here ? link.setAttribute("aria-current", "page") : link.removeAttribute("aria-current");
  }
  if (seen.status) page.update?.(seen.status, seen.rates);
}

function measure(status, at) {
  const seconds = (at - seen.at) / 1000;
  const rates = new Map();
  for (const now of status.pipelines) {
    const before = seen.status?.pipelines.find((p) => p.name === now.name);
    // A rewind takes nothing back of what was counted, a restart does.
    const since = (field) => (before && seconds > 0 ? Math.max(now[field] - before[field], 0) / seconds : null);
    rates.set(now.name, { read: since("read"), written: since("written") });
  }
  Object.assign(seen, { status, at, rates });
}

async function look() {
  const node = document.getElementById("node");
  try {
    const status = await get("status");
    measure(status, performance.now());
    const bad = status.pipelines.filter((p) => ["halted", "held"].includes(p.state)).length + status.damaged.length;
    node.textContent = `process ${status.pid}${bad ? ` · ${bad} blocked` : " · all well"}`;
    page.update?.(seen.status, seen.rates);
  } catch (error) {
    node.textContent = error.status === 0 ? "no answer" : "";
    if (error.status === 401) return ask(error);
    if (!seen.status) patch(main, problem(error));
  }
  setTimeout(() => (document.hidden ? document.addEventListener("visibilitychange", look, { once: true }) : look()), EVERY);
}

/** Asks for a token; until there is one, no page is shown. */
function ask(error) {
  asking = error;
  leave.abort();
  const token = h("input", { type: "password", size: 50, required: true, autocomplete: "off" });
  const submit = (event) => {
    event.preventDefault();
    useToken(token.value.trim());
    asking = null;
    seen.status = null;
    patch(main, h("p", "Asking the node…"));
    show();
    look();
  };
  const wrong = hasToken() && problem(error);
  main.replaceChildren(h("div.card", h("h1", "This node asks for a token"), wrong,
    h("p", "Make one with ", h("code", "sluice token create NAME operate"), ". The browser keeps it until this tab is closed."),
    h("form.row", { onsubmit: submit }, h("label", "Token", token), h("button.first", { type: "submit" }, "Go on"))));
  token.focus();
}

window.addEventListener("hashchange", () => {
  if (asking) return ask(asking);
  show();
  main.focus();
});
document.addEventListener("changed", async () => {
  try {
    measure(await get("status"), performance.now());
    page.update?.(seen.status, seen.rates);
    page.changed?.();
  } catch { /* The next look tells. */ }
});
show();
look();
