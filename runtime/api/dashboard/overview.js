// All pipelines and topics, and what blocks.

import { ofNode } from "./alerts.js";
import { get, part } from "./api.js";
import { h, number, patch, rate, span, state, table } from "./dom.js";
import { graph } from "./graph.js";

export function overview({ main, signal }) {
  let topics = [], last;
  const draw = () => last && !signal.aborted && patch(main, shown(...last, topics));
  const refresh = async () => {
    try { topics = await get("topics"); } catch { /* Those it may not know of. */ }
    draw();
  };
  refresh();
  const timer = setInterval(refresh, 4000);
  signal.addEventListener("abort", () => clearInterval(timer));
  return { update: (status, rates) => { last = [status, rates]; draw(); } };
}

function shown(status, rates, topics) {
  if (!status.pipelines.length) {
    return [h("h1", "Overview"), h("div.card", h("p", "No pipelines yet: ", h("code", "sluice run"), " starts those in ", h("code", "pipelines/"), "."))];
  }
  const columns = [["Pipeline"], ["State"], ["Lag", true], ["Lag, time", true], ["Read", true], ["Written", true], ["Dead letters", true], ["Failed calls", true], ["Generation", true]];
  const row = (p) => h("tr", { "data-key": p.name },
    h("td", h("a", { href: `#/pipelines/${part(p.name)}` }, p.name)), h("td", state(p.state)),
    [number(p.lag), span(p["lag-ms"]), rate(rates.get(p.name)?.read), rate(rates.get(p.name)?.written), number(p.dead), number(p["failed-calls"]), p.generation]
      .map((cell) => h("td.number", cell)));
  return [
    h("h1", "Overview"), ofNode(status), graph(status, topics, rates),
    h("div.card", table("Pipelines", columns, status.pipelines.map(row))),
  ];
}
