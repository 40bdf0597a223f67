// Write Sluicegate consumers in AssemblyScript.
//
//     import { Consumer, Event, Outputs, start } from "../build/sdk/sluice";
//
//     class Through extends Consumer {
//       process(event: Event, out: Outputs): bool {
//         return out.send(event.key, event.value);
//       }
//     }
//
//     start(new Through());
//
//     export * from "../build/sdk/exports";
//
// `return fail("why")` is a failure of that one event, `return failTransient("why")` one where trying again may help: all that it sent, set and changed is undone, and the
// other events go on. What throws, or runs out of bounds, ends the instance: its text, with file and line, goes to the log and into the dead letter.
//
// This is `guest-sdk/wit`'s world `versioned-batch-consumer` by hand. What events, outcomes and headers look like as bytes is told in `runtime/event`.

// @ts-ignore: decorator
@external("sluicegate:plugin/log@1.1.0", "write")
declare function hostLog(level: i32, text: usize, length: i32): void;
// @ts-ignore: decorator
@external("sluicegate:plugin/log@1.1.0", "panicked")
declare function hostPanicked(text: usize, length: i32): void;
// @ts-ignore: decorator
@external("sluicegate:plugin/progress@1.1.0", "watch")
declare function hostWatch(cell: usize, length: i32): void;
// @ts-ignore: decorator
@external("sluicegate:plugin/state@1.1.0", "get-flat")
declare function hostGetFlat(keys: usize, length: i32, result: usize): void;
// @ts-ignore: decorator
@external("sluicegate:plugin/state@1.1.0", "scan")
declare function hostScan(prefix: usize, length: i32, hasAfter: i32, after: usize, afterLength: i32, limit: i32, maxBytes: i32, result: usize): void;

// ---- What a consumer speaks of ----

/** Bytes that lie somewhere; those of an event are valid during the call. */
export class Bytes {
  /** What they are part of, where that is to stay. */
  private owner: ArrayBuffer | null = null;

  constructor(public ptr: usize, public length: i32) {}

  /** New ones, all 0. */
  static make(length: i32): Bytes {
    const owner = new ArrayBuffer(length);
    const bytes = new Bytes(changetype<usize>(owner), length);
    bytes.owner = owner;
    return bytes;
  }

  /** Those of a text, in UTF-8. */
  static of(text: string): Bytes {
    const owner = String.UTF8.encode(text);
    const bytes = new Bytes(changetype<usize>(owner), owner.byteLength);
    bytes.owner = owner;
    return bytes;
  }

  @operator("[]")
  get(index: i32): u8 {
    return load<u8>(this.ptr + index);
  }

  @operator("[]=")
  set(index: i32, value: u8): void {
    store<u8>(this.ptr + index, value);
  }

  /** The same bytes, elsewhere. */
  slice(from: i32 = 0, to: i32 = this.length): Bytes {
    const bytes = Bytes.make(to - from);
    memory.copy(bytes.ptr, this.ptr + from, to - from);
    return bytes;
  }

  /** The text that they are in UTF-8. */
  text(): string {
    return String.UTF8.decodeUnsafe(this.ptr, this.length);
  }

  equals(other: Bytes): bool {
    return this.length == other.length && memory.compare(this.ptr, other.ptr, this.length) == 0;
  }

  is(text: string): bool {
    if (text.length != this.length) return false;
    for (let at = 0; at < text.length; at++) if (text.charCodeAt(at) != <i32>this[at]) return false;
    return true;
  }
}

export class Header {
  constructor(public name: Bytes, public value: Bytes) {}
}

/** An event as a consumer gets it. It is the next one as soon as `process` has returned: who wants to keep something copies it. */
export class Event {
  topic: string = "";
  partition: u32 = 0;
  offset: u64 = 0;
  /** Milliseconds since the epoch, as the producer said. */
  timestamp: i64 = 0;
  /** Null where there is none: absent and empty differ. */
  key: Bytes | null = null;
  value: Bytes = new Bytes(0, 0);
  /** Where the key lies, if there is one. */
  ownKey: Bytes = new Bytes(0, 0);
  headerCount: i32 = 0;
  table: usize = 0;

