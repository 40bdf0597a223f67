// A pipeline's dead letters, by cause.

import { problem, treat } from "./actions.js";
import { get, part } from "./api.js";
import { h, number, patch, table, text, time } from "./dom.js";
import { event } from "./topics.js";

export function dead({ main, signal, name }) {
  const list = h("div"), one = h("div", { "aria-live": "polite" });
  main.replaceChildren(h("h1", h("a", { href: `#/pipelines/${part(name)}` }, name), " dead letters"), list, one);
  const refresh = async () => {
    try {
      const letters = await get(`pipelines/${part(name)}/dead`);
      if (!signal.aborted) patch(list, shown(name, letters, (cause) => show(letters.topic, cause)));
    } catch (error) {
      if (!signal.aborted) patch(list, problem(error));
    }
  };
  const show = async (topic, cause) => {
    const [partition, offset] = cause.example.split(":");
    try {
      const told = await get(`topics/${part(topic)}/events?partition=${partition}&from=${offset}&max=1`);
      if (!signal.aborted) one.replaceChildren(...letter(told.events[0]));
    } catch (error) {
      one.replaceChildren(problem(error));
    }
  };
  refresh();
  const timer = setInterval(refresh, 4000);
  signal.addEventListener("abort", () => clearInterval(timer));
  return { changed: refresh };
}

function shown(name, letters, look) {
  const counts = `${number(letters.open)} open, ${number(letters.redriven)} redriven, ${number(letters["dead-again"])} failed again, ${number(letters.discarded)} discarded` +
    (letters.redriving ? `; ${number(letters.redriving)} are being redriven` : "");
  const act = (label, run) => h("button", { onclick: run, "aria-label": label }, label.split(" ")[0]);
  const row = (cause) => h("tr", { "data-key": cause.id },
    h("td.number", number(cause.count)), h("td", cause.stage), h("td", cause.kind), h("td.wrap", h("code", cause.reason)), h("td", time(cause.last)),
    h("td", h("div.actions",
      act(`Show one of ${cause.id}`, () => look(cause)), act(`Redrive ${cause.id}`, () => treat(name, "redrive", cause)),
      act(`Discard ${cause.id}`, () => treat(name, "discard", cause)))));
  return [
    h("p", counts, ". They are in the topic ", h("a", { href: `#/topics/${part(letters.topic)}` }, letters.topic), "."),
    letters.causes.length
      ? [h("div.actions", h("button", { onclick: () => treat(name, "redrive") }, "Redrive all"), h("button.bad", { onclick: () => treat(name, "discard") }, "Discard all")),
        h("div.card", table("Causes", [["Letters", true], ["Stage"], ["Kind"], ["Reason"], ["Last (UTC)"], [""]], letters.causes.map(row)))]
      : h("div.card", h("p.quiet", "Nothing is open.")),
  ];
}

/** A whole one. */
function letter(found) {
  const header = found.headers.find((header) => header.name === "sluice-dead-letter");
  let told = {};
  try { told = JSON.parse(text(header?.value) ?? "{}"); } catch { /* It is shown as it is. */ }
  const facts = ["pipeline", "stage", "topic", "partition", "offset", "attempts", "reason", "panic"].filter((name) => told[name] !== undefined && told[name] !== null);
  return [
    h("h2", "One of them"),
    h("div.card.events",
      h("dl", facts.map((name) => [h("dt", name), h("dd", String(told[name]))])),
      told.backtrace?.length ? h("pre", told.backtrace.join("\n")) : null,
      event(found)),
  ];
}
