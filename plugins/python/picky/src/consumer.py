"""Fails in every way a consumer can. Otherwise it writes an event's text with ASCII letters in capitals."""

from sluice import Event, Failure, Outputs, Transient, log


class Consumer:
    def process(self, event: Event, out: Outputs) -> None:
        word, _, rest = event.value.decode().partition(" ")
        if word == "bad":
            raise Failure(f"event {event.offset} is bad")
        if word == "down":
            raise Transient("what it needs is down")
        if word == "panic":
            raise RuntimeError(f"event {event.offset} makes it panic")
        if word == "say":
            log(rest)
        out.send(event.key, event.value.upper())  # of bytes: ASCII letters only