  headers(): Header[] {
    const headers: Header[] = [];
    let data = this.value.ptr + this.value.length;
    for (let at = 0; at < this.headerCount; at++) {
      const name = new Bytes(data, load<i32>(this.table + 8 * at));
      const value = new Bytes(data + name.length, load<i32>(this.table + 8 * at, 4));
      headers.push(new Header(name, value));
      data += name.length + value.length;
    }
    return headers;
  }
}

/** Which time a timer goes by: the partition's watermark, or the time of day. */
export enum Clock {
  EventTime = 0,
  WallClock = 1,
}

/** A timer that is due. */
export class Timer {
  constructor(public clock: Clock, public time: i64, public key: Bytes, public tag: Bytes) {}
}

/** A value in the state, as it is brought from one version to the next. The key is the whole one, NAME/KEY. */
export class Entry {
  constructor(public key: Bytes, public value: Bytes, public expires: i64 = 0) {}
}

/** What a plugin consists of. */
export class Consumer {
  /** Takes the stage's `config`, as JSON. Without it, a plugin takes none. */
  init(config: Bytes): bool {
    return config.is("{}") || fail("config: this consumer takes none");
  }

  /** Deals with an event. */
  process(event: Event, out: Outputs): bool {
    return fail("the consumer has no process");
  }

  /** Deals with a timer that is due. */
  fire(timer: Timer, out: Outputs): bool {
    return fail("a timer fired, and the consumer has no fire");
  }

  /** Names with `State.want` what an event will read of the state, so that it is fetched for the whole batch at once. */
  wants(event: Event): void {}

  stateVersion(): u32 {
    return 0;
  }

  /** Brings over a value of an older version: what is pushed stands in its place. */
  migrate(version: u32, entry: Entry, into: Entry[]): bool {
    return fail("the consumer has no migrate");
  }
}

/** Says why the event or timer in hand has failed, and is what is to be returned then. */
export function fail(reason: string): bool {
  failure = reason;
  isTransient = false;
  return false;
}

/** The same, where trying again may help. */
export function failTransient(reason: string): bool {
  failure = reason;
  isTransient = true;
  return false;
}

export enum Level {
  Trace = 0,
  Debug = 1,
  Info = 2,
  Warn = 3,
  Error = 4,
}

/** Writes a line to the node's log. */
export function log(level: Level, line: string): void {
  const text = Bytes.of(line);
  hostLog(level, text.ptr, text.length);
}

/** Where a throw, and whatever the language itself finds wrong, ends. */
export function abort(message: string | null, file: string | null, line: u32, column: u32): void {
  const text = Bytes.of(`${message ? message : "aborted"} (${file ? file : "?"}:${line}:${column})`);
  hostPanicked(text.ptr, text.length);
  unreachable();
}

// ---- Outputs ----

/** Bytes that grow. */
class Buffer {
  ptr: usize = 0;
  length: i32 = 0;
  private room: i32 = 0;

  grow(more: i32): usize {
    if (this.room - this.length < more) {
      this.room = max((this.room + more) * 2, 4096);
      this.ptr = this.ptr == 0 ? heap.alloc(this.room) : heap.realloc(this.ptr, this.room);
    }
    const at = this.ptr + this.length;
    this.length += more;
    return at;
  }

  add(from: usize, length: i32): void {
    memory.copy(this.grow(length), from, length);
  }

  /** Fills what began at `start` up to a multiple of 8, and says there how long it is. */
  end(start: i32): void {
    const more = -(this.length - start) & 7;
    memory.fill(this.grow(more), 0, more);
    store<u32>(this.ptr + start, this.length - start);
  }
}

/** An event to be sent. What is not set is: the pipeline's first sink, the time of the event or timer in hand, no key, no headers. */
export class Output {
  sink: string | null = null;
  hasTimestamp: bool = false;
  timestamp: i64 = 0;
  key: Bytes | null = null;
  headers: Header[] = [];

