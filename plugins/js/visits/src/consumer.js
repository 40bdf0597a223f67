// Counts visits under each key until nothing has come for a second.
import { Failure, State, clearTimer, decode, encode, setTimer } from 'sluice';

const visits = new State('visits');
const IDLE = encode('idle');
const THIRD = encode('third');

const countOf = (key) => {
  const kept = visits.get(key);
  return kept === undefined ? 0 : Number(decode(kept));
};

/** @type {import('sluice').Consumer} */
export default {
  process({ key, value, timestamp }, out) {
    if (key === undefined) throw new Failure('the event has no key');
    const before = countOf(key);
    const text = decode(value);
    if (text.startsWith('who ')) {
      for (const [found, count] of visits.scan(value.slice(4))) out.send(found, count);
    } else if (text === 'bye') {
      visits.delete(key);
      clearTimer(key, IDLE);
      clearTimer(key, THIRD);
      out.send(key, encode(`bye ${before}`));
    } else {
      visits.set(key, encode(String(before + 1)));
      setTimer(timestamp + 1000, key, IDLE);
      if ((before + 1) % 3 === 0) setTimer(timestamp + 500, key, THIRD);
      // All of it is undone.
      if (text === 'bad') throw new Failure('a bad visit');
    }
  },

  fire({ key, tag, time }, out) {
    const count = countOf(key);
    const name = decode(tag);
    if (name === 'idle') visits.delete(key);
    out.send(key, encode(`${name} ${count} at ${time}`));
  },

  stateVersion: 1,

  // Version 0 kept them under `visit`, and those that had left as 0.
  migrate(version, entry) {
    const count = Number(decode(entry.value));
    if (Number.isNaN(count)) throw new Failure('what is kept is no count');
    return count === 0 ? [] : [{ ...entry, key: encode(decode(entry.key).replace('visit/', 'visits/')) }];
  },
};
