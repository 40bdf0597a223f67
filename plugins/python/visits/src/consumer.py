"""Counts visits under each key until nothing has come for a second."""

from dataclasses import replace

from sluice import Entry, Event, Failure, Outputs, State, Timer, clear_timer, set_timer


class Consumer:
    state_version = 1
    visits = State("visits")

    def count(self, key: bytes) -> int:
        return int(self.visits.get(key) or b"0")

    def process(self, event: Event, out: Outputs) -> None:
        key = event.key
        if key is None:
            raise Failure("the event has no key")
        before = self.count(key)
        if event.value.startswith(b"who "):
            for found, count in self.visits.scan(event.value[4:]):
                out.send(found, count)
        elif event.value == b"bye":
            self.visits.delete(key)
            clear_timer(key, b"idle")
            clear_timer(key, b"third")
            out.send(key, b"bye %d" % before)
        else:
            self.visits.set(key, b"%d" % (before + 1))
            set_timer(event.timestamp + 1000, key, b"idle")
            if (before + 1) % 3 == 0:
                set_timer(event.timestamp + 500, key, b"third")
            # All of it is undone.
            if event.value == b"bad":
                raise Failure("a bad visit")

    def fire(self, timer: Timer, out: Outputs) -> None:
        count = self.count(timer.key)
        if timer.tag == b"idle":
            self.visits.delete(timer.key)
        out.send(timer.key, b"%s %d at %d" % (timer.tag, count, timer.time))

    def migrate(self, version: int, entry: Entry) -> list[Entry]:
        """Version 0 kept them under `visit`, and those that had left as 0."""
        if int(entry.value) == 0:
            return []
        return [replace(entry, key=b"visits" + entry.key.removeprefix(b"visit"))]
