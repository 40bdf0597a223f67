"""The plugin's side of the contract: `guest-sdk/wit`."""

import json

import consumer as module
import sluice
import wit_world.exports as exports
from componentize_py_types import Err
from wit_world.exports import versioned_state
from wit_world.imports import log as host_log
from wit_world.imports import progress as host_progress
from wit_world.imports import types

try:
    from wit_world.imports import state as host_state
except ImportError:
    host_state = None
try:
    from wit_world.imports import timers as host_timers
except ImportError:
    host_timers = None

VERSION = getattr(module.Consumer, "state_version", 0)
consumer = None


class Timers:
    @staticmethod
    def set(time, key, tag, wall_clock):
        clock = types.Clock.WALL_CLOCK if wall_clock else types.Clock.EVENT_TIME
        host_timers.set(sluice.Host.origin, clock, time, key, tag)

    @staticmethod
    def clear(key, tag):
        host_timers.clear(sluice.Host.origin, key, tag)


def write(level, line):
    host_log.write(getattr(host_log.Level, level.upper()), line)


sluice.Host.state, sluice.Host.timers, sluice.Host.log = host_state, Timers, write


class Lifecycle(exports.Lifecycle):
    def init(self, config: str) -> None:
        global consumer
        try:
            given = json.loads(config)
            if module.Consumer.__init__ is object.__init__:
                if given:
                    raise sluice.Failure("config: this consumer takes none")
                consumer = module.Consumer()
            else:
                consumer = module.Consumer(given)
        except Exception as error:
            raise Err(sluice.told(error))


class Handler(exports.Handler):
    def process(self, events, timers):
        outputs, failures, processed, fired = [], [], 0, 0
        for index, timer in enumerate(timers):
            given = sluice.Timer(timer.time, timer.clock == types.Clock.WALL_CLOCK, timer.key, timer.tag)
            if not deal(types.Origin_Timer(index), lambda out: consumer.fire(given, out), outputs, failures):
                break
            fired += 1
        for index, event in enumerate(events):
            headers = [(header.name, header.value) for header in event.headers]
            given = sluice.Event(
                event.topic, event.partition, event.offset, event.timestamp, event.key, event.value, headers
            )
            if not deal(types.Origin_Input(index), lambda out: consumer.process(given, out), outputs, failures):
                break
            processed += 1
        return types.Outcome(processed, fired, outputs, failures)


def deal(origin, call, outputs, failures):
    """Deals with one; whether the call goes on behind it."""
    out, sluice.Host.origin = sluice.Outputs(), origin
    host_progress.at(origin)
    try:
        call(out)
    except Exception as error:
        is_transient = isinstance(error, sluice.Transient)
        kind = types.FailureKind.TRANSIENT if is_transient else types.FailureKind.PERMANENT
        failures.append(types.Failure(origin, kind, sluice.told(error)))
        return not is_transient
    for sent in out.sent:
        headers = [types.Header(name, value) for name, value in sent.headers]
        outputs.append(types.Output(origin, sent.sink, sent.timestamp, sent.key, sent.value, headers))
    return True


class VersionedState(exports.VersionedState):
    def version(self) -> int:
        return VERSION

    def migrate(self, from_, entries):
        migrated = []
        try:
            for entry in entries:
                migrated += consumer.migrate(from_, sluice.Entry(entry.key, entry.value, entry.expires))
        except Exception as error:
            raise Err(sluice.told(error))
        return [versioned_state.Entry(entry.key, entry.value, entry.expires) for entry in migrated]
