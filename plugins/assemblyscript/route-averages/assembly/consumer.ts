// The average delay of each route so far, in whole minutes towards zero.
import { Fields, Writer } from "../build/sdk/json";
import { Bytes, Consumer, Event, Outputs, State, fail, start } from "../build/sdk/sluice";

class RouteAverages extends Consumer {
  private sums: State = new State("average");
  private flight: Fields = new Fields(["delay", "origin", "destination"]);
  private kept: Fields = new Fields(["count", "sum"]);

  private route(value: Bytes): Bytes | null {
    if (!this.flight.read(value) || !this.flight.isInteger(0)) return null;
    const origin = this.flight.string(1), destination = this.flight.string(2);
    if (!origin || !destination) return null;
    const route = Bytes.make(origin.length + 1 + destination.length);
    memory.copy(route.ptr, origin.ptr, origin.length);
    route[origin.length] = 0x2d;
    memory.copy(route.ptr + origin.length + 1, destination.ptr, destination.length);
    return route;
  }

  wants(event: Event): void {
    const route = this.route(event.value);
    if (route) this.sums.want(route);
  }

  process(event: Event, out: Outputs): bool {
    const route = this.route(event.value);
    if (!route) return fail("it is no flight");
    let count: i64 = 1, sum = this.flight.integer(0);
    const before = this.sums.get(route);
    if (before) {
      if (!this.kept.read(before) || !this.kept.isInteger(0) || !this.kept.isInteger(1)) return fail("what is kept is no sum");
      count += this.kept.integer(0);
      sum += this.kept.integer(1);
    }
    this.sums.set(route, new Writer().raw('{"count":').integer(count).raw(',"sum":').integer(sum).raw("}").done());
    const told = new Writer().raw('{"route":').string(route).raw(',"count":').integer(count);
    return out.send(route, told.raw(',"mean":').integer(sum / count).raw("}").done());
  }
}

start(new RouteAverages());

export * from "../build/sdk/exports";
