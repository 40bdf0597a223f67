// Write Sluicegate consumers in JavaScript or TypeScript: the default export of `src/consumer.js` or `src/consumer.ts`.
//
//     import { decode, encode } from 'sluice';
//
//     export default {
//       process(event, out) {
//         out.send(event.key, encode(decode(event.value).toUpperCase()));
//       },
//     };
//
// What is thrown is a failure of that one event: all that it sent, set and changed is undone, and the other events go on. Its stack goes into the dead
// letter. `throw new Failure('why')` says it in words, `throw new Transient('why')` that trying again may help: the events behind wait meanwhile.
//
// A consumer that is configured has an `init(config)`, which is given the stage's `config`; one that sets timers a `fire(timer, out)`; one whose state changes its
// shape a `stateVersion` and a `migrate(version, entry)`, which returns the entries that stand in the place of one. Types are in `sluice.d.ts`.

import * as hostLog from 'sluicegate:plugin/log@1.1.0';
import * as hostProgress from 'sluicegate:plugin/progress@1.1.0';
import { state as hostState, timers as hostTimers } from './imports.js';

export class Failure extends Error {}

export class Transient extends Failure {}

/** The bytes of a text, in UTF-8. */
export function encode(text) {
  const escaped = encodeURIComponent(text);
  const bytes = new Uint8Array(escaped.length);
  let length = 0;
  for (let at = 0; at < escaped.length; at++) {
    if (escaped[at] === '%') {
      bytes[length++] = parseInt(escaped.slice(at + 1, at + 3), 16);
      at += 2;
    } else {
      bytes[length++] = escaped.charCodeAt(at);
    }
  }
  return bytes.slice(0, length);
}

/** The text of bytes in UTF-8; a failure where they are not. */
export function decode(bytes) {
  const parts = [];
  let units = [];
  const fail = (at) => {
    throw new Failure(`not UTF-8, at byte ${at}`);
  };
  for (let at = 0; at < bytes.length; ) {
    const first = bytes[at];
    let code = first;
    let more = 0;
    if (first >= 0xf0 && first < 0xf5) [code, more] = [first & 7, 3];
    else if (first >= 0xe0 && first < 0xf0) [code, more] = [first & 15, 2];
    else if (first >= 0xc2 && first < 0xe0) [code, more] = [first & 31, 1];
    else if (first >= 0x80) fail(at);
    for (let next = 1; next <= more; next++) {
      const byte = bytes[at + next];
      if (byte === undefined || (byte & 0xc0) !== 0x80) fail(at);
      code = (code << 6) | (byte & 63);
    }
    const least = [0, 0x80, 0x800, 0x10000][more];
    if (code < least || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) fail(at);
    at += 1 + more;
    if (code < 0x10000) units.push(code);
    else units.push(0xd7c0 + (code >> 10), 0xdc00 | (code & 0x3ff));
    if (units.length > 4000) {
      parts.push(String.fromCharCode(...units));
      units = [];
    }
  }
  parts.push(String.fromCharCode(...units));
  return parts.join('');
}

/** Writes a line to the node's log: trace, debug, info, warn or error. */
export function log(line, level = 'info') {
  hostLog.write(level, String(line));
}

let origin;

/** Keyed state of some name, with the capability `state`. */
export class State {
  constructor(name) {
    this.prefix = encode(`${name}/`);
  }

  full(key) {
    const whole = new Uint8Array(this.prefix.length + key.length);
    whole.set(this.prefix);
    whole.set(key, this.prefix.length);
    return whole;
  }

  /** The value of a key; undefined where there is none. */
  get(key) {
    return hostState.get([this.full(key)])[0] ?? undefined;
  }

  set(key, value) {
    hostState.set(origin, this.full(key), value, undefined);
  }

  /** Until so many milliseconds after the time of the event or timer in hand. */
  setFor(key, value, millis) {
    hostState.set(origin, this.full(key), value, millis);
  }

  delete(key) {
    hostState.delete(origin, this.full(key));
  }

