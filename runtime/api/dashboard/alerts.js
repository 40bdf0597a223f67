// What blocks, and what clears it.

import { want } from "./actions.js";
import { part } from "./api.js";
import { h, number, size } from "./dom.js";

function alert(what, help, ...buttons) {
  return h("div.alert", h("p", what), help && h("p.quiet", help), buttons.length > 0 && h("div.actions", buttons));
}

function mild(element) {
  element.classList.add("mild");
  return element;
}

function resume(name) {
  return h("button", { onclick: () => want(name, "resume") }, "Resume");
}

function skip(name) {
  return h("button", { onclick: () => want(name, "resume-past") }, "Skip it");
}

/** What stands still of a pipeline, or will soon. */
export function ofPipeline(p) {
  const found = [];
  const link = h("a", { href: `#/pipelines/${part(p.name)}` }, p.name);
  if (p.held) {
    const dead = p["dead-letter-topic"] && h("a", { href: `#/pipelines/${part(p.name)}/dead` }, "Dead letters");
    found.push(alert([link, ` is held: ${p.held}`], dead && [dead, " groups what failed by cause."], resume(p.name)));
  }
  if (p.state === "paused") found.push(mild(alert([link.cloneNode(true), " is paused."], null, resume(p.name))));
  const { problem, probation } = p.reload ?? {};
  if (problem) found.push(mild(alert([link.cloneNode(true), ` goes on as it was: ${problem}`], "A changed file is tried anew.")));
  if (probation) {
    const held = probation["holds-outputs"] ? " Nothing is committed before it has passed." : "";
    found.push(mild(alert([`Generation ${p.generation} of `, link.cloneNode(true),
      ` is on probation: ${number(probation.batches)} of ${number(probation.of)} batches.${held}`])));
  }
  for (const lane of p.partitions) {
    const at = [link.cloneNode(true), ` on ${lane.topic}/${lane.partition}`];
    const halted = lane.halted;
    if (halted && !(p.held && halted.kind === "breaker")) {
      const event = halted.kind === "event" && h("a", { href: eventAt(lane, halted.offset) }, "Look at the event");
      const help = halted.kind === "damage" ? "Stop the node and run `sluice fsck`: it explains what is damaged." : event;
      const buttons = halted.kind === "damage" ? [] : ["event", "timer"].includes(halted.kind) ? [resume(p.name), skip(p.name)] : [resume(p.name)];
      found.push(alert([at, ` is halted at offset ${number(halted.offset)}: ${halted.reason}`], help, ...buttons));
    }
    if (lane.retrying) {
      const { offset, attempts, reason } = lane.retrying;
      found.push(mild(alert([at, ` tries offset ${number(offset)} again, which has failed ${attempts} times: ${reason}`],
        h("a", { href: eventAt(lane, offset) }, "Look at the event"))));
    }
    if (lane["waits-for"]) found.push(mild(alert([at, ` waits and goes on by itself: ${lane["waits-for"]}`])));
  }
  return found;
}

function eventAt(lane, offset) {
  return `#/topics/${part(lane.topic)}?partition=${lane.partition}&from=${offset}`;
}

/** The same of a node, with what is not a pipeline's. */
export function ofNode(status) {
  const holds = status.holds.map((hold) => mild(alert(
    `Retention of ${hold.topic}/${hold.partition} is held at offset ${number(hold.cursor)} by ${hold.pipeline}: ${size(hold.bytes)} would go.`,
    "Let it read them, rewind it to latest, or delete the pipeline.")));
  const damaged = status.damaged.map((file) => alert(`Damaged, its partition is stopped: ${file}`, "Run `sluice fsck` when the node has stopped."));
  const refused = (status.refused ?? []).map((problem) => mild(alert(`A definition is not taken: ${problem}`)));
  return [...status.pipelines.flatMap(ofPipeline), ...holds, ...damaged, ...refused];
}
