"""AVSBench from files to masks: extraction, its options, training and evaluation on tiny random backbones."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mettle_cache.errors import DatasetError, UsageError
from mettle_cache.pipelines.evaluate.evaluation import evaluate
from mettle_cache.pipelines.evaluate.export import export_run
from mettle_cache.pipelines.extract import run
from mettle_cache.pipelines.extract.plan import make_plan
from mettle_cache.pipelines.figures.compute.attention_map import run_attention
from mettle_cache.pipelines.figures.compute.mask_grid import group_mask_columns
from mettle_cache.pipelines.figures.draw import draw_figures
from mettle_cache.pipelines.figures.kinds import FigureOptions
from mettle_cache.pipelines.figures.trained import RunGroup, TrainedRun
from mettle_cache.pipelines.progress import Silent
from mettle_cache.pipelines.train.recipe import default_recipe, load_recipe
from mettle_cache.pipelines.train.sample_loader import read_split
from mettle_cache.pipelines.train.training import train
from mettle_cache.store import TokenStore
from tests.datasets.avsbench_files import rectangle, write_ms3, write_s4
from tests.pipelines.extraction import tiny, tree

CNN = "test_efficientnet@64=random"
# an FPN of eight channels and one epoch: these tests are about the plumbing
SMALL = ("head.width=8", "lcd.heads=1", "train.epochs=1")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("avs") / "AVSBench_data"
    return write_ms3(write_s4(folder))


def extract(root, out, dataset="avs-s4", **changes):
    run.extract(tiny(root, out, dataset=dataset, **{"visual": CNN, "audio": "shared", **changes}))
    return TokenStore.open(out)


@pytest.fixture(scope="module")
def s4(root, tmp_path_factory):
    return extract(root, tmp_path_factory.mktemp("stores") / "s4.zarr")


@pytest.fixture(scope="module")
def ms3(root, tmp_path_factory):
    return extract(root, tmp_path_factory.mktemp("stores") / "ms3.zarr", "avs-ms3")


def test_a_store_holds_frames_of_four_levels_and_the_masks(s4):
    assert (s4.segments, len(s4.clips)) == (1, 2 * 1 + 2 * 5)
    assert [layer.modality for layer in s4.layers] == ["visual"] * 4 + ["audio"]
    assert s4.key["extraction"]["options"] == {"train_frames": "1"}
    assert "--option" not in s4.provenance["command"]
    mask = np.frombuffer(s4.samples["masks"].to_pylist()[3][1], np.uint8)
    assert np.array_equal(np.unpackbits(mask).reshape(224, 224), rectangle(32))


def test_all_frames_of_training_videos_on_request(root, tmp_path, s4):
    whole = extract(root, tmp_path / "s4-5.zarr", options=("train_frames=5",))
    assert len(whole.clips) == 20
    assert whole.provenance["command"].endswith("--option train_frames=5")
    assert whole.key_digest != s4.key_digest
    assert read_split(whole, "train").rows == read_split(s4, "train").rows
    # a frame's tokens do not depend on which others are stored
    one, five = (s.read([s.clips.index("bbbbbbbbbbb_1000_6000_1")]).layers for s in (s4, whole))
    assert all((one[name].codes == five[name].codes).all() for name in one)


def test_each_frame_is_heard_with_its_own_second(ms3):
    name = ms3.layers[-1].name
    heard = ms3.read(range(5)).layers[name].codes
    assert all((heard[a] != heard[b]).any() for a in range(5) for b in range(a))


def test_the_plan_counts_frames_and_knows_the_option(root, tmp_path):
    def bill(**changes):
        config = tiny(root, tmp_path / "s.zarr", dataset="avs-s4", visual=CNN, audio="shared", **changes)
        return make_plan(config, measure=False)

    usual, whole = bill(), bill(options=("train_frames=5",))
    assert (usual.clips, whole.clips, usual.rows, usual.missing) == (12, 20, 4, 0)
    assert usual.chosen.layers == "visual/pyramid,audio/last:1"
    assert usual.chosen.nbytes * 20 == whole.chosen.nbytes * 12
    assert usual.chosen.nbytes < min(b.nbytes for b in usual.bills if (b.layers, b.codec) == ("all", "int8"))


@pytest.mark.parametrize("dataset", ["avs-s4", "avs-ms3"])
def test_from_store_to_masks(dataset, s4, ms3, root, tmp_path):
    store = {"avs-s4": s4, "avs-ms3": ms3}[dataset]
    assert default_recipe(store) == f"{dataset}-small"
    recipe = load_recipe(default_recipe(store), SMALL)
    report = train(store, recipe=recipe, out=tmp_path / "run")
    assert report.metric == "miou"
    exported = export_run(tmp_path / "run", store=store, repeats=1)
    assert exported.folded == {}
    assert set(exported.kept) == {"visual", "audio"}
    assert "injects each meta-token" in exported.kept["audio"]
    result = evaluate(tmp_path / "run", store=store, root=root)
    assert result.paper["setting"] == f"{dataset}-swin-shared"
    assert result.floors["all foreground"] < 50
    table = pq.read_table(result.predictions)
    assert 100 * np.mean(table["iou"].to_pylist()) == pytest.approx(result.scores["miou"])
    clips = [clip for row in read_split(store, "test").rows for clip in store.samples["clips"][row].as_py()]
    assert sorted(p.name for p in (result.artefacts / "masks").iterdir()) == sorted(f"{clip}.png" for clip in clips)
    for clip, pixels in zip(clips, table["predicted_pixels"].to_pylist(), strict=True):
        assert (np.asarray(Image.open(result.artefacts / "masks" / f"{clip}.png")) == 255).sum() == pixels
    assert json.loads((tmp_path / "run" / "result.json").read_text())["evaluation"]["test"] == result.to_json()


def test_overlays_need_the_data_set_and_do_without_it(s4, root, tmp_path, monkeypatch):
    recipe = load_recipe("avs-s4-small", SMALL)
    train(s4, recipe=recipe, out=tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    without = np.asarray(Image.open(evaluate(tmp_path / "run", store=s4).artefacts / "overlay.png"))
    given = np.asarray(Image.open(evaluate(tmp_path / "run", store=s4, root=root).artefacts / "overlay.png"))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "AVSBench_data").symlink_to(root)
    default = np.asarray(Image.open(evaluate(tmp_path / "run", store=s4).artefacts / "overlay.png"))
    assert np.array_equal(default, given)
    assert not np.array_equal(without, given)
    with pytest.raises(UsageError, match=r"the avs-s4 folder .*nowhere does not exist"):
        evaluate(tmp_path / "run", store=s4, root=tmp_path / "nowhere")


def test_masks_and_attention_are_drawn_with_their_frames(s4, root, tmp_path):
    train(s4, recipe=load_recipe("avs-s4-small", SMALL), out=tmp_path / "run")
    group = RunGroup([TrainedRun.load(tmp_path / "run", "lcd", store=s4)], "test", root, Silent())
    columns = group_mask_columns(group, 1)
    assert len(columns) == min(5, len(group.split))
    predictions = group.predictions(0)
    for column, place in zip(columns, group.examples(5), strict=True):
        row = group.split.rows[place]
        assert column.title == s4.samples["clip"][row].as_py()
        assert column.picture.ndim == 3
        assert np.array_equal(column.truth, group.task.targets([row])[0, 0].numpy())
        assert column.ious[0] == pytest.approx(100 * predictions["iou"][place, 0])
    (row, *_), layers = run_attention(group, 0)
    assert layers == (s4.layers[3].name.split("/")[1],)
    assert row.picture is not None
    assert row.maps[0].sum() == pytest.approx(1)
    options = FigureOptions(only=("masks", "attention"))
    written = draw_figures([tmp_path / "run"], tmp_path / "figures", options=options, store=s4.path, root=root)
    assert [path.name for path in written[::2]] == ["avs-s4-masks.png", "avs-s4-attention-run.png"]


def test_tpavi_and_matching_train_on_all_frames(ms3, tmp_path):
    recipe = load_recipe("avs-ms3-small", [*SMALL, "head.tpavi=true", 'head.matching="kl"'])
    report = train(ms3, recipe=recipe, out=tmp_path / "run")
    assert report.history[0]["loss_matching"] > 0


def test_a_flat_backbone_gives_the_ends_of_its_quarters(root, tmp_path):
    store = extract(root, tmp_path / "vit.zarr", visual="test_vit@64=random", audio="shared")
    depth = max(layer.block for layer in store.layers)
    quarters = [depth * n // 4 for n in range(1, 5)]
    assert [layer.block for layer in store.layers if layer.modality == "visual"] == sorted(set(quarters))


@pytest.fixture
def broken(root, tmp_path):
    return shutil.copytree(root, tmp_path / "AVSBench_data")


def test_a_mask_of_another_size_stops_the_extraction_and_names_file_and_row(broken, tmp_path):
    path = broken / "Multi-sources/ms3_data/gt_masks/train/eeeeeeeeeee/eeeeeeeeeee_2.png"
    Image.new("L", (10, 10)).save(path)
    with pytest.raises(
        DatasetError, match=r"eeeeeeeeeee_2.png: is 10 x 10 pixels, not 224 x 224 \(ms3_meta_data.csv:2\)"
    ):
        extract(broken, tmp_path / "s.zarr", "avs-ms3")
    store = extract(broken, tmp_path / "s.zarr", "avs-ms3", skip_missing=True)
    assert list(store.failed) == ["eeeeeeeeeee_2"]
    assert "ms3_meta_data.csv:2" in store.failed["eeeeeeeeeee_2"]
    assert (read_split(store, "train").rows, read_split(store, "train").dropped) == ((), (0,))


def test_a_killed_extraction_would_resume_to_the_same_bytes(root, tmp_path, s4):
    half = tmp_path / "half.zarr"
    run.extract(tiny(root, half, dataset="avs-s4", visual=CNN, audio="shared", part=(0, 2)))
    extract(root, half)
    assert tree(half) == tree(s4.path)
