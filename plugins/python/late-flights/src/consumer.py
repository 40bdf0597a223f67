"""Keeps the flights that left late, and says by how much, keyed by the airport they left from."""

import json

from sluice import Event, Failure, Outputs


class Consumer:
    def __init__(self, config: dict) -> None:
        self.threshold = config.pop("threshold-minutes", 30)
        if config:
            raise Failure(f"config: unknown: {', '.join(config)}")

    def process(self, event: Event, out: Outputs) -> None:
        flight = json.loads(event.value)
        delay, origin, destination = flight["delay"], flight["origin"], flight["destination"]
        if (type(delay), type(origin), type(destination)) != (int, str, str):
            raise Failure("no flight: it has no delay, origin and destination")
        if delay >= self.threshold:
            late = {"route": [origin, destination], "minutes": delay}
            out.send(origin.encode(), json.dumps(late, separators=(",", ":"), ensure_ascii=False).encode())
