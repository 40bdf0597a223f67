// Fails in every way a consumer can. Otherwise it writes an event's text with ASCII letters in capitals.
import { Failure, Transient, decode, encode, log } from 'sluice';

/** @type {import('sluice').Consumer} */
export default {
  process(event, out) {
    const text = decode(event.value);
    const [word, ...rest] = text.split(' ');
    if (word === 'bad') throw new Failure(`event ${event.offset} is bad`);
    if (word === 'down') throw new Transient('what it needs is down');
    if (word === 'panic') throw new Error(`event ${event.offset} makes it panic`);
    if (word === 'say') log(rest.join(' '));
    out.send(event.key, encode(text.replace(/[a-z]+/g, (letters) => letters.toUpperCase())));
  },
};
