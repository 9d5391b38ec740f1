"""A child process for tests: does what the request names."""

import os
import signal

import torch

from mettle_cache.errors import UsageError
from mettle_cache.pipelines.benchmark.child_process import MemoryMeter, serve


def work(request):
    what = request["what"]
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "refuse":
        raise UsageError("no such thing", hint="another")
    if what == "allocate":
        meter = MemoryMeter(torch.device("cpu"))
        block = torch.ones(request["nbytes"], dtype=torch.uint8)
        held = meter.now
        total = int(block.sum())
        del block
        return {"held": held, "now": meter.now, "peak": meter.peak, "total": total, "kind": meter.kind}
    return {"doubled": 2 * request["number"]}


if __name__ == "__main__":
    serve(work)
