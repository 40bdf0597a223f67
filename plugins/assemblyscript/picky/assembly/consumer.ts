// Fails in every way a consumer can. Otherwise it writes an event's text with ASCII letters in capitals.
import { isUtf8 } from "../build/sdk/json";
import { Consumer, Event, Level, Outputs, fail, failTransient, log, start } from "../build/sdk/sluice";

class Picky extends Consumer {
  process(event: Event, out: Outputs): bool {
    if (!isUtf8(event.value)) return fail("not UTF-8");
    const text = event.value.slice();
    let space = 0;
    while (space < text.length && text[space] != 0x20) space++;
    const word = text.slice(0, space);
    if (word.is("bad")) return fail(`event ${event.offset} is bad`);
    if (word.is("down")) return failTransient("what it needs is down");
    if (word.is("panic")) throw new Error(`event ${event.offset} makes it panic`);
    if (word.is("say") && space < text.length) log(Level.Info, text.slice(space + 1).text());
    for (let at = 0; at < text.length; at++) {
      if (text[at] >= 0x61 && text[at] <= 0x7a) text[at] -= 32;
    }
    return out.send(event.key, text);
  }
}

start(new Picky());

export * from "../build/sdk/exports";
