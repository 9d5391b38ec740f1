"""Folders of runs as training and evaluation leave them, of a few made-up samples: no model and no store is needed."""

import json
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mettle_cache.pipelines.evaluate.sample_scores import sample_scores_file, sample_scores_table
from mettle_cache.pipelines.train.history import history_table
from mettle_cache.pipelines.train.run_config import RunConfig, StoreReference
from mettle_cache.pipelines.train.run_folder import RunFolder
from mettle_cache.store.writing.durable import make_folder, write_file

HOSTILE = "</script><script>fetch('http://example.com')</script><img src=x onerror=alert(1)>"
DATASETS = {"avel": "ave", "avvp": "llp", "avs": "avs-s4", "avqa": "music-avqa"}
METRICS = {"avel": "accuracy", "avvp": "segment_type_av", "avs": "miou", "avqa": "accuracy"}
NAMES = ("Goat", "Cello", HOSTILE)
SEGMENTS = 4


def lists(values):
    return pa.array([row.tolist() for row in np.asarray(values, np.float32)], pa.list_(pa.float32()))


def avel_table(rng, samples, scores=True):
    """``samples`` clips of four segments; the second half of each is background."""
    target = np.repeat(rng.integers(0, len(NAMES), samples)[:, None], SEGMENTS, 1)
    target[:, SEGMENTS // 2 :] = len(NAMES)
    probabilities = rng.dirichlet(np.ones(len(NAMES) + 1), (samples, SEGMENTS))
    clips = [f"clip {place}" if place else HOSTILE for place in range(samples)]
    columns = {
        "row": np.repeat(np.arange(samples), SEGMENTS),
        "clip": np.repeat(np.array(clips, object), SEGMENTS),
        "segment": np.tile(np.arange(SEGMENTS, dtype=np.int32), samples),
        "target": target.ravel().astype(np.int32),
        "prediction": probabilities.argmax(-1).ravel().astype(np.int32),
    }
    if scores:
        columns["scores"] = lists(probabilities.reshape(-1, len(NAMES) + 1))
    terms = 100 * (probabilities.argmax(-1) == target).mean(1)
    names = json.dumps([*NAMES, "background"])
    return pa.table(columns).replace_schema_metadata({"categories": names}), clips, terms


def avvp_table(rng, samples, scores=True):
    shape = (samples, 2, SEGMENTS, len(NAMES))
    truth, probabilities = rng.random(shape) < 0.3, rng.random(shape)
    found = probabilities > 0.5
    clips = [f"clip {place}" if place else HOSTILE for place in range(samples)]
    sample, modality, segment = np.unravel_index(np.arange(samples * 2 * SEGMENTS), shape[:3])
    columns = {
        "row": sample,
        "clip": [clips[place] for place in sample],
        "filename": [f"{clips[place]}_0_4" for place in sample],
        "modality": [("audio", "visual")[place] for place in modality],
        "segment": segment.astype(np.int32),
    }
    for name, active in (("target", truth), ("prediction", found)):
        cells = [np.flatnonzero(row).tolist() for row in active.reshape(-1, len(NAMES))]
        columns[name] = pa.array(cells, pa.list_(pa.int32()))
    if scores:
        columns["scores"] = lists(probabilities.reshape(-1, len(NAMES)))
    table = pa.table(columns).replace_schema_metadata({"categories": json.dumps(NAMES)})
    return table, clips, 100 * (truth == found).mean((1, 2, 3))


def avs_table(rng, samples, scores=True):
    clips = [f"clip {place}" if place else HOSTILE for place in range(samples)]
    iou = rng.random((samples, SEGMENTS))
    columns = {
        "row": np.repeat(np.arange(samples), SEGMENTS),
        "clip": np.repeat(np.array(clips, object), SEGMENTS),
        "frame": np.tile(np.arange(1, SEGMENTS + 1, dtype=np.int32), samples),
        "iou": iou.ravel(),
    }
    if scores:
        columns["confidence"] = pa.array(rng.random(samples * SEGMENTS), pa.float32())
    return pa.table(columns), clips, 100 * iou.mean(1)


def avqa_table(rng, samples, scores=True):
    probabilities = rng.dirichlet(np.ones(len(NAMES)), samples)
    clips = [f"clip {place // 2}" if place else HOSTILE for place in range(samples)]
    answers = rng.integers(0, len(NAMES), samples)
    columns = {
        "row": np.arange(samples),
        "clip": clips,
        "modality": ["Audio" if place % 2 else "Audio-Visual" for place in range(samples)],
        "kind": ["Counting"] * samples,
        "question": [f"How many {HOSTILE if place < 2 else 'cellos'}" for place in range(samples)],
        "answer": [NAMES[one] for one in answers],
        "prediction": [NAMES[one] for one in probabilities.argmax(1)],
    }
    if scores:
        columns["scores"] = lists(probabilities)
    table = pa.table(columns).replace_schema_metadata({"answers": json.dumps(NAMES)})
    return table, clips, 100.0 * (probabilities.argmax(1) == answers)


TABLES = {"avel": avel_table, "avvp": avvp_table, "avs": avs_table, "avqa": avqa_table}


def write_run(path, task="avel", *, seed=0, samples=6, method="lcd", scores=True, evaluated=True, numbers=None):
    """A run of ``task`` in ``path``, scored on test unless ``evaluated`` is False; what each sample scored.

    Its truth and its predictions follow from ``numbers``, the seed where it is None.
    """
    table, clips, terms = TABLES[task](np.random.default_rng(seed if numbers is None else numbers), samples, scores)
    metric = METRICS[task]
    make_folder(path)
    folder = RunFolder(path)
    train = {"batch_size": 8, "epochs": 3, "learning_rate": 0.1}
    recipe = {"name": f"{DATASETS[task]}-small", "task": task, "head": {}, "method": method, "layers": "all"}
    config = RunConfig(
        recipe={**recipe, method: {"dim": 8}, "train": train},
        seed=seed,
        select_on="val",
        store=StoreReference(path=str(path / "gone.zarr"), key_digest="1" * 32, dataset=DATASETS[task], codec="int8"),
    )
    epochs = [
        {"epoch": n, "loss": 3.0 / n, f"val_{metric}": 20.0 * n, "learning_rate": 0.1, "clips_per_second": 10.0}
        for n in (1, 2, 3)
    ]
    training = {
        "metric": metric,
        "parameters": 1234,
        "samples": {"train": 40},
        "clips_per_second": 10.0,
        "peak_memory_bytes": 5_000_000,
        "peak_memory_of": "process (RSS)",
        "variant": "",
        "failure": None,
    }
    evaluation = {
        "split": "test",
        "samples": len(terms),
        "dropped": 0,
        "metric": metric,
        "details": {},
        "seed": seed,
        "scores": {metric: float(np.mean(terms))},
        "floors": {"always nothing": 12.5},
        "best_epoch": 3,
        "paper": {"setting": "ours", "scores": {metric: 80.0}, "source": "a paper", "total_m": None},
        "differs": ["recipe: train.epochs = 3 instead of 10"],
        "notes": [HOSTILE],
        "selected_on": "val",
        "times_evaluated": 1,
        "checkpoint_digest": "2" * 32,
        "training_failure": None,
        "variant": "",
    }
    result = {"training": training, **({"evaluation": {"test": evaluation}} if evaluated else {})}
    files = {
        folder.metrics: partial(_write, content=history_table(epochs)),
        folder.result: partial(_write, content=json.dumps(result).encode()),
    }
    if evaluated:
        rows = sample_scores_table(range(len(terms)), clips, {metric: terms})
        files[folder.predictions("test")] = partial(_write_table, table=table)
        files[sample_scores_file(path, "test")] = partial(_write_table, table=rows)
    folder.commit(files, config=config)
    return terms


def _write(path, content):
    write_file(path, content)


def _write_table(path, table):
    pq.write_table(table, path)