  constructor(public value: Bytes) {}
}

const NO_HEADERS: Header[] = [];

/** Takes what a consumer sends. */
export class Outputs {
  send(key: Bytes | null, value: Bytes): bool {
    return this.write(null, now, key, value, NO_HEADERS);
  }

  put(output: Output): bool {
    const time = output.hasTimestamp ? output.timestamp : now;
    return this.write(output.sink, time, output.key, output.value, output.headers);
  }

  private write(sink: string | null, timestamp: i64, key: Bytes | null, value: Bytes, headers: Header[]): bool {
    const keyLength = key ? key.length : 0;
    let length = 48 + 8 * headers.length + keyLength + value.length;
    for (let at = 0; at < headers.length; at++) length += headers[at].name.length + headers[at].value.length;
    const padded = (length + 7) & ~7;
    let at = outputs.grow(padded);
    const end = at + padded;
    store<u32>(at, padded);
    store<u16>(at, key ? 3 : 2, 4);
    store<u16>(at, <u16>headers.length, 6);
    store<i64>(at, timestamp, 8);
    store<u32>(at, keyLength, 16);
    store<u32>(at, value.length, 20);
    store<u32>(at, sinkOf(sink), 24);
    store<u32>(at, 0, 28);
    store<u64>(at, index, 32);
    store<u32>(at, 0, 40);
    store<u32>(at, source, 44);
    at += 48;
    for (let i = 0; i < headers.length; i++, at += 8) {
      store<u32>(at, headers[i].name.length);
      store<u32>(at, headers[i].value.length, 4);
    }
    if (key) memory.copy(at, key.ptr, keyLength);
    at += keyLength;
    memory.copy(at, value.ptr, value.length);
    at += value.length;
    for (let i = 0; i < headers.length; i++) {
      memory.copy(at, headers[i].name.ptr, headers[i].name.length);
      at += headers[i].name.length;
      memory.copy(at, headers[i].value.ptr, headers[i].value.length);
      at += headers[i].value.length;
    }
    memory.fill(at, 0, end - at);
    outputCount++;
    return true;
  }
}

function sinkOf(name: string | null): u32 {
  if (name === null) return 0;
  const found = sinks.indexOf(name);
  return found >= 0 ? found + 1 : sinks.push(name);
}

// ---- State ----

class Slot {
  value: Bytes | null = null;
  expires: i64 = 0;
  known: bool = false;
  changed: bool = false;
  source: u32 = 0;
  index: u32 = 0;

  constructor(public key: Bytes) {}

  copy(): Slot {
    const other = new Slot(this.key);
    other.value = this.value;
    other.expires = this.expires;
    other.known = this.known;
    other.changed = this.changed;
    other.source = this.source;
    other.index = this.index;
    return other;
  }
}

/** Bytes as a key of a map: a unit each. */
function unit(bytes: Bytes): string {
  const text = changetype<string>(__new(bytes.length << 1, idof<string>()));
  for (let at = 0; at < bytes.length; at++) store<u16>(changetype<usize>(text) + (at << 1), bytes[at]);
  return text;
}

function slotOf(key: Bytes): Slot {
  const name = unit(key);
  if (slots.has(name)) return slots.get(name);
  const slot = new Slot(key);
  slots.set(name, slot);
  return slot;
}

function wantKey(key: Bytes): void {
  const slot = slotOf(key);
  if (slot.known || slot.changed) return;
  slot.known = true;
  wanted.push(slot);
}

function isGone(expires: i64): bool {
  return expires != 0 && watermark != i64.MIN_VALUE && expires <= watermark;
}

/** Keyed state of some name, with the capability `state`: it outlives instances and crashes, and what an event changes is committed with its outputs. It is that of this
 * stage and partition. */
export class State {
  private prefix: Bytes;

  constructor(name: string) {
    this.prefix = Bytes.of(name + "/");
  }

