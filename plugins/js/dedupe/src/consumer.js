// Lets each key through once within some time.
import { Failure, State } from 'sluice';

const seen = new State('seen');
const ONE = new Uint8Array([0x31]);
let seconds;

/** @type {import('sluice').Consumer} */
export default {
  init({ 'for-seconds': given = 3600, ...rest }) {
    const unknown = Object.keys(rest);
    if (unknown.length > 0) throw new Failure(`config: unknown: ${unknown.join(', ')}`);
    seconds = given;
  },

  process(event, out) {
    if (event.key === undefined) throw new Failure('the event has no key');
    if (seen.get(event.key) !== undefined) return;
    seen.setFor(event.key, ONE, seconds * 1000);
    out.send(event.key, event.value, { headers: event.headers });
  },
};
