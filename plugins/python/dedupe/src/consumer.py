"""Lets each key through once within some time."""

from sluice import Event, Failure, Outputs, State


class Consumer:
    seen = State("seen")

    def __init__(self, config: dict) -> None:
        self.seconds = config.pop("for-seconds", 3600)
        if config:
            raise Failure(f"config: unknown: {', '.join(config)}")

    def process(self, event: Event, out: Outputs) -> None:
        if event.key is None:
            raise Failure("the event has no key")
        if self.seen.get(event.key) is None:
            self.seen.set_for(event.key, b"1", self.seconds * 1000)
            out.send(event.key, event.value, headers=event.headers)
