// One pipeline: what it does, what it did in the last hour, what its plugins say, and what can be done about it.

import { checkpoint, rewind, rollBack, want } from "./actions.js";
import { ofPipeline } from "./alerts.js";
import { follow, get, part } from "./api.js";
import { charts } from "./charts.js";
import { h, number, patch, rate, span, state, table, time } from "./dom.js";

/** Lines of the log that are kept on the page. */
const LINES = 500;

export function pipeline({ main, signal, name }) {
  const head = h("div"), body = h("div"), kept = h("div");
  const log = h("pre", { id: "log", tabindex: 0, "aria-label": "What plugins write to the log" });
  main.replaceChildren(head, charts(name, signal), body, kept, h("h2", "Log of its plugins"), log);
  const refresh = async () => {
    try {
      const all = await get("checkpoints");
      const own = all.filter((one) => one.pipelines.some((stood) => stood.pipeline === name));
      const generations = await get(`pipelines/${part(name)}/generations`);
      if (!signal.aborted) patch(kept, shownGenerations(name, generations), shownCheckpoints(name, own));
    } catch { /* The status tells it. */ }
  };
  refresh();
  const timer = setInterval(refresh, 10_000);
  signal.addEventListener("abort", () => clearInterval(timer));
  tail(name, log, signal);
  const update = (status, rates) => {
    const p = status.pipelines.find((p) => p.name === name);
    patch(head, p ? shownHead(p) : [h("h1", name), h("div.alert", "There is no pipeline of this name.")]);
    patch(body, p ? shownBody(p, rates.get(name)) : []);
  };
  return { update, changed: refresh };
}

function shownHead(p) {
  const hasState = p.partitions.some((lane) => lane.watermark !== null || lane.late !== null);
  const stands = ["paused", "pausing", "draining", "held", "halted"].includes(p.state) || p.desired !== "run";
  const act = (label, run) => h("button", { onclick: run, "data-key": label }, label);
  return [
    h("h1", p.name, " ", state(p.state)),
    h("div.actions",
      stands ? act("Resume", () => want(p.name, "resume")) : act("Pause", () => want(p.name, "pause")),
      act("Drain", () => want(p.name, "drain")),
      act("Rewind…", () => rewind(p.name, "", hasState)), act("Undo a rewind…", () => rewind(p.name, "undo", hasState)),
      act("Checkpoint…", () => checkpoint(p.name))),
    ofPipeline(p),
  ];
}

function shownBody(p, speed) {
  const topic = (name) => h("a", { href: `#/topics/${part(name)}` }, name);
  const list = (names) => (names.length ? names.flatMap((name, at) => [at ? ", " : "", topic(name)]) : "nowhere");
  const facts = [
    ["Reads", list(p.sources)], ["Writes to", list(p.sinks)], ["Delivery", p.delivery ?? "–"],
    ["Now", `${rate(speed?.read)} read, ${rate(speed?.written)} written`],
    ["Events", `${number(p.read)} read, of these ${number(p.committed)} with outputs, ${number(p.filtered)} without, ${number(p.dead)} dead-lettered, ${number(p.skipped)} skipped`],
    ["Failed calls", number(p["failed-calls"])],
    ["Generation", `${p.generation}, epoch ${p.epoch}`],
    ["Plugins", p.stages.map((stage, at) => h("span", at ? " → " : "", stage, " ", h("code", (p.digests[at] ?? "").slice(0, 12))))],
    p["dead-letter-topic"] && ["Dead letters", h("a", { href: `#/pipelines/${part(p.name)}/dead` }, "by cause")],
  ].filter(Boolean);
  const columns = [["Partition"], ["Cursor", true], ["High watermark", true], ["Lag", true], ["Lag, time", true], ["Watermark"], ["Late", true], ["Stands"]];
  const rows = p.partitions.map((lane) => [
    `${lane.topic}/${lane.partition}`, number(lane.cursor), number(lane["high-watermark"]), number(lane.lag), span(lane["lag-ms"]),
    time(lane.watermark), number(lane.late), lane.halted ? "halted" : lane.paused ? "paused" : lane.retrying ? "tries again" : lane["waits-for"] ? "waits" : "",
  ]);
  return [
    h("h2", "What it is"), h("div.card", table("Facts", [[""], [""]], facts.map(([what, is]) => h("tr", h("th", { scope: "row" }, what), h("td.wrap", is))))),
    h("h2", "Partitions"), h("div.card", table("Partitions", columns, rows)),
    shownErrors(p["last-errors"]),
  ];
}

function shownErrors(errors) {
  const row = (one) => [time(one.time), `${one.topic}/${one.partition}`,
    h("a", { href: `#/topics/${part(one.topic)}?partition=${one.partition}&from=${one.offset}` }, one.offset), h("td.wrap", one.reason), one.fate.replaceAll("-", " ")];
  return [h("h2", "Last errors"), h("div.card", errors.length
    ? table("Last errors", [["When (UTC)"], ["Partition"], ["Offset", true], ["Why"], ["What became of it"]], errors.map(row))
    : h("p.quiet", "None since the node started."))];
}

function shownGenerations(name, generations) {
  const row = (one) => [number(one.number), time(one.time), one.standing.replaceAll("-", " "),
    h("span", one.plugins.map((digest) => h("code", digest.slice(0, 12)))), h("td.wrap", one.reason ?? "")];
  return [h("h2", "Generations"), h("div.card", table("Generations", [["Number", true], ["Since (UTC)"], ["Standing"], ["Plugins"], ["Why it was taken out"]],
    generations.slice(-10).reverse().map(row)),
  generations.length > 1 && h("div.actions", h("button", { onclick: () => rollBack(name) }, "Roll back…")))];
}

function shownCheckpoints(name, checkpoints) {
  const row = (one) => [one.name, time(one.time), number(one.seq),
    h("div.actions", h("button", { onclick: () => rewind(name, `checkpoint:${one.name}`, true) }, "Go back to it…"))];
  return [h("h2", "Checkpoints"), h("div.card", checkpoints.length
    ? table("Checkpoints", [["Name"], ["Made (UTC)"], ["Commit", true], [""]], checkpoints.map(row))
    : h("p.quiet", "None yet."))];
}

/** Shows what plugins write, as it comes. */
async function tail(name, log, signal) {
  const add = (line) => {
    const atEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 20;
    log.append(`${time(line.time)}  ${line.level.padEnd(5)} ${line.stage}: ${line.text}\n`);
    while (log.childNodes.length > LINES) log.firstChild.remove();
    if (atEnd) log.scrollTop = log.scrollHeight;
  };
  while (!signal.aborted) {
    try {
      log.replaceChildren();
      await follow(`pipelines/${part(name)}/logs`, signal, add);
    } catch (error) {
      if (error.name === "AbortError") return;
      if (error.status === 404 || error.status === 403) { log.textContent = error.message; return; }
    }
    await new Promise((resolve) => { setTimeout(resolve, 3000); });
  }
}
