"""J1 to J3 in Bytewax, one worker: a line of standard input names a job, the answer is the number of its outputs. Arguments: folder of inputs, folder of outputs."""

import os
import sys

import bytewax.operators as op
import orjson
from bytewax.connectors.files import FileSource
from bytewax.dataflow import Dataflow
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.testing import run_main

written = 0


class Lines(StatelessSinkPartition):
    def __init__(self, path):
        self.file = open(path, "ab", buffering=1 << 20)

    def write_batch(self, items):
        global written
        written += len(items)
        self.file.write(b"".join([item + b"\n" for item in items]))

    def close(self):
        self.file.close()


class Sink(DynamicSink):
    def __init__(self, path):
        self.path = path

    def build(self, step_id, worker_index, worker_count):
        return Lines(self.path)


def orders(lines):
    for line in lines:
        event = orjson.loads(line)
        if event["kind"] == "order":
            yield orjson.dumps({"id": event["id"], "user": event["user"], "amount": event["amount"]})


def payments(lines):
    for line in lines:
        user, _, event = line.partition("\t")
        yield user, orjson.loads(event)["cents"]


def add(total, cents):
    count, before = total or (0, 0)
    total = (count + 1, before + cents)
    return total, total


def totals(items):
    for user, (count, cents) in items:
        yield user.encode() + b"\t" + orjson.dumps({"count": count, "cents": cents})


def flow(job, inputs, out):
    flow = Dataflow(job)
    # Its own reader of files, with large batches.
    files = [op.input(f"in-{at}", flow, FileSource(os.path.join(inputs, job, name), batch_size=4096)) for at, name in enumerate(sorted(os.listdir(os.path.join(inputs, job))))]
    lines = op.merge("lines", *files)
    if job == "J1":
        made = op.flat_map_batch("orders", lines, orders)
    elif job == "J2":
        keyed = op.flat_map_batch("payments", lines, payments)
        made = op.flat_map_batch("told", op.stateful_map("totals", keyed, add), totals)
    else:
        made = op.flat_map_batch("through", lines, lambda lines: [line.encode() for line in lines])
    op.output("out", made, Sink(out))
    return flow


print("ready", flush=True)
for run, job in enumerate(sys.stdin):
    job, written = job.strip(), 0
    run_main(flow(job, sys.argv[1], os.path.join(sys.argv[2], f"run-{run}")))
    print("outputs", written, flush=True)
