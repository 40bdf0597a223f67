// Counts visits under each key until nothing has come for a second.
import { Bytes, Clock, Consumer, Entry, Event, Outputs, State, Timer, clearTimer, fail, setTimer, start } from "../build/sdk/sluice";

const IDLE = Bytes.of("idle");
const THIRD = Bytes.of("third");

class Visits extends Consumer {
  private visits: State = new State("visits");

  private count(key: Bytes): u64 {
    const kept = this.visits.get(key);
    return kept ? U64.parseInt(kept.text()) : 0;
  }

  wants(event: Event): void {
    const key = event.key;
    if (key) this.visits.want(key);
  }

  process(event: Event, out: Outputs): bool {
    const key = event.key;
    if (!key) return fail("the event has no key");
    const before = this.count(key);
    if (event.value.length >= 4 && event.value.slice(0, 4).is("who ")) {
      const found = this.visits.scan(event.value.slice(4));
      for (let at = 0; at < found.length; at++) if (!out.send(found[at].key, found[at].value)) return false;
      return true;
    }
    if (event.value.is("bye")) {
      this.visits.delete(key);
      clearTimer(key, IDLE);
      clearTimer(key, THIRD);
      return out.send(key, Bytes.of(`bye ${before}`));
    }
    this.visits.set(key, Bytes.of((before + 1).toString()));
    setTimer(Clock.EventTime, event.timestamp + 1000, key, IDLE);
    if ((before + 1) % 3 == 0) setTimer(Clock.EventTime, event.timestamp + 500, key, THIRD);
    // All of it is undone.
    return event.value.is("bad") ? fail("a bad visit") : true;
  }

  fire(timer: Timer, out: Outputs): bool {
    const count = this.count(timer.key);
    if (timer.tag.equals(IDLE)) this.visits.delete(timer.key);
    return out.send(timer.key, Bytes.of(`${timer.tag.text()} ${count} at ${timer.time}`));
  }

  stateVersion(): u32 {
    return 1;
  }

  /** Version 0 kept them under `visit`, and those that had left as 0. */
  migrate(version: u32, entry: Entry, into: Entry[]): bool {
    for (let at = 0; at < entry.value.length; at++) {
      if (entry.value[at] < 0x30 || entry.value[at] > 0x39) return fail("what is kept is no count");
    }
    if (entry.value.is("0")) return true;
    const name = Bytes.of("visits"), rest = entry.key.slice("visit".length);
    const key = Bytes.make(name.length + rest.length);
    memory.copy(key.ptr, name.ptr, name.length);
    memory.copy(key.ptr + name.length, rest.ptr, rest.length);
    into.push(new Entry(key, entry.value, entry.expires));
    return true;
  }
}

start(new Visits());

export * from "../build/sdk/exports";