  private full(key: Bytes): Bytes {
    const whole = Bytes.make(this.prefix.length + key.length);
    memory.copy(whole.ptr, this.prefix.ptr, this.prefix.length);
    memory.copy(whole.ptr + this.prefix.length, key.ptr, key.length);
    return whole;
  }

  /** The value of a key; null where there is none. */
  get(key: Bytes): Bytes | null {
    const slot = slotOf(this.full(key));
    if (!slot.known && !slot.changed) fetch(slot.key);
    return isGone(slot.expires) ? null : slot.value;
  }

  set(key: Bytes, value: Bytes): void {
    change(this.full(key), value.slice(), 0);
  }

  /** Until so many milliseconds after the time of the event or timer in hand. */
  setFor(key: Bytes, value: Bytes, millis: i64): void {
    const expires = now + millis;
    change(this.full(key), value.slice(), expires == 0 ? 1 : expires);
  }

  delete(key: Bytes): void {
    change(this.full(key), null, 0);
  }

  /** Names a key that an event will read: in `wants`. */
  want(key: Bytes): void {
    wantKey(this.full(key));
  }

  /** What is kept under keys that begin with `prefix`, in their order; all of it in memory. */
  scan(prefix: Bytes): Entry[] {
    const whole = this.full(prefix);
    const found = new Map<string, Entry>();
    let after = new Bytes(0, 0);
    for (let isFirst = true; ; isFirst = false) {
      hostScan(whole.ptr, whole.length, isFirst ? 0 : 1, after.ptr, after.length, 1000, 1 << 20, LIST);
      const entries = entriesAt(load<usize>(LIST), load<i32>(LIST, 4));
      if (entries.length == 0) break;
      for (let at = 0; at < entries.length; at++) if (!isGone(entries[at].expires)) found.set(unit(entries[at].key), entries[at]);
      after = entries[entries.length - 1].key;
    }
    const own = slots.values();
    for (let at = 0; at < own.length; at++) {
      const slot = own[at];
      if (!slot.changed || slot.key.length < whole.length || memory.compare(slot.key.ptr, whole.ptr, whole.length) != 0) continue;
      const value = slot.value;
      if (value && !isGone(slot.expires)) found.set(unit(slot.key), new Entry(slot.key, value));
      else found.delete(unit(slot.key));
    }
    const keys = found.keys();
    keys.sort();
    const all: Entry[] = [];
    for (let at = 0; at < keys.length; at++) {
      const entry = found.get(keys[at]);
      all.push(new Entry(entry.key.slice(this.prefix.length), entry.value, entry.expires));
    }
    return all;
  }
}

function fetch(key: Bytes): void {
  wanted = [];
  wantKey(key);
  let at = rest;
  for (let number: u32 = 0; number < restCount; number++) {
    consumer.wants(eventAt(at, count - restCount + number, AHEAD));
    at += load<u32>(at);
  }
  keys.length = 0;
  for (let number = 0; number < wanted.length; number++) {
    store<u32>(keys.grow(4), wanted[number].key.length);
    keys.add(wanted[number].key.ptr, wanted[number].key.length);
  }
  hostGetFlat(keys.ptr, keys.length, LIST);
  const list = load<usize>(LIST);
  let found = list;
  for (let number = 0; number < wanted.length; number++) {
    const length = load<u32>(found);
    found += 4;
    if (length == u32.MAX_VALUE) continue;
    wanted[number].expires = load<i64>(found);
    wanted[number].value = new Bytes(found + 8, length).slice();
    found += 8 + length;
  }
  if (load<i32>(LIST, 4) > 0) heap.free(list);
}

function change(key: Bytes, value: Bytes | null, expires: i64): void {
  const slot = slotOf(key);
  undone.push(slot.copy());
  slot.value = value;
  slot.expires = expires;
  slot.changed = true;
  slot.source = source;
  slot.index = index;
}

