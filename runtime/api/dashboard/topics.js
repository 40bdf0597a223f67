// Topics, and what is in them.

import { problem } from "./actions.js";
import { get, part } from "./api.js";
import { h, number, patch, pretty, size, span, table, text, time } from "./dom.js";

/** Events on a page, and how many are looked through for a key before the reader is asked. */
const PAGE = 50, READ = 1000, LOOKED = 100_000;

export function topics({ main, signal }) {
  const refresh = async () => {
    try {
      const all = await get("topics");
      if (!signal.aborted) patch(main, h("h1", "Topics"), h("div.card", table("Topics", COLUMNS, all.map(row))));
    } catch (error) {
      if (!signal.aborted) patch(main, h("h1", "Topics"), problem(error));
    }
  };
  refresh();
  const timer = setInterval(refresh, 3000);
  signal.addEventListener("abort", () => clearInterval(timer));
  return {};
}

const COLUMNS = [["Topic"], ["Partitions", true], ["Events", true], ["On disk", true], ["Kept"], ["Compression"]];

function row(topic) {
  const sum = (of) => topic.partitions.reduce((total, one) => total + of(one), 0);
  return [
    h("a", { href: `#/topics/${part(topic.name)}` }, topic.name), topic.partitions.length,
    number(sum((one) => one["high-watermark"] - one["low-mark"])), size(sum((one) => one.bytes)), keeps(topic), topic.compression,
  ];
}

function keeps(topic) {
  const bounds = [topic["retention-age-ms"] !== null && span(topic["retention-age-ms"]), topic["retention-bytes"] !== null && `${size(topic["retention-bytes"])} each`];
  return bounds.filter(Boolean).join(", ") || "for ever";
}

export function topic({ main, signal, name, query }) {
  const partition = h("select", { name: "partition" });
  const from = h("input", { name: "from", value: query.get("from") ?? "", placeholder: "the newest", size: 26 });
  const key = h("input", { name: "key", value: query.get("key") ?? "", placeholder: "any", size: 18 });
  const about = h("div"), events = h("div.events", { "aria-live": "polite" });
  let described;

  const read = async (offset, max) => get(`topics/${part(name)}/events?partition=${partition.value}&from=${encodeURIComponent(offset)}&max=${max}`);
  const show = async (begin) => {
    events.replaceChildren(h("p.quiet", "Reading…"));
    try {
      const { found, next, high } = await (key.value ? search(begin) : page(begin));
      if (signal.aborted) return;
      const own = described.partitions[Number(partition.value)];
      const first = found.length ? found[0].offset : next;
      events.replaceChildren(
        h("div.actions",
          h("button", { type: "button", disabled: first <= own["low-mark"], onclick: () => show(Math.max(first - PAGE, own["low-mark"])) }, "Older"),
          h("button", { type: "button", disabled: next >= high, onclick: () => show(next) }, "Newer"),
          h("span.quiet", found.length ? `${number(found.length)} events, offsets ${number(first)} to ${number(found.at(-1).offset)} of ${number(high)}` : `nothing here before offset ${number(next)} of ${number(high)}`)),
        h("div.card", found.length ? found.map(event) : h("p.quiet", key.value ? "No event of this key so far." : "No events here.")));
    } catch (error) {
      if (!signal.aborted) events.replaceChildren(problem(error));
    }
  };
  const page = async (begin) => {
    const told = await read(begin, PAGE);
    return { found: told.events, next: told.next, high: told["high-watermark"] };
  };
  // A key is looked for from where the reader is, page by page.
  const search = async (begin) => {
    let at = begin, looked = 0;
    const found = [];
    for (;;) {
      const told = await read(at, READ);
      found.push(...told.events.filter((event) => text(event.key) === key.value));
      looked += told.events.length;
      at = told.next;
      if (found.length >= PAGE || at >= told["high-watermark"] || looked >= LOOKED || signal.aborted) {
        return { found, next: at, high: told["high-watermark"] };
      }
      if (!told.events.length) return { found, next: at, high: told["high-watermark"] };
    }
  };
  const begin = () => {
    const own = described.partitions[Number(partition.value)];
    // With a key, all there is; else what came last.
    if (!from.value.trim()) return key.value ? own["low-mark"] : Math.max(own["high-watermark"] - PAGE, own["low-mark"]);
    return from.value.trim();
  };
  const submit = (event) => { event.preventDefault(); refresh().then(() => show(begin())); };
  const refresh = async () => {
    try {
      described = await get(`topics/${part(name)}`);
      if (signal.aborted) return;
      patch(about, shownTopic(described));
      if (!partition.options.length) {
        partition.append(...described.partitions.map((one) => h("option", { value: String(one.partition) }, String(one.partition))));
        partition.value = query.get("partition") ?? "0";
      }
    } catch (error) {
      patch(about, problem(error));
      throw error;
    }
  };
  main.replaceChildren(h("h1", name), about, h("h2", "Events"),
    h("form.row.card", { onsubmit: submit },
      h("label", "Partition", partition), h("label", "From: an offset, a time (2026-01-31T12:00:00Z), earliest", from), h("label", "Key", key),
      h("button.first", { type: "submit" }, "Read")), events);
  refresh().then(() => show(begin()), () => {});
  const timer = setInterval(() => refresh().catch(() => {}), 3000);
  signal.addEventListener("abort", () => clearInterval(timer));
  return {};
}

function shownTopic(topic) {
  const columns = [["Partition", true], ["From offset", true], ["High watermark", true], ["Events", true], ["On disk", true], ["Damage"]];
  const rows = topic.partitions.map((one) => [
    one.partition, number(one["low-mark"]), number(one["high-watermark"]), number(one["high-watermark"] - one["low-mark"]), size(one.bytes), one.damage ?? "",
  ]);
  return [h("p.quiet", `Kept ${keeps(topic)}; compression ${topic.compression}.`), h("div.card", table("Partitions", columns, rows))];
}

/** One event: a line, and all of it when it is opened. */
function event(one) {
  const value = text(one.value) ?? "";
  const facts = [
    ["Time (UTC)", time(one.timestamp)], ["Key", text(one.key) ?? "none"],
    ...one.headers.map((header) => [`Header ${header.name}`, text(header.value)]),
    one.origin && ["Made from", h("a", { href: `#/topics/${part(one.origin.topic ?? "")}?partition=${one.origin.partition}&from=${one.origin.offset}` },
      `${one.origin.topic ?? `topic ${one.origin["topic-id"]}`}/${one.origin.partition} at ${number(one.origin.offset)}${one.origin.timer ? ", by a timer" : ""}`)],
  ].filter(Boolean);
  return h("details", h("summary", h("span.quiet", number(one.offset)), h("span", text(one.key) ?? ""), h("span.value", value.slice(0, 300))),
    h("dl", facts.map(([what, is]) => [h("dt", what), h("dd", is)])), pretty(value));
}

export { event };
