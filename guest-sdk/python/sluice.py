"""Write Sluicegate consumers in Python: a class `Consumer` in `src/consumer.py`.

    from sluice import Event, Outputs

    class Consumer:
        def process(self, event: Event, out: Outputs) -> None:
            out.send(event.key, event.value.upper())

An exception is a failure of that one event: all that it sent, set and changed is undone, and the other events go on. Its traceback goes into the
dead letter. `raise Failure("why")` says it in words, `raise Transient("why")` that trying again may help: the events behind wait meanwhile.

A consumer that is configured has an `__init__(self, config)`, which is given the stage's `config`; one that sets timers a `fire(self, timer, out)`; one whose state
changes its shape a `state_version` and a `migrate(self, version, entry)`, which returns the entries that stand in the place of one.
"""

from dataclasses import dataclass, field
from typing import Callable, Iterator, Optional


@dataclass
class Event:
    """An event as a consumer gets it. `key` is None where there is none: absent and empty differ."""

    topic: str
    partition: int
    offset: int
    timestamp: int  # milliseconds since the epoch, as the producer said
    key: Optional[bytes]
    value: bytes
    headers: list[tuple[str, bytes]]


@dataclass
class Timer:
    """A timer that is due."""

    time: int  # milliseconds since the epoch
    wall_clock: bool  # by the time of day; otherwise by the partition's watermark
    key: bytes
    tag: bytes


@dataclass
class Entry:
    """A value in the state, as it is brought from one version to the next. The key is the whole one, NAME/KEY."""

    key: bytes
    value: bytes
    expires: Optional[int] = None  # milliseconds since the epoch


class Failure(Exception):
    """The event will never go through."""


class Transient(Failure):
    """Trying again may help."""


@dataclass
class Output:
    """An event that was sent. What is None is: the pipeline's first sink, the time of the event or timer in hand, no key."""

    key: Optional[bytes]
    value: bytes
    sink: Optional[str] = None
    timestamp: Optional[int] = None
    headers: list[tuple[str, bytes]] = field(default_factory=list)


class Outputs:
    """Takes what a consumer sends."""

    def __init__(self) -> None:
        self.sent: list[Output] = []

    def send(
        self,
        key: Optional[bytes],
        value: bytes,
        *,
        sink: Optional[str] = None,
        timestamp: Optional[int] = None,
        headers: Optional[list[tuple[str, bytes]]] = None,
    ) -> None:
        """Sends an event."""
        self.sent.append(Output(key, value, sink, timestamp, headers or []))


class Host:
    """What the host offers; `sluice_plugin.py` sets it."""

    origin: object = None
    state: object = None
    timers: object = None
    log: object = None


def log(line: str, level: str = "info") -> None:
    """Writes a line to the node's log: trace, debug, info, warn or error."""
    Host.log(level, line)


class State:
    """Keyed state of some name, with the capability `state`: it outlives instances and crashes, and what an event changes is committed with its outputs. It is
    that of this stage and partition."""

    def __init__(self, name: str) -> None:
        self.prefix = name.encode() + b"/"

    def get(self, key: bytes) -> Optional[bytes]:
        """The value of a key, if there is one."""
        return Host.state.get([self.prefix + key])[0]

    def get_all(self, keys: list[bytes]) -> list[Optional[bytes]]:
        """Those of several keys, at the cost of one."""
        return Host.state.get([self.prefix + key for key in keys])

    def set(self, key: bytes, value: bytes) -> None:
        """Sets it."""
        Host.state.set(Host.origin, self.prefix + key, value, None)

    def set_for(self, key: bytes, value: bytes, millis: int) -> None:
        """Sets it until so many milliseconds after the time of the event or timer in hand."""
        Host.state.set(Host.origin, self.prefix + key, value, millis)

    def delete(self, key: bytes) -> None:
        """Deletes it."""
        Host.state.delete(Host.origin, self.prefix + key)

    def scan(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """What is kept under keys that begin with `prefix`, in their order."""
        after = None
        while True:
            entries = Host.state.scan(self.prefix + prefix, after, 1000, 1 << 20)
            if not entries:
                return
            for entry in entries:
                yield entry.key[len(self.prefix) :], entry.value
            after = entries[-1].key


def set_timer(time: int, key: bytes, tag: bytes = b"", *, wall_clock: bool = False) -> None:
    """Sets a timer, with the capability `timers`; one with the same key and tag is replaced."""
    Host.timers.set(time, key, tag, wall_clock)


def clear_timer(key: bytes, tag: bytes = b"") -> None:
    """Clears one."""
    Host.timers.clear(key, tag)


def told(error: BaseException) -> str:
    """What is said of an exception: as Python says it, but for the lines of the source, which are not there."""
    if isinstance(error, Failure) and str(error):
        return str(error)
    lines, frame = ["Traceback (most recent call last):"], error.__traceback__
    while frame:
        code = frame.tb_frame.f_code
        lines.append(f'  File "{code.co_filename}", line {frame.tb_lineno}, in {code.co_qualname}')
        frame = frame.tb_next
    lines.append(f"{type(error).__name__}: {error}")
    return "\n".join(lines)
