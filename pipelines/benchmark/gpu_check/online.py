"""A step with the backbones in the loop, against a step from codes that are on the device: why there is a cache."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mettle_cache.pipelines.benchmark.gpu_check.findings import Finding
from mettle_cache.pipelines.benchmark.gpu_check.setting import Setting
from mettle_cache.pipelines.benchmark.heads import bench_backbones, bench_recipe, layer_run
from mettle_cache.pipelines.benchmark.layer_tokens import SEGMENTS, bench_clip, reorder_tokens
from mettle_cache.pipelines.benchmark.online import OnlineSource, now
from mettle_cache.pipelines.train.run import Run
from mettle_cache.pipelines.train.sample_loader import SampleBatch
from mettle_cache.tasks.protocol import StepInputs
from mettle_cache.tokens import TokenBatch, stack_tokens

CODEC = "int8"
BATCH, TINY_BATCH = 8, 2


def run(setting: Setting) -> Iterator[Finding]:
    """Clips a second of both, and what the backbones alone take of the online step."""
    batch = TINY_BATCH if setting.tiny else BATCH
    recipe, device = bench_recipe(tiny=setting.tiny), setting.device
    source = OnlineSource(bench_backbones(tiny=setting.tiny, device=device), segments=SEGMENTS, device=device)
    head = layer_run(source.layers, recipe, clips=batch, device=device)
    train(head, source.batches(batch, 1))
    source.seconds = source.copying = 0.0
    seconds = train(head, source.batches(batch, setting.repeats)) - source.copying
    online = setting.repeats * batch / seconds
    yield Finding(
        what=f"backbones in every step, batch {batch}",
        value=online,
        unit="clips/s",
        note=f"{source.seconds / seconds:.0%} of it are the backbones",
    )
    one = bench_clip(source.layers, CODEC)
    clips = [reorder_tokens(one, clip) for clip in range(batch)]
    tokens = {name: stack_tokens([clip[name] for clip in clips]).to(device) for name in one}
    batches = [SampleBatch(list(range(batch)), TokenBatch(tokens, tuple(range(batch))), StepInputs())]
    head = layer_run(source.layers, recipe, clips=batch, device=device)
    train(head, batches)
    cached = setting.repeats * batch / train(head, batches * setting.repeats)
    yield Finding(
        what=f"from {CODEC} codes on the device, batch {batch}",
        value=cached,
        unit="clips/s",
        note=f"{cached / online:.1f} times the rate of backbones in every step",
    )


def train(head: Run, batches: Iterable[SampleBatch]) -> float:
    """Seconds of a step on each batch."""
    started = now(head.device)
    for index, batch in enumerate(batches):
        head.step(batch, epoch=0, index=index)
    return now(head.device) - started
