"""Whether what heads of more parameters lack is clips, or different pictures and recordings in them.

Run with ``pytest -m study -s tests/integration/test_learning_curves.py``; everything stays under ``build/study``. The
same heads are trained on fewer clips of the same assets, and on as many clips of few assets: those that show one of the
first half of their class's pictures and play one of the first half of its recordings. All take as many steps.

Prints a table, and writes ``curves/SET.json`` and a figure of the scores over clips, the one of the documentation.
"""

import csv
import hashlib
import json
import os
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mettle_cache.devices import choose_device, prepare_process
from mettle_cache.pipelines.compare.groups import group_columns, read_groups
from mettle_cache.pipelines.compare.heads import Subject, heads_of
from mettle_cache.pipelines.compare.intervals import widest_interval
from mettle_cache.pipelines.figures.data_curve import DataCurve, draw_data_curves
from mettle_cache.pipelines.figures.style import save_figure
from mettle_cache.pipelines.progress import Silent
from mettle_cache.pipelines.train.recipe import load_recipe
from mettle_cache.pipelines.train.sample_loader import read_split
from mettle_cache.pipelines.train.task import bind_task
from mettle_cache.store.reading.token_store import TokenStore
from tests.integration.composed import GROUPS, LAST_LAYERS, SETS, compose_set
from tests.integration.conftest import ROOT, extract_set

pytestmark = [pytest.mark.study, pytest.mark.realdata]

SEEDS = 5
WIDTH = 64
EPOCHS, STEP_SIZE = 6, 2  # of all clips; fewer clips are seen more often
SHARES = {"all clips": 1.0, "a quarter": 0.25}
HEADS = {
    "lcd": (f"lcd.dim={WIDTH}", "lcd.pretrained_branch=linear"),
    "lcd without W_g": (f"lcd.dim={WIDTH}", "lcd.pretrained_branch=none"),
    "linear": ("method=linear", f"linear.dim={WIDTH}"),
    "layermean": ("method=layermean", f"layermean.dim={WIDTH}"),
}
BASE = "linear"


@pytest.fixture(scope="module")
def folder():
    return Path(os.environ.get("METTLE_STUDY", ROOT / "build" / "study"))


@pytest.fixture(scope="module")
def stored(realdata, backbone, folder):
    """The set's folder and its store, made where they are missing."""

    def get(dataset):
        root, store = folder / "sets" / dataset, folder / "stores" / f"{dataset}-efficientnet.zarr"
        if not (root / GROUPS).exists():
            compose_set(realdata, SETS[dataset], root)
        if not (store / "READY").exists():
            extract_set(dataset, root, backbone, "float16", store)
        return root, store

    return get


@pytest.mark.parametrize("dataset", ["ave", "llp"])
def test_scores_over_clips_and_assets(stored, folder, dataset):
    prepare_process()
    root, path = stored(dataset)
    assets = _read_assets(root / GROUPS)
    with TokenStore.open(path) as store:
        train = [row["clip"] for row in store.samples.select(["clip", "split"]).to_pylist() if row["split"] == "train"]
    selections = _selections(sorted(set(train)), assets)
    curves = []
    for selection, clips in selections.items():
        for head, scores in _scores(path, dataset, selection, clips, folder, root / GROUPS).items():
            curves.append({"selection": selection, "clips": len(clips), "head": head, **scores})
    out = folder / "curves" / f"{dataset}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(curves, indent=2))
    draw_curves(dataset, curves, out.parent)
    print_curves(dataset, curves)
    assert {curve["clips"] for curve in curves} == {len(clips) for clips in selections.values()}
    best = max(curve["score"] for curve in curves if curve["selection"] == "all clips")
    least = max(curve["score"] for curve in curves if curve["selection"] == "a quarter")
    assert best > least, "a curve that does not rise says nothing of the data"


def _read_assets(path):
    """Picture and recording of every clip."""
    with path.open(encoding="utf-8") as file:
        return {row["clip"]: (row["picture"], row["recording"]) for row in csv.DictReader(file)}


def _selections(train, assets):
    """Train clips by the name of the selection: shares of them, and those of few assets beside as many of all."""
    shuffled = sorted(train, key=lambda clip: hashlib.blake2b(clip.encode()).digest())
    chosen = {name: shuffled[: round(share * len(train))] for name, share in SHARES.items()}
    few = _few_assets(shuffled, assets)
    return {**chosen, "few assets": few, "as many of all assets": shuffled[: len(few)]}


