// All checkpoints.

import { checkpoint, deleteCheckpoint, problem } from "./actions.js";
import { get, part } from "./api.js";
import { h, number, patch, size, table, time } from "./dom.js";

export function checkpoints({ main, signal }) {
  const refresh = async () => {
    try {
      const all = await get("checkpoints");
      if (!signal.aborted) patch(main, shown(all));
    } catch (error) {
      if (!signal.aborted) patch(main, h("h1", "Checkpoints"), problem(error));
    }
  };
  refresh();
  const timer = setInterval(refresh, 5000);
  signal.addEventListener("abort", () => clearInterval(timer));
  return { changed: refresh };
}

function shown(all) {
  const bytes = (one) => one.pipelines.flatMap((stood) => stood.partitions).reduce((sum, place) => sum + (place.state?.bytes ?? 0), 0);
  const link = (stood, at) => [at ? ", " : "", h("a", { href: `#/pipelines/${part(stood.pipeline)}` }, stood.pipeline)];
  const row = (one) => h("tr", { "data-key": one.name }, h("td", one.name), h("td", time(one.time)), h("td.number", number(one.seq)),
    h("td.wrap", one.pipelines.map(link)), h("td.number", size(bytes(one))),
    h("td", h("button.bad", { onclick: () => deleteCheckpoint(one.name), "aria-label": `Delete ${one.name}` }, "Delete")));
  return [
    h("h1", "Checkpoints"), h("div.actions", h("button", { onclick: () => checkpoint() }, "Make one of all pipelines…")),
    h("div.card", all.length
      ? table("Checkpoints", [["Name"], ["Made (UTC)"], ["Commit", true], ["Pipelines"], ["State", true], [""]], all.map(row))
      : h("p.quiet", "None yet.")),
  ];
}
