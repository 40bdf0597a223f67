// Keeps the flights that left late, and says by how much, keyed by the airport they left from.
import { Fields, Writer } from "../build/sdk/json";
import { Bytes, Consumer, Event, Outputs, fail, start } from "../build/sdk/sluice";

class LateFlights extends Consumer {
  private threshold: i64 = 30;
  private flight: Fields = new Fields(["delay", "origin", "destination"]);
  private late: Writer = new Writer();

  init(config: Bytes): bool {
    const fields = new Fields(["threshold-minutes"]);
    const isFine = fields.read(config) && !fields.hasOthers && (!fields.has(0) || fields.isInteger(0));
    if (!isFine) return fail('config: {"threshold-minutes": N} is all there is');
    if (fields.has(0)) this.threshold = fields.integer(0);
    return true;
  }

  process(event: Event, out: Outputs): bool {
    const flight = this.flight;
    if (!flight.read(event.value)) return fail("it is no JSON object");
    if (!flight.isInteger(0)) return fail("no flight: it has no delay");
    const origin = flight.string(1), destination = flight.string(2);
    if (!origin || !destination) return fail("no flight: it has no origin and destination");
    const delay = flight.integer(0);
    if (delay < this.threshold) return true;
    const late = this.late.clear();
    late.raw('{"route":[').string(origin).raw(",").string(destination).raw('],"minutes":').integer(delay).raw("}");
    return out.send(origin, late.done());
  }
}

start(new LateFlights());

export * from "../build/sdk/exports";
