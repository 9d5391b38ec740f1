"""Video parsing through the pipelines: recipe, parameters, training from weak labels, ten scores, and refusals."""

import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from mettle_cache.decoders.mmpyr import MMPyramid
from mettle_cache.errors import UsageError
from mettle_cache.pipelines.evaluate.evaluation import evaluate
from mettle_cache.pipelines.evaluate.export import export_run, load_exported
from mettle_cache.pipelines.figures.compute.meta_token_map import MapOptions, run_maps
from mettle_cache.pipelines.figures.compute.timelines import group_timelines
from mettle_cache.pipelines.figures.trained import RunGroup, TrainedRun
from mettle_cache.pipelines.progress import Silent
from mettle_cache.pipelines.report.params import count_trainable, params_table
from mettle_cache.pipelines.train.recipe import default_recipe, load_recipe
from mettle_cache.pipelines.train.task import bind_task
from mettle_cache.pipelines.train.training import train
from mettle_cache.store import StoreSpec, StoreWriter, TokenStore, get_codec
from mettle_cache.store.format.codecs import encode_layers
from mettle_cache.tasks.avvp.task import AvvpTask
from tests.pipelines.tiny_store import LAYERS, SEGMENTS

CATEGORIES = ["Speech", "Dog", "Cello"]
SOURCES = ["AVVP_eval_audio.csv: SHA-256 0", "AVVP_eval_visual.csv: SHA-256 1"]
SMALL = ["lcd.dim=16", "train.epochs=25", "train.learning_rate=5e-3", "head.mmpyr.ffn=32"]


def make_video(index, split):
    """One category heard and one seen, the same one in every second video, in different seconds."""
    heard, seen = CATEGORIES[index % 3], CATEGORIES[(index + index % 2) % 3]
    return {
        "clip": f"{split}{index:03d}",
        "split": split,
        "audio": (heard, index % 4, 6 + index % 4),
        "visual": (seen, 2 + index % 3, 8 + index % 3),
    }


def make_samples(videos, motion):
    columns = {
        "row": list(range(len(videos))),
        "clip": [video["clip"] for video in videos],
        "split": [video["split"] for video in videos],
        "filename": [f"{video['clip']}_0_10" for video in videos],
        "labels": [sorted({video["audio"][0], video["visual"][0]}) for video in videos],
    }
    for modality in ("audio", "visual"):
        for place, part in enumerate(("labels", "starts", "ends")):
            columns[f"{modality}_{part}"] = [
                None if video["split"] == "train" else [video[modality][place]] for video in videos
            ]
    table = pa.table(columns, schema=AvvpTask.sample_schema)
    if not motion:
        return table
    noise = torch.randn(len(videos), SEGMENTS, 512, generator=torch.Generator().manual_seed(0)).half().numpy()
    return table.append_column("motion", pa.array([values.tobytes() for values in noise], pa.binary()))


def clip_tokens(video, index):
    """A direction of the category in the tokens of its modality, in its seconds."""
    generator = torch.Generator().manual_seed(index)
    tokens = {}
    for number, layer in enumerate(LAYERS):
        x = torch.randn(SEGMENTS, layer.tokens, layer.width, generator=generator)
        category, start, end = video[layer.modality]
        directions = torch.randn(3, layer.width, generator=torch.Generator().manual_seed(100 + number))
        x[start:end] += 2 * directions[CATEGORIES.index(category)]
        tokens[layer.name] = x
    return tokens


@pytest.fixture(scope="module")
def write_store(tmp_path_factory):
    """``write_store(motion)``: a finished store in the form that extraction gives LLP's."""
    written = {}

    def write(motion=False):
        if motion not in written:
            counts = {"train": 36, "val": 12, "test": 12}
            videos = [make_video(index, split) for split, count in counts.items() for index in range(count)]
            spec = StoreSpec(
                dataset="llp",
                segments=SEGMENTS,
                layers=LAYERS,
                codec="int8",
                clips=tuple(video["clip"] for video in videos),
                samples=make_samples(videos, motion),
                vocabulary={"categories": CATEGORIES, "dense_annotations": SOURCES},
            )
            path = tmp_path_factory.mktemp("llp") / "llp.zarr"
            with StoreWriter.create_or_resume(path, spec) as writer:
                for index, video in enumerate(videos):
                    codes = encode_layers(clip_tokens(video, index), get_codec("int8"))
                    writer.write_clip(index, codes, source=f"{index:032x}")
                writer.finish()
            written[motion] = TokenStore.open(path)
        return written[motion]

    return write


