// Lets each key through once within some time.
import { Fields } from "../build/sdk/json";
import { Bytes, Consumer, Event, Output, Outputs, State, fail, start } from "../build/sdk/sluice";

class Dedupe extends Consumer {
  private seen: State = new State("seen");
  private one: Bytes = Bytes.of("1");
  private seconds: i64 = 3600;

  init(config: Bytes): bool {
    const fields = new Fields(["for-seconds"]);
    const isFine = fields.read(config) && !fields.hasOthers && (!fields.has(0) || fields.isInteger(0));
    if (!isFine) return fail('config: {"for-seconds": N} is all there is');
    if (fields.has(0)) this.seconds = fields.integer(0);
    return true;
  }

  wants(event: Event): void {
    const key = event.key;
    if (key) this.seen.want(key);
  }

  process(event: Event, out: Outputs): bool {
    const key = event.key;
    if (!key) return fail("the event has no key");
    if (this.seen.get(key)) return true;
    this.seen.setFor(key, this.one, this.seconds * 1000);
    const output = new Output(event.value);
    output.key = key;
    output.headers = event.headers();
    return out.put(output);
  }
}

start(new Dedupe());

export * from "../build/sdk/exports";