  /** What is kept under keys that begin with `prefix`, in their order. */
  *scan(prefix = new Uint8Array()) {
    let after;
    for (;;) {
      const entries = hostState.scan(this.full(prefix), after, 1000, 1 << 20);
      if (entries.length === 0) return;
      for (const { key, value } of entries) yield [key.slice(this.prefix.length), value];
      after = entries[entries.length - 1].key;
    }
  }
}

/** Sets a timer, with the capability `timers`; one with the same key and tag is replaced. */
export function setTimer(time, key, tag = new Uint8Array(), clock = 'event-time') {
  hostTimers.set(origin, clock, time, key, tag);
}

export function clearTimer(key, tag = new Uint8Array()) {
  hostTimers.clear(origin, key, tag);
}

/** A stack with lines of the sources: `sluice plugin build` adds to the bundle where its lines come from. */
function placed(stack) {
  const { sources, lines } = globalThis.sluicePlaces ?? { sources: [], lines: [] };
  return stack.replace(/[^\s(]*bundle\.js:(\d+):\d+/g, (whole, number) => {
    const [source, line] = lines[number - 1] ?? [];
    return line === undefined ? whole : `${sources[source]}:${line}`;
  });
}

function told(error) {
  if (error instanceof Failure) return error.message;
  if (!(error instanceof Error)) return String(error);
  return `${error.name}: ${error.message}\n${placed(error.stack)}`.trimEnd();
}

class Outputs {
  sent = [];

  send(key, value, { sink, timestamp, headers = [] } = {}) {
    this.sent.push({
      origin,
      sink,
      timestamp: timestamp === undefined ? undefined : timestamp,
      key: key ?? undefined,
      value,
      headers: headers.map(([name, bytes]) => ({ name, value: bytes })),
    });
  }
}

/** What the contract wants of a consumer; for `plugin.js`. */
export function plugin(consumer) {
  // Deals with one; whether the call goes on behind it.
  const deal = (of, outcome, call) => {
    const out = new Outputs();
    origin = of;
    hostProgress.at(origin);
    try {
      call(out);
    } catch (error) {
      const kind = error instanceof Transient ? 'transient' : 'permanent';
      outcome.failures.push({ origin, kind, reason: told(error) });
      return kind === 'permanent';
    }
    for (const sent of out.sent) outcome.outputs.push(sent);
    return true;
  };
  const handler = {
    process(events, timers) {
      const outcome = { processed: 0, fired: 0, outputs: [], failures: [] };
      for (const timer of timers) {
        const given = { time: Number(timer.time), clock: timer.clock, key: timer.key, tag: timer.tag };
        const of = { tag: 'timer', val: outcome.fired };
        if (!deal(of, outcome, (out) => consumer.fire(given, out))) break;
        outcome.fired++;
      }
      for (const event of events) {
        const given = {
          topic: event.topic,
          partition: event.partition,
          offset: Number(event.offset),
          timestamp: Number(event.timestamp),
          key: event.key ?? undefined,
          value: event.value,
          headers: event.headers.map(({ name, value }) => [name, value]),
        };
        if (!deal({ tag: 'input', val: outcome.processed }, outcome, (out) => consumer.process(given, out))) break;
        outcome.processed++;
      }
      return outcome;
    },
  };
  const lifecycle = {
    init(config) {
      try {
        if (consumer.init) consumer.init(JSON.parse(config));
        else if (config !== '{}') throw new Failure('config: this consumer takes none');
      } catch (error) {
        throw told(error);
      }
    },
  };
  const versionedState = {
    version: () => consumer.stateVersion ?? 0,
    migrate(from, entries) {
      try {
        const one = ({ key, value, expires }) => ({ key, value, expires: expires == null ? undefined : Number(expires) });
        const other = ({ key, value, expires }) => ({ key, value, expires: expires ?? undefined });
        return entries.flatMap((entry) => consumer.migrate(from, one(entry)).map(other));
      } catch (error) {
        throw told(error);
      }
    },
  };
  return { handler, lifecycle, versionedState };
}
