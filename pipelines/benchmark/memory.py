"""``mettle bench memory``: the memory of training from codes, in parts; it does not grow with the store.

Every measurement is a process of its own that runs this module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mettle_cache.devices import choose_device, prepare_process
from mettle_cache.pipelines.benchmark.child_process import MemoryMeter, call_in_child, serve
from mettle_cache.pipelines.benchmark.fullsize import store_bytes, write_bench_store
from mettle_cache.pipelines.benchmark.heads import bench_recipe, load_libraries, store_run, training_batches
from mettle_cache.pipelines.benchmark.layer_tokens import bench_layers
from mettle_cache.pipelines.benchmark.options import BenchOptions, bench_folder
from mettle_cache.pipelines.benchmark.step_child import token_tensors
from mettle_cache.pipelines.benchmark.table import BenchRow, BenchTable, Goal, measured
from mettle_cache.pipelines.memory import counting_saved
from mettle_cache.pipelines.progress import Progress
from mettle_cache.pipelines.timing import Repeats
from mettle_cache.pipelines.train.run import Run
from mettle_cache.store.reading.token_store import TokenStore

MODULE = "mettle_cache.pipelines.benchmark.memory"
CODEC, KLT = "int8", "klt1.5"
# gigabytes on the device by codec and clips a batch; the first is the recipe's
GOALS = {(CODEC, 16): 4.0, (CODEC, 1): 1.5, (KLT, 16): 2.2}
STEPS = 3
# what the host may hold more for a store of twice the clips
SAME = 1.1


def run(options: BenchOptions, progress: Progress) -> BenchTable:
    """Train on one store with a whole batch and with single clips; read it and one of twice its size."""
    layers, clips = bench_layers(tiny=options.tiny), options.clips or 1
    device = choose_device(options.device)
    batch = bench_recipe(tiny=options.tiny).train.batch_size
    sizes, trained = (clips, 2 * clips), ((CODEC, batch), (CODEC, 1), (KLT, batch))
    stores = {f"{CODEC}-{count}": (CODEC, count) for count in sizes} | {f"{KLT}-{clips}": (KLT, clips)}
    with bench_folder(options, sum(store_bytes(layers, *store) for store in stores.values())) as place:
        for name, (codec, count) in stores.items():
            write_bench_store(place / name, layers, codec=codec, clips=count, progress=progress)
        requests = {
            _training(codec, count): _request(place / f"{codec}-{clips}", count, STEPS, device, options)
            for codec, count in trained
        }
        for count in sizes:
            requests[_reading(count)] = _request(place / f"{CODEC}-{count}", batch, 0, device, options)
        results = _take_turns(requests, options.repeats, progress)
    rows = [row for name in (_training(*pair) for pair in trained) for row in _training_rows(name, results[name])]
    rings = _ring_rows([_reading(count) for count in sizes], results)
    return BenchTable(
        bench="memory",
        title=f"training AVEL from {CODEC}, batch {batch} and batch 1, and from {KLT}, batch {batch}",
        rows=(*rows, *rings),
        goals=(*_ring_goals(rings), *([] if options.tiny else size_goals(results, trained))),
        notes=_notes(device, batch),
        repeats=options.repeats,
    )


def _training(codec: str, batch: int) -> str:
    return f"batch {batch}" if codec == CODEC else f"{codec}, batch {batch}"


def _reading(clips: int) -> str:
    return f"ring, {clips} clips"


def _request(store: Path, batch: int, steps: int, device: torch.device, options: BenchOptions) -> MemoryRequest:
    return MemoryRequest(store=str(store), batch=batch, steps=steps, device=str(device), tiny=options.tiny)


def _take_turns(requests: dict[str, MemoryRequest], repeats: int, progress: Progress) -> dict[str, list[Breakdown]]:
    results: dict[str, list[Breakdown]] = {name: [] for name in requests}
    progress.start(repeats * len(requests), "measurements", "measure")
    for _ in range(repeats):
        for name, request in requests.items():
            results[name].append(measure_memory(request))
            progress.advance()
    progress.finish()
    return results


def _training_rows(name: str, results: Sequence[Breakdown]) -> list[BenchRow]:
    """The whole, and its parts as shares of it."""
    whole = measured(f"{name}: everything", _gigabytes(results, lambda result: result.peak), "GB", note=_of(results))
    parts: dict[str, tuple[str, Callable[[Breakdown], int]]] = {
        "heads": ("the weights", lambda result: result.heads),
        "gradients": ("there between the backward pass and the update", lambda result: result.gradients),
        "Adam": ("two moments a weight", lambda result: result.moments),
        "codes": ("one batch; the ring holds the next one as well", lambda result: result.codes),
        "saved for backward": ("activations other than the codes", lambda result: result.saved),
        "the rest": ("the ring's other batch, workspace, what the allocator keeps", _rest),
    }
    rows = [
        measured(f"{name}: {part}", _gigabytes(results, value), "GB", of=whole, note=note)
        for part, (note, value) in parts.items()
    ]
    code = _gigabytes(results, lambda result: result.libraries)
    return [whole, *rows, measured(f"{name}: libraries", code, "GB", note="their code, loaded before the start")]


def _rest(result: Breakdown) -> int:
    return result.peak - result.heads - result.gradients - result.moments - result.codes - result.saved


def _ring_rows(names: Sequence[str], results: dict[str, list[Breakdown]]) -> list[BenchRow]:
    rows: list[BenchRow] = []
    for name in names:
        samples = _gigabytes(results[name], lambda result: result.peak)
        note = f"host memory of reading alone; a batch is {results[name][0].codes / 1e9:.3f} GB"
        rows.append(measured(name, samples, "GB", of=rows[0] if rows else None, note=note))
    return rows


def size_goals(results: Mapping[str, Sequence[Breakdown]], trained: Sequence[tuple[str, int]]) -> list[Goal]:
    """What full shapes may hold, by codec and clips a batch."""
    held = {pair: _gigabytes(results[_training(*pair)], lambda result: result.peak).median for pair in trained}
    return [
        Goal(what=f"{_training(*pair)}: everything", wanted=GOALS[pair], found=peak, unit="GB", least=False)
        for pair, peak in held.items()
    ]


def _ring_goals(rings: Sequence[BenchRow]) -> list[Goal]:
    ratio = rings[1].ratio
    what = "host memory of reading, twice the clips over once"
    return [] if ratio is None else [Goal(what=what, wanted=SAME, found=ratio, least=False)]


def _notes(device: torch.device, batch: int) -> tuple[str, ...]:
    where = "process (RSS), the host's ring of batches included" if device.type == "cpu" else "device's allocations"
    return (
        f"everything: the most that the {where} held at once above the start, in {STEPS} steps",
        "no backbone is loaded; every measurement is a process of its own",
        f"the ring is read through with batches of {batch}, over all clips of the store twice",
    )


def _of(results: Sequence[Breakdown]) -> str:
    return results[0].memory_of


def _gigabytes(results: Sequence[Breakdown], value: Callable[[Breakdown], int]) -> Repeats:
    return Repeats(tuple(value(result) / 1e9 for result in results))


@dataclass(frozen=True, kw_only=True)
class MemoryRequest:
    """``steps`` steps with ``batch`` clips each; with none, the store is only read."""

    store: str
    batch: int
    steps: int
    device: str
    tiny: bool


@dataclass(frozen=True, kw_only=True)
class Breakdown:
    """Bytes.

    ``heads``, ``gradients``, ``moments`` (Adam's), ``codes`` (of one batch) and ``saved`` (for the backward pass) are
    counted tensor by tensor. ``peak`` is the most that was held above the start at once, in what ``memory_of`` says.
    ``libraries`` is what their code took before the start.
    """

    heads: int
    gradients: int
    moments: int
    codes: int
    saved: int
    peak: int
    libraries: int
    memory_of: str


def measure_memory(request: MemoryRequest) -> Breakdown:
    """Do what ``request`` says in a new process. Raises RunError where it dies."""
    return Breakdown(**call_in_child(MODULE, asdict(request)))


def work(document: dict[str, Any]) -> dict[str, object]:
    """Measure as a request's document says, in this process: the fields of a :class:`Breakdown`."""
    prepare_process()
    request = MemoryRequest(**document)
    device = torch.device(request.device)
    before = MemoryMeter(device)
    if request.steps:
        load_libraries(device, "absorbed")
    libraries = before.now
    meter = MemoryMeter(device)
    with TokenStore.open(Path(request.store)) as store:
        parts = _train(store, request, device) if request.steps else _read(store, request)
    return {**parts, "libraries": libraries, "peak": meter.peak, "memory_of": meter.kind}


def _read(store: TokenStore, request: MemoryRequest) -> dict[str, object]:
    """The ring of batches alone, on the host, over twice the store."""
    count = -(-2 * len(store.clips) // request.batch)
    codes = 0
    for batch in training_batches(store, store.layers, request.batch, count, torch.device("cpu")):
        codes = max(codes, batch.tokens.nbytes)
    return {"heads": 0, "gradients": 0, "moments": 0, "codes": codes, "saved": 0}


def _train(store: TokenStore, request: MemoryRequest, device: torch.device) -> dict[str, object]:
    run = store_run(store, bench_recipe(tiny=request.tiny), device=device)
    gradients = _GradientCounter(run)
    codes = saved_bytes = 0
    batches = training_batches(store, run.task.layers, request.batch, request.steps, device)
    for index, batch in enumerate(batches):
        ours = [*run.model.parameters(), *run.model.buffers(), *token_tensors(batch.tokens)]
        with counting_saved(ours) as saved:
            run.step(batch, epoch=0, index=index)
        codes, saved_bytes = max(codes, batch.tokens.nbytes), max(saved_bytes, saved.nbytes)
        del ours
    moments = [value for slots in run.optimizer.state.values() for value in slots.values() if value.ndim]
    return {
        "heads": _nbytes(run.model.parameters()),
        "gradients": gradients.nbytes,
        "moments": _nbytes(moments),
        "codes": codes,
        "saved": saved_bytes,
    }


class _GradientCounter:
    """Counts the gradients that a backward pass leaves, each parameter's once."""

    def __init__(self, run: Run) -> None:
        self._sizes: dict[int, int] = {}
        for parameter in run.model.parameters():
            parameter.register_post_accumulate_grad_hook(self._count)

    @property
    def nbytes(self) -> int:
        return sum(self._sizes.values())

    def _count(self, parameter: Tensor) -> None:
        if parameter.grad is not None:
            self._sizes[id(parameter)] = parameter.grad.nbytes


def _nbytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


if __name__ == "__main__":
    serve(work)