/** Entries as the host hands them over: per entry key, value, a flag and a time. They are copied, and let go of. */
function entriesAt(at: usize, length: i32): Entry[] {
  const entries: Entry[] = [];
  for (let number = 0; number < length; number++) {
    const record = at + 32 * number;
    const key = new Bytes(load<usize>(record), load<i32>(record, 4));
    const value = new Bytes(load<usize>(record, 8), load<i32>(record, 12));
    entries.push(new Entry(key.slice(), value.slice(), load<u8>(record, 16) != 0 ? load<i64>(record, 24) : 0));
    if (key.length > 0) heap.free(key.ptr);
    if (value.length > 0) heap.free(value.ptr);
  }
  if (length > 0) heap.free(at);
  return entries;
}

// ---- Timers ----

/** Sets a timer, with the capability `timers`; one with the same key and tag is replaced. */
export function setTimer(clock: Clock, time: i64, key: Bytes, tag: Bytes): void {
  changeTimer(1, clock, time, key, tag);
}

export function clearTimer(key: Bytes, tag: Bytes): void {
  changeTimer(0, Clock.EventTime, 0, key, tag);
}

function changeTimer(operation: u8, clock: Clock, time: i64, key: Bytes, tag: Bytes): void {
  const start = timers.length;
  const record = timers.grow(32);
  memory.fill(record, 0, 32);
  store<u8>(record, operation, 4);
  store<u8>(record, <u8>source, 5);
  store<u8>(record, <u8>clock, 6);
  store<u32>(record, index, 8);
  store<u32>(record, key.length, 12);
  store<u32>(record, tag.length, 16);
  store<i64>(record, time, 24);
  timers.add(key.ptr, key.length);
  timers.add(tag.ptr, tag.length);
  timers.end(start);
  timerCount++;
  changedTimers.push(new Timer(clock, time, key.slice(), tag.slice()));
}

// ---- A call ----

let consumer: Consumer = new Consumer();
let failure: string = "";
let isTransient: bool = false;
let outputs: Buffer = new Buffer();
let failures: Buffer = new Buffer();
let states: Buffer = new Buffer();
let timers: Buffer = new Buffer();
let keys: Buffer = new Buffer();
let sinks: string[] = [];
let slots: Map<string, Slot> = new Map<string, Slot>();
let wanted: Slot[] = [];
let undone: Slot[] = [];
let changedTimers: Timer[] = [];
let outputCount: u32 = 0;
let failureCount: u32 = 0;
let stateCount: u32 = 0;
let timerCount: u32 = 0;
let count: u32 = 0;
let isChained: bool = false;
let topic: string = "";
let partition: u32 = 0;
let base: u64 = 0;
let source: u32 = 0;
let index: u32 = 0;
let now: i64 = 0;
let watermark: i64 = i64.MIN_VALUE;
let rest: usize = 0;
let restCount: u32 = 0;
const OUT = new Outputs();
/** The event in hand, and one that is looked at ahead. */
const IN_TURN = new Event();
const AHEAD = new Event();
let records: Buffer = new Buffer();
let told: Bytes = new Bytes(0, 0);
/** What the host hands back, and what is returned: an address and a length, or whether it failed, and these. */
const LIST = memory.data(16, 8);
const IN_HAND = memory.data(4, 4);

/** Says what the plugin consists of; to be called once. */
export function start(own: Consumer): void {
  consumer = own;
}

function eventAt(at: usize, number: u32, event: Event): Event {
  const flags = load<u16>(at, 4);
  let from = at + 24;
  event.topic = topic;
  event.partition = partition;
  event.offset = base + number;
  if ((flags & 2) != 0) {
    if (isChained) event.offset = load<u64>(from, 8);
    from += 24;
  }
  event.timestamp = load<i64>(at, 8);
  event.headerCount = load<u16>(at, 6);
  event.table = from;
  from += 8 * event.headerCount;
  const keyLength = load<i32>(at, 16);
  const key = event.ownKey, value = event.value;
  key.ptr = from;
  key.length = keyLength;
  event.key = (flags & 1) != 0 ? key : null;
  value.ptr = from + keyLength;
  value.length = load<i32>(at, 20);
  return event;
}

