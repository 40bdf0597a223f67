// Topics and pipelines as a graph, from left to right.

import { part } from "./api.js";
import { h, number, rate, s } from "./dom.js";

const WIDTH = 190, HEIGHT = 52, ACROSS = 260, DOWN = 72, MARGIN = 12;

/** Who feeds whom. Dead letters and changelogs are left out: they are everywhere. */
function edges(pipelines) {
  const of = (p) => [
    ...p.sources.map((topic) => [`t/${topic}`, `p/${p.name}`, p]),
    ...p.sinks.map((topic) => [`p/${p.name}`, `t/${topic}`, p]),
  ];
  return pipelines.flatMap(of);
}

/** The column of each node: one behind all that feed it. There are no cycles; should there be one, it ends all the same. */
function columns(names, links) {
  const column = new Map(names.map((name) => [name, 0]));
  for (let round = 0; round < names.length; round += 1) {
    let moved = false;
    for (const [from, to] of links) {
      const next = Math.min(column.get(from) + 1, names.length);
      if (column.get(to) < next) { column.set(to, next); moved = true; }
    }
    if (!moved) break;
  }
  return column;
}

export function graph(status, topics, rates) {
  const links = edges(status.pipelines);
  const names = [...new Set([...status.pipelines.map((p) => `p/${p.name}`), ...links.flatMap(([from, to]) => [from, to])])];
  if (!names.length) return null;
  const column = columns(names, links);
  const rows = [], place = new Map();
  // In the order of what feeds them, so that lines cross little.
  const before = (name) => {
    const from = links.filter(([, to]) => to === name).map(([from]) => place.get(from)?.row ?? 0);
    return from.length ? from.reduce((a, b) => a + b) / from.length : 0;
  };
  for (const at of [...new Set(column.values())].sort((a, b) => a - b)) {
    const here = names.filter((name) => column.get(name) === at).sort((a, b) => before(a) - before(b) || a.localeCompare(b));
    here.forEach((name, row) => place.set(name, { at, row }));
    rows.push(here.length);
  }
  const x = (name) => MARGIN + place.get(name).at * ACROSS;
  const y = (name) => MARGIN + place.get(name).row * DOWN;
  const width = 2 * MARGIN + (rows.length - 1) * ACROSS + WIDTH, height = 2 * MARGIN + (Math.max(...rows) - 1) * DOWN + HEIGHT;
  const line = ([from, to, p]) => {
    const [x1, y1, x2, y2] = [x(from) + WIDTH, y(from) + HEIGHT / 2, x(to), y(to) + HEIGHT / 2];
    const bend = Math.max(30, (x2 - x1) / 2);
    const speed = rates.get(p.name);
    const moves = speed && (to === `p/${p.name}` ? speed.read : speed.written) > 0;
    return s(moves ? "path.edge.moving" : "path.edge", { d: `M${x1} ${y1}C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}` });
  };
  const box = (name) => {
    const own = name.slice(2), isPipeline = name.startsWith("p/");
    const p = isPipeline && status.pipelines.find((p) => p.name === own);
    const topic = !isPipeline && topics.find((topic) => topic.name === own);
    const events = topic && topic.partitions.reduce((sum, one) => sum + one["high-watermark"] - one["low-mark"], 0);
    const told = isPipeline ? `${p.state} · lag ${number(p.lag)} · ${rate(rates.get(own)?.read)}` : topic ? `${number(events)} events` : "not there yet";
    const href = isPipeline ? `#/pipelines/${part(own)}` : `#/topics/${part(own)}`;
    const label = `${isPipeline ? "Pipeline" : "Topic"} ${own}: ${told}`;
    return s(isPipeline ? `a.pipeline.${p.state}` : "a.topic", { href, "aria-label": label, "data-key": name },
      s("rect", { x: x(name), y: y(name), width: WIDTH, height: HEIGHT, rx: isPipeline ? 8 : HEIGHT / 2 }),
      s("text", { x: x(name) + 16, y: y(name) + 22 }, short(own)),
      s("text.small", { x: x(name) + 16, y: y(name) + 40 }, told));
  };
  return h("div.card.scroll.graph",
    s("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": "Topics and pipelines, and who feeds whom" },
      links.map(line), names.map(box)));
}

function short(name) {
  return name.length > 22 ? `${name.slice(0, 21)}…` : name;
}