def test_the_published_recipe_has_the_paper_s_hyper_parameters():
    recipe = load_recipe("llp-swin-htsat")
    assert (recipe.task, recipe.method, recipe.layers) == ("avvp", "lcd", "stages")
    assert (recipe.method_options.dim, recipe.method_options.k_visual, recipe.method_options.k_audio) == (256, 1, 1)
    assert (recipe.method_options.steps_visual, recipe.method_options.steps_audio) == (1, 1)
    assert (recipe.train.batch_size, recipe.train.epochs, recipe.train.learning_rate) == (16, 15, 3e-4)
    assert (recipe.train.step_size, recipe.train.gamma, recipe.train.weight_decay) == (5, 0.5, 0.0)
    assert (recipe.head.decoder, recipe.head.reads_motion) == ("mmpyr", False)
    assert (recipe.head.smoothing_audio, recipe.head.smoothing_visual) == (0.0, 0.1)
    assert (recipe.head.mmpyr.ffn, recipe.head.mmpyr.levels) == (1024, 1)


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("head.decoder=mgn", "reads_motion", True),
        ("head.motion=true", "reads_motion", True),
        ("head.mmpyr.levels=4", "mmpyr.levels", 4),
        ("head.mmpyr.heads=2", "mmpyr.heads", 2),
        ("head.han.dropout=0", "han.dropout", 0.0),
        ("head.mgn.hard=false", "mgn.hard", False),
        ("head.mgn.temporal_gate=false", "mgn.temporal_gate", False),
        ("head.smoothing_visual=0.2", "smoothing_visual", 0.2),
        ("head.video_mask=false", "video_mask", False),
    ],
)
def test_every_option_can_be_set(override, path, value):
    found = load_recipe("llp-small", [override]).head
    for part in path.split("."):
        found = getattr(found, part)
    assert found == value


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("head.decoder=hann", "head: decoder = 'hann': no decoder is called so; use one of mmpyr, han, mgn"),
        ("head.mmpyr.level=2", r"head\.mmpyr\.level: no such key; did you mean levels\?"),
        ("head.motion=maybe", "head.motion: .*Input should be 'auto'"),
        ("head.smoothing_audio=2", "head.smoothing_audio: Input should be less than or equal to 1"),
        ("head.mmpyr.levels=17", "less than or equal to 16"),
    ],
)
def test_options_that_make_no_sense_are_named(override, message):
    with pytest.raises(UsageError, match=message):
        load_recipe("llp-small", [override])


def distiller(width, tokens):
    """docs/protocols/avvp.md, "Parameter accounting": one distiller with its two norms, and its projection to 256."""
    return 4 * width**2 + 8 * width + width + tokens + 1 + width * 256 + 256


def test_parameters_are_the_closed_form_and_come_within_the_paper_s_rounding():
    (published,) = AvvpTask.published
    swin, htsat = [(192, 2304), (384, 576), (768, 144), (1536, 36)], [(96, 4096), (192, 1024), (384, 256), (768, 64)]
    taps = sum(distiller(*layer) for layer in swin + htsat)
    assert taps == 16_822_556
    with torch.device("meta"):
        head = sum(parameter.numel() for parameter in MMPyramid(256, 25).parameters())
    assert count_trainable(AvvpTask, published) == taps + head
    assert head + published.unused == 6_600_269
    (row,) = [row for row in params_table() if row["setting"] == "llp-swin-htsat"]
    assert (row["total_m"], row["difference_m"]) == (283.521, 0.021)
    assert row["trainable_percent"] == pytest.approx(8.3, abs=0.05)
    assert "registers and never uses" in str(row["counting"])


def test_a_store_of_other_backbones_gets_the_small_recipe(write_store):
    assert default_recipe(write_store()) == "llp-small"


