"""The average delay of each route so far, in whole minutes towards zero."""

import json

from sluice import Event, Failure, Outputs, State


def text(value: dict) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


class Consumer:
    sums = State("average")

    def process(self, event: Event, out: Outputs) -> None:
        flight = json.loads(event.value)
        delay, origin, destination = flight["delay"], flight["origin"], flight["destination"]
        if (type(delay), type(origin), type(destination)) != (int, str, str):
            raise Failure("no flight: it has no delay, origin and destination")
        route = f"{origin}-{destination}"
        key = route.encode()
        before = json.loads(self.sums.get(key) or b'{"count":0,"sum":0}')
        count, total = before["count"] + 1, before["sum"] + delay
        self.sums.set(key, text({"count": count, "sum": total}))
        mean = total // count if total >= 0 else -(-total // count)
        out.send(key, text({"route": route, "count": count, "mean": mean}))
