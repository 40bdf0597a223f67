// Everything that changes something: each asks first, and shows the command line that does the same.

import { order, part } from "./api.js";
import { h, number, table } from "./dom.js";

/** Tells for a while what was done. */
export function tell(text) {
  const told = document.getElementById("told");
  told.textContent = text;
  clearTimeout(tell.timer);
  tell.timer = setTimeout(() => { told.textContent = ""; }, 6000);
}

/** What went wrong, and what to do about it. */
export function problem(error) {
  return h("div.alert", { role: "alert" }, h("p", error.message), error.help && h("p", error.help));
}

/** A word of a command line, quoted where a shell would split it. */
function word(text) {
  return /^[\w.:\/@=+-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

export function command(...words) {
  return ["sluice", ...words].map(word).join(" ");
}

/**
 * Asks before something is done. `parts` are shown above the command line; `line()` is that, or null while it is not known;
 * `run()` does it, and what it returns is told.
 */
export function ask({ title, parts, line, confirm, bad, run }) {
  const shown = h("pre", { "aria-label": "The command line that does the same" });
  const failed = h("div");
  const go = h(bad ? "button.bad" : "button.first", { type: "submit", value: "go" }, confirm);
  const refresh = () => {
    const text = line();
    shown.textContent = text ?? "";
    go.disabled = text === null;
  };
  const close = () => dialog.close();
  const form = h("form", { method: "dialog", onsubmit: (event) => { event.preventDefault(); doIt(); } },
    h("h2", { id: "asked" }, title), parts, h("p.quiet", "The command line that does the same:"), shown, failed,
    h("div.actions", go, h("button", { type: "button", onclick: close }, "Cancel")));
  const dialog = h("dialog", { "aria-labelledby": "asked" }, form);
  dialog.addEventListener("close", () => dialog.remove());
  const doIt = async () => {
    go.disabled = true;
    try {
      const done = await run();
      close();
      tell(done);
      document.dispatchEvent(new Event("changed"));
    } catch (error) {
      failed.replaceChildren(problem(error));
      go.disabled = false;
    }
  };
  document.body.append(dialog);
  refresh();
  dialog.showModal();
  return refresh;
}

const WANTS = {
  pause: ["Pause", "It finishes what is in hand and then stands still, also after a restart, until it is resumed.", "pauses"],
  resume: ["Resume", "It goes on where it is, and tries again what it stands still at.", "goes on"],
  drain: ["Drain", "It deals with all that is there now, and then stands still until it is resumed.", "drains"],
  "resume-past": ["Skip", "It passes over the event that blocks it. That event is counted as skipped, and has no effects.", "goes on behind what blocked it"],
};

/** Pause, resume, drain, skip. */
export function want(pipeline, what) {
  const [title, about, done] = WANTS[what];
  const words = what === "resume-past" ? ["resume", pipeline, "--skip"] : [what, pipeline];
  ask({
    title: `${title} ${pipeline}?`, parts: h("p", about), confirm: title, line: () => command("pipeline", ...words),
    run: async () => {
      await order("PUT", `pipelines/${part(pipeline)}/desired`, what);
      return `${pipeline} ${done}`;
    },
  });
}

/** Takes out what is in force. */
export function rollBack(pipeline) {
  ask({
    title: `Roll ${pipeline} back?`, confirm: "Roll back", line: () => command("plugin", "rollback", pipeline),
    parts: h("p", "The generation in force is taken out, and the last good one before it goes on. What stands in the files is not taken again before it changes."),
    run: async () => {
      const { generation } = await order("POST", `pipelines/${part(pipeline)}/rollback`);
      return `generation ${generation} of ${pipeline} is in force`;
    },
  });
}

/** Rewind, with a look at what it would do first. */
export function rewind(pipeline, to = "", hasState = false) {
  const target = h("input", { name: "to", value: to, placeholder: "earliest", size: 34, required: true });
  const kept = h("select", h("option", { value: "restore" }, "as it was there"), h("option", { value: "reset" }, "begin empty"));
  const into = h("input", { placeholder: "the pipeline's sinks", size: 22 });
  const shown = h("div", { "aria-live": "polite" });
  let asked = null;
  const request = (really) => ({
    to: target.value.trim(), really, ...(hasState && { state: kept.value }), ...(into.value.trim() && { into: into.value.trim() }),
  });
  const look = async () => {
    try {
      const would = await order("POST", `pipelines/${part(pipeline)}/rewind`, request(false));
      asked = JSON.stringify(request(false));
      shown.replaceChildren(moves(would));
    } catch (error) {
      asked = null;
      shown.replaceChildren(problem(error));
    }
    refresh();
  };
  const changed = () => { asked = null; shown.replaceChildren(); refresh(); };
  for (const field of [target, kept, into]) field.addEventListener("input", changed);
  const words = () => {
    const { to, state, into } = request(true);
    const where = to === "undo" ? ["--undo"] : ["--to", to];
    return ["rewind", pipeline, ...where, ...(state === "reset" ? ["--state", "reset"] : []), ...(into ? ["--into", into] : []), "--yes"];
  };
  const undo = to === "undo";
  const refresh = ask({
    title: undo ? `Undo the last rewind of ${pipeline}?` : `Rewind ${pipeline}?`,
    parts: [
      undo
        ? h("p", "Cursors and state go back to where they were just before it. What was appended meanwhile stays.")
        : h("p", "Cursors and state go back while the pipeline runs. What it has written stays: outputs of what it reads again are appended again, or to a topic of their own."),
      undo ? null : h("div.actions",
        h("label", "To: earliest, latest, OFFSET, PARTITION:OFFSET, a time, checkpoint:NAME", target),
        hasState ? h("label", "State", kept) : null, h("label", "Outputs go to", into)),
      h("div.actions", h("button", { type: "button", onclick: look }, "Show what it would do")), shown,
    ],
    // It is not done before somebody has seen what it does.
    line: () => (asked === null ? null : command(...words())), confirm: undo ? "Undo" : "Rewind", bad: true,
    run: async () => {
      const request = JSON.parse(asked);
      await order("POST", `pipelines/${part(pipeline)}/rewind`, { ...request, really: true });
      return undo ? `the last rewind of ${pipeline} is undone` : `${pipeline} is rewound to ${request.to}`;
    },
  });
  if (undo) look();
}

function moves(would) {
  const rows = would.moves.map((move) => [move.topic, move.partition, number(move.from), number(move.to), difference(move)]);
  return h("div", table("What would move", [["Topic"], ["Partition", true], ["Cursor", true], ["Goes to", true], ["Events", true]], rows));
}

function difference({ from, to }) {
  return to <= from ? `${number(from - to)} again` : `${number(to - from)} passed over`;
}

/** Makes a checkpoint. */
export function checkpoint(pipeline) {
  const name = h("input", { required: true, pattern: "[A-Za-z0-9_\\-][A-Za-z0-9._\\-]*", placeholder: "before-noon" });
  const refresh = ask({
    title: pipeline ? `Make a checkpoint of ${pipeline}?` : "Make a checkpoint of all pipelines?",
    parts: [h("p", "Cursors and state as of one commit, to come back to. Pipelines run on while it is made."), h("label", "Name", name)],
    line: () => (name.value ? command("checkpoint", "create", name.value, ...(pipeline ? ["--pipeline", pipeline] : [])) : null),
    confirm: "Make it",
    run: async () => {
      await order("POST", "checkpoints", { name: name.value, pipeline: pipeline ?? null });
      return `checkpoint ${name.value} is made`;
    },
  });
  name.addEventListener("input", refresh);
}

export function deleteCheckpoint(name) {
  ask({
    title: `Delete the checkpoint ${name}?`, parts: h("p", "Nobody can come back to it then."), confirm: "Delete", bad: true,
    line: () => command("checkpoint", "delete", name),
    run: async () => {
      await order("DELETE", `checkpoints/${part(name)}`);
      return `checkpoint ${name} is deleted`;
    },
  });
}

/** Redrives or discards dead letters: all, or those of a cause. */
export function treat(pipeline, treatment, cause) {
  const title = treatment === "redrive" ? "Redrive" : "Discard";
  const about = treatment === "redrive"
    ? "They go through the pipeline once more, each exactly once, with the plugin that runs now. What fails again is a new dead letter."
    : "They are given up: nobody can redrive them then. They stay readable in their topic.";
  const selection = cause ? { cause: cause.id } : { all: true };
  ask({
    title: cause ? `${title} ${number(cause.count)} dead letters of this cause?` : `${title} all open dead letters of ${pipeline}?`,
    parts: [cause && h("p", h("code", cause.reason)), h("p", about)], confirm: title, bad: treatment === "discard",
    line: () => command("dead", treatment, pipeline, ...(cause ? ["--cause", cause.id] : ["--all"]), "--yes"),
    run: async () => {
      const done = await order("POST", `pipelines/${part(pipeline)}/dead/${treatment}`, { selection, really: true });
      return treatment === "redrive" ? `${number(done.count)} dead letters are sent through again` : `${number(done.count)} dead letters are given up`;
    },
  });
}