def test_weak_labels_teach_what_is_heard_and_seen_when(write_store, tmp_path):
    store = write_store()
    trained = train(store, recipe=load_recipe("llp-small", SMALL), out=tmp_path / "run")
    assert (trained.metric, trained.selected_on) == ("segment_type_av", "val")
    report = evaluate(tmp_path / "run", store=store, pictures=False)
    assert report.floors == {"nothing predicted": pytest.approx(100 / 6)}  # half of the videos share no event
    assert report.scores["segment_type_av"] > 40
    assert len(report.scores) == 11
    assert report.paper["scores"].keys() == report.scores.keys()
    assert not [line for line in report.differs if "selected" in line]
    result = json.loads((tmp_path / "run" / "result.json").read_text())["evaluation"]["test"]
    assert result["details"]["dense_annotations"] == SOURCES
    table = pq.read_table(report.predictions)
    assert table.num_rows == 12 * 2 * SEGMENTS
    expected = [
        [CATEGORIES.index(video[modality][0])] if video[modality][1] <= t < video[modality][2] else []
        for video in (make_video(index, "test") for index in range(12))
        for modality in ("audio", "visual")
        for t in range(SEGMENTS)
    ]
    assert table["target"].to_pylist() == expected


@pytest.mark.parametrize("decoder", ["han", "mgn"])
def test_the_other_decoders_train_with_motion_features(write_store, tmp_path, decoder):
    recipe = load_recipe("llp-small", [f"head.decoder={decoder}", "head.motion=true", "lcd.dim=8", "train.epochs=1"])
    store = write_store(motion=True)
    train(store, recipe=recipe, out=tmp_path / "run")
    assert set(evaluate(tmp_path / "run", store=store, pictures=False).scores) == set(AvvpTask.published[0].scores)


@pytest.mark.parametrize("decoder", ["mmpyr", "mgn"])
def test_an_exported_head_predicts_what_the_trained_one_does_without_a_store(write_store, tmp_path, decoder):
    store = write_store(motion=True)
    recipe = load_recipe("llp-small", [f"head.decoder={decoder}", "lcd.dim=8", "train.epochs=1"])
    train(store, recipe=recipe, out=tmp_path / "run")
    report = export_run(tmp_path / "run", store=store, repeats=1)
    assert report.difference < 1e-4
    task = bind_task(recipe, store)
    given = task.inputs([0, 1], split_rows=[0, 1], rng=None).tensors
    outputs = load_exported(report.out)(store.read([0, 1]).layers, **given)
    assert outputs["video"].shape == (2, 3)


def test_a_store_without_motion_features_is_refused_by_a_head_that_reads_them(write_store):
    with pytest.raises(UsageError, match=r"holds no R\(2\+1\)D features, which this head reads\n  next: put LLP's"):
        bind_task(load_recipe("llp-small", ["head.decoder=mgn"]), write_store())


def test_the_train_split_cannot_be_scored(write_store, tmp_path):
    recipe = load_recipe("llp-small", [*SMALL, "train.epochs=1"])
    train(write_store(), recipe=recipe, out=tmp_path / "run")
    message = re.escape("sample 0 (train000_0_10, train) has weak labels only, so its segments cannot be scored")
    with pytest.raises(UsageError, match=message):
        evaluate(tmp_path / "run", split="train", store=write_store(), pictures=False)


def test_timelines_and_maps_tell_modalities_apart(write_store, tmp_path):
    store = write_store()
    train(store, recipe=load_recipe("llp-small", [*SMALL, "train.epochs=1"]), out=tmp_path / "run")
    group = RunGroup([TrainedRun.load(tmp_path / "run", "lcd", store=store)], "test", None, Silent())
    samples = {sample["clip"]: sample for sample in store.samples.to_pylist()}
    for timeline in group_timelines(group, 1):
        sample = samples[timeline.title.split(": ")[1]]
        lanes = {lane.label: lane for lane in timeline.lanes}
        for modality in ("audio", "visual"):
            (name,), (start,), (end,) = (sample[f"{modality}_{part}"] for part in ("labels", "starts", "ends"))
            lane = lanes[f"{modality}: {name}"]
            assert lane.annotated.nonzero()[0].tolist() == list(range(start, end))
            # a segment has a category where its probability and that of the video reach a half
            assert not (lane.predicted[0] & (lane.scores[0] < 0.5)).any()
    maps, categories = run_maps(group, 0, MapOptions(perplexity=5.0, segments=80))
    assert categories == tuple(CATEGORIES)
    visual, audio = maps[0], maps[2]
    assert (visual.classes != audio.classes).any()
    assert len(visual.classes) == 80
