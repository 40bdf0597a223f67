// The average delay of each route so far, in whole minutes towards zero.
import { Failure, State, decode, encode } from 'sluice';

const sums = new State('average');

/** @type {import('sluice').Consumer} */
export default {
  process(event, out) {
    const { delay, origin, destination } = JSON.parse(decode(event.value));
    if (typeof delay !== 'number' || typeof origin !== 'string' || typeof destination !== 'string') {
      throw new Failure('no flight: it has no delay, origin and destination');
    }
    const route = `${origin}-${destination}`;
    const key = encode(route);
    const kept = sums.get(key);
    const before = kept ? JSON.parse(decode(kept)) : { count: 0, sum: 0 };
    const [count, sum] = [before.count + 1, before.sum + delay];
    sums.set(key, encode(JSON.stringify({ count, sum })));
    out.send(key, encode(JSON.stringify({ route, count, mean: Math.trunc(sum / count) || 0 })));
  },
};