/** What became of one; whether the call goes on behind it. */
function settle(isFine: bool, outputsBefore: i32, outputCountBefore: u32, timersBefore: i32, timerCountBefore: u32, changedBefore: i32): bool {
  if (isFine) return true;
  outputs.length = outputsBefore;
  outputCount = outputCountBefore;
  timers.length = timersBefore;
  timerCount = timerCountBefore;
  changedTimers.length = changedBefore;
  while (undone.length > 0) {
    const before = undone.pop();
    slots.set(unit(before.key), before);
  }
  const reason = Bytes.of(failure);
  const begin = failures.length;
  const record = failures.grow(16);
  memory.fill(record, 0, 16);
  store<u8>(record, <u8>source, 4);
  store<u8>(record, isTransient ? 0 : 1, 5);
  store<u32>(record, index, 8);
  store<u32>(record, reason.length, 12);
  failures.add(reason.ptr, reason.length);
  failures.end(begin);
  failureCount++;
  return !isTransient;
}

function forget(): void {
  outputs.length = failures.length = states.length = timers.length = 0;
  outputCount = failureCount = stateCount = timerCount = 0;
  if (sinks.length > 0) sinks = [];
  if (slots.size > 0) slots = new Map<string, Slot>();
  if (changedTimers.length > 0) changedTimers = [];
}

export function sluice_process(header: usize, headerLength: i32, events: usize, eventsLength: i32): usize {
  const nameLength = load<u32>(header, 56);
  const dueCount = load<u32>(header, 12);
  let due = header + 64 + ((nameLength + 7) & ~7);
  const marks = (load<u32>(header, 20) & 2) != 0 ? due + load<u32>(header, 16) : 0;
  forget();
  count = load<u32>(header, 8);
  isChained = (load<u32>(header, 20) & 1) != 0;
  base = load<u64>(header, 24);
  partition = load<u32>(header, 52);
  topic = String.UTF8.decodeUnsafe(header + 64, nameLength);
  memory.fill(outputs.grow(64), 0, 64);
  let at = events;
  let processed: u32 = 0;
  let fired: u32 = 0;
  let goesOn = true;
  while (goesOn && (processed < count || fired < dueCount)) {
    watermark = marks != 0 ? load<i64>(marks + 8 * processed) : load<i64>(header, 32);
    rest = at;
    restCount = count - processed;
    if (undone.length > 0) undone = [];
    const o = outputs.length, oc = outputCount, t = timers.length, tc = timerCount, c = changedTimers.length;
    if (fired < dueCount && load<u32>(due, 16) <= processed) {
      const key = new Bytes(due + 32, load<i32>(due, 24));
      const tag = new Bytes(key.ptr + key.length, load<i32>(due, 28));
      const timer = new Timer(<Clock>load<u8>(due, 4), load<i64>(due, 8), key, tag);
      source = 1;
      index = fired;
      now = timer.time;
      store<u32>(IN_HAND, fired | 0x80000000);
      // Cleared in this call, or set anew: it is as good as fired.
      let isChanged = false;
      for (let number = 0; number < c; number++) {
        isChanged = isChanged || (changedTimers[number].key.equals(key) && changedTimers[number].tag.equals(tag));
      }
      if (!isChanged) goesOn = settle(consumer.fire(timer, OUT), o, oc, t, tc, c);
      due += load<u32>(due);
      fired += u32(goesOn);
    } else if (processed < count) {
      const event = eventAt(at, processed, IN_TURN);
      source = 0;
      index = processed;
      now = event.timestamp;
      store<u32>(IN_HAND, processed);
      goesOn = settle(consumer.process(event, OUT), o, oc, t, tc, c);
      at += load<u32>(at);
      processed += u32(goesOn);
    } else break;
  }
  const changed = slots.values();
  for (let number = 0; number < changed.length; number++) {
    const slot = changed[number];
    if (!slot.changed) continue;
    const value = slot.value;
    const begin = states.length;
    const record = states.grow(32);
    memory.fill(record, 0, 32);
    store<u8>(record, value ? 1 : 0, 4);
    store<u8>(record, <u8>slot.source, 5);
    store<u32>(record, slot.index, 8);
    store<u32>(record, slot.key.length, 12);
    store<u32>(record, value ? value.length : 0, 16);
    store<i64>(record, value ? slot.expires : 0, 24);
    states.add(slot.key.ptr, slot.key.length);
    if (value) states.add(value.ptr, value.length);
    states.end(begin);
    stateCount++;
  }
  const outputsLength = outputs.length - 64;
  let sinksLength = 0;
  for (let number = 0; number < sinks.length; number++) {
    const name = Bytes.of(sinks[number]);
    store<u32>(outputs.grow(4), name.length);
    outputs.add(name.ptr, name.length);
    sinksLength += 4 + name.length;
  }
  const more = -outputs.length & 7;
  memory.fill(outputs.grow(more), 0, more);
  outputs.add(failures.ptr, failures.length);
  outputs.add(states.ptr, states.length);
  outputs.add(timers.ptr, timers.length);
  const out = outputs.ptr;
  store<u32>(out, 0x4f474c53);
  store<u32>(out, 0x00400001, 4);
  store<u32>(out, processed, 8);
  store<u32>(out, fired, 12);
  store<u32>(out, outputCount, 16);
  store<u32>(out, outputsLength, 20);
  store<u32>(out, sinks.length, 24);
  store<u32>(out, sinksLength, 28);
  store<u32>(out, failureCount, 32);
  store<u32>(out, failures.length, 36);
  store<u32>(out, stateCount, 40);
  store<u32>(out, states.length, 44);
  store<u32>(out, timerCount, 48);
  store<u32>(out, timers.length, 52);
  if (headerLength > 0) heap.free(header);
  if (eventsLength > 0) heap.free(events);
  store<usize>(LIST, out);
  store<i32>(LIST, outputs.length, 4);
  return LIST;
}

