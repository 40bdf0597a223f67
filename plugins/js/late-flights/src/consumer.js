// Keeps the flights that left late, and says by how much, keyed by the airport they left from.
import { Failure, decode, encode } from 'sluice';

let threshold;

/** @type {import('sluice').Consumer} */
export default {
  init({ 'threshold-minutes': minutes = 30, ...rest }) {
    const unknown = Object.keys(rest);
    if (unknown.length > 0) throw new Failure(`config: unknown: ${unknown.join(', ')}`);
    threshold = minutes;
  },

  process(event, out) {
    const { delay, origin, destination } = JSON.parse(decode(event.value));
    if (typeof delay !== 'number' || typeof origin !== 'string' || typeof destination !== 'string') {
      throw new Failure('no flight: it has no delay, origin and destination');
    }
    if (delay >= threshold) {
      out.send(encode(origin), encode(JSON.stringify({ route: [origin, destination], minutes: delay })));
    }
  },
};