def _few_assets(clips, assets):
    """Clips that show one of the first half of the pictures and play one of the first half of the recordings.

    Half by class: an asset's folder is named after it.
    """
    kept = set()
    for place in (0, 1):
        by_class = defaultdict(list)
        for clip in sorted(clips):
            asset = assets[clip][place]
            if asset not in by_class[_class_of(asset)]:
                by_class[_class_of(asset)].append(asset)
        kept |= {asset for several in by_class.values() for asset in several[: max(1, len(several) // 2)]}
    return [clip for clip in clips if kept.issuperset(assets[clip])]


def _class_of(asset):
    return Path(asset).stem.rstrip("0123456789_-")


def _scores(path, dataset, selection, clips, folder, groups):
    """Each head's mean score, and its difference to the linear probe with the interval over seeds and assets."""
    more = len(_train_clips(path)) / len(clips)
    train = (f"train.epochs={round(EPOCHS * more)}", f"train.step_size={round(STEP_SIZE * more)}")
    terms, scores = {}, {}
    for head, keys in HEADS.items():
        with TokenStore.open(path) as store:
            store.samples = _only(store.samples, clips)
            recipe = load_recipe(f"{dataset}-small", [LAST_LAYERS, *train, *keys])
            out = folder / "curves" / dataset / selection.replace(" ", "-") / head.replace(" ", "-")
            out.mkdir(parents=True, exist_ok=True)
            split = read_split(store, "test")
            subject = Subject(store=store, recipe=recipe, split=split, device=choose_device("cpu"), folder=out)
            predictions = heads_of(subject, "float16", range(SEEDS), Silent())
            task = bind_task(recipe, store)
            terms[head] = np.stack([task.sample_scores(each, split.rows) for each in predictions])
            tested = [store.samples["clip"][row].as_py() for row in split.rows]
    columns = group_columns(read_groups(groups), tested, where=groups)
    for head, own in terms.items():
        by_seed = own.mean(1)
        scores[head] = {"score": float(by_seed.mean()), "spread": float(by_seed.std(ddof=1))}
        if head != BASE:
            one = widest_interval(own - terms[BASE], columns)
            scores[head] |= {"difference": one.mean, "low": one.low, "high": one.high}
    return scores


def _train_clips(path):
    with TokenStore.open(path) as store:
        rows = store.samples.select(["clip", "split"]).to_pylist()
    return {row["clip"] for row in rows if row["split"] == "train"}


def _only(samples, clips):
    """The samples, where of the train split those of other clips are in no split that is read."""
    chosen = set(clips)
    splits = [
        "unused" if split == "train" and clip not in chosen else split
        for clip, split in zip(samples["clip"].to_pylist(), samples["split"].to_pylist(), strict=True)
    ]
    return samples.set_column(samples.column_names.index("split"), "split", pa.array(splits))


def draw_curves(dataset, curves, folder):
    """Scores over the number of clips, of all assets; bands are a standard deviation of the seeds to each side."""
    drawn = []
    for head in HEADS:
        own = [curve for curve in curves if curve["head"] == head and curve["selection"] != "few assets"]
        clips, score, spread = np.array(sorted((curve["clips"], curve["score"], curve["spread"]) for curve in own)).T
        drawn.append(
            DataCurve(label=head, clips=clips.astype(int), score=score, low=score - spread, high=score + spread)
        )
    figure = draw_data_curves(
        drawn, score_label="test score, %", interval="± 1 s.d. of 5 seeds", data_label="train clips"
    )
    save_figure(figure, folder, f"{dataset}-data-curve")


def print_curves(dataset, curves):
    print(f"\n{dataset}, {SEEDS} seeds\n| train clips | head | score | less {BASE} | 95 % interval |")  # noqa: T201
    print("|---|---|---|---|---|")  # noqa: T201
    for curve in curves:
        differing = "- | -"
        if "difference" in curve:
            differing = f"{curve['difference']:+.1f} | {curve['low']:+.1f} to {curve['high']:+.1f}"
        name = f"{curve['selection']} ({curve['clips']})"
        print(f"| {name} | {curve['head']} | {curve['score']:.1f} ± {curve['spread']:.1f} | {differing} |")  # noqa: T201
