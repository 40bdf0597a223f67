// What `sluice.js` has: see there.

/** An event as a consumer gets it. */
export interface Event {
  readonly topic: string;
  readonly partition: number;
  readonly offset: number;
  /** Milliseconds since the epoch, as the producer said. */
  readonly timestamp: number;
  /** Undefined where there is none: absent and empty differ. */
  readonly key: Uint8Array | undefined;
  readonly value: Uint8Array;
  readonly headers: [string, Uint8Array][];
}

/** The clock that a timer goes by: the partition's watermark, or the time of day. */
export type Clock = 'event-time' | 'wall-clock';

/** A timer that is due. */
export interface Timer {
  /** Milliseconds since the epoch. */
  readonly time: number;
  readonly clock: Clock;
  readonly key: Uint8Array;
  readonly tag: Uint8Array;
}

/** Takes what a consumer sends. */
export interface Outputs {
  /** Sends an event: without more, to the pipeline's first sink, with the time of the event or timer in hand. */
  send(
    key: Uint8Array | undefined,
    value: Uint8Array,
    more?: { sink?: string; timestamp?: number; headers?: [string, Uint8Array][] },
  ): void;
}

/** A value in the state, as it is brought from one version to the next. The key is the whole one, NAME/KEY. */
export interface Entry {
  readonly key: Uint8Array;
  readonly value: Uint8Array;
  /** Milliseconds since the epoch. */
  readonly expires: number | undefined;
}

/** The default export of a plugin. */
export interface Consumer<Config = Record<string, never>> {
  init?(config: Config): void;
  process(event: Event, out: Outputs): void;
  fire?(timer: Timer, out: Outputs): void;
  stateVersion?: number;
  migrate?(version: number, entry: Entry): Entry[];
}

/** The event will never go through. */
export class Failure extends Error {}
/** Trying again may help. */
export class Transient extends Failure {}

export function encode(text: string): Uint8Array;
export function decode(bytes: Uint8Array): string;
export function log(line: string, level?: 'trace' | 'debug' | 'info' | 'warn' | 'error'): void;

export class State {
  constructor(name: string);
  get(key: Uint8Array): Uint8Array | undefined;
  set(key: Uint8Array, value: Uint8Array): void;
  setFor(key: Uint8Array, value: Uint8Array, millis: number): void;
  delete(key: Uint8Array): void;
  scan(prefix?: Uint8Array): Generator<[Uint8Array, Uint8Array]>;
}

export function setTimer(time: number, key: Uint8Array, tag?: Uint8Array, clock?: Clock): void;
export function clearTimer(key: Uint8Array, tag?: Uint8Array): void;