function answer(isFine: bool): usize {
  told = Bytes.of(failure);
  store<u32>(LIST, isFine ? 0 : 1);
  store<usize>(LIST, told.ptr, 4);
  store<i32>(LIST, told.length, 8);
  return LIST;
}

export function sluice_init(config: usize, length: i32): usize {
  hostWatch(IN_HAND, 4);
  return answer(consumer.init(new Bytes(config, length)));
}

export function sluice_version(): u32 {
  return consumer.stateVersion();
}

export function sluice_migrate(from: u32, at: usize, length: i32): usize {
  forget();
  const entries = entriesAt(at, length);
  const into: Entry[] = [];
  for (let number = 0; number < entries.length; number++) {
    if (!consumer.migrate(from, entries[number], into)) return answer(false);
  }
  records.length = 0;
  for (let number = 0; number < into.length; number++) {
    const record = records.grow(32);
    memory.fill(record, 0, 32);
    // They are valid until the next call: the outputs of this one hold them.
    const key = outputs.length;
    outputs.add(into[number].key.ptr, into[number].key.length);
    const value = outputs.length;
    outputs.add(into[number].value.ptr, into[number].value.length);
    store<u32>(record, key);
    store<i32>(record, into[number].key.length, 4);
    store<u32>(record, value, 8);
    store<i32>(record, into[number].value.length, 12);
    store<u8>(record, into[number].expires != 0 ? 1 : 0, 16);
    store<i64>(record, into[number].expires, 24);
  }
  for (let number = 0; number < into.length; number++) {
    const record = records.ptr + 32 * number;
    store<usize>(record, outputs.ptr + load<u32>(record));
    store<usize>(record, outputs.ptr + load<u32>(record, 8), 8);
  }
  store<u32>(LIST, 0);
  store<usize>(LIST, records.ptr, 4);
  store<i32>(LIST, into.length, 8);
  return LIST;
}

export function sluice_realloc(old: usize, oldLength: i32, align: i32, length: i32): usize {
  return length == 0 ? 8 : heap.alloc(length);
}
