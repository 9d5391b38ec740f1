"""What a store for one method costs, and what a planned extraction lacks for it."""

import json

import pytest

from mettle_cache.cli.main import run
from mettle_cache.datasets.synthetic.ave import write_demo_ave
from mettle_cache.errors import ConfigError, UsageError
from mettle_cache.layers import select_layers
from mettle_cache.pipelines.extract.config import ExtractConfig
from mettle_cache.pipelines.extract.plan import make_plan
from mettle_cache.pipelines.report.method_plan import load_method_recipe, plan_method, selection_of
from mettle_cache.pipelines.report.methods import backbone_layers
from tests.datasets.avsbench_files import write_s4

LAYERS = backbone_layers("swinv2_l", "htsat")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan") / "AVE"
    write_demo_ave(folder, train=2, val=1, test=1)
    return folder


@pytest.fixture(scope="module")
def planned(root):
    config = ExtractConfig(dataset="ave", root=root)
    return config, make_plan(config, measure=False)


def test_direct_needs_the_last_layers_alone(planned):
    plan = plan_method(*planned, method="direct")
    assert (plan.method, plan.recipe, plan.selection) == ("direct", "ave-swin-htsat", "last:1")
    assert plan.layers == ("visual/s4b02", "audio/s4b02")
    assert (plan.missing, plan.unselected, plan.pooled, plan.pooled_bytes) == ((), (), (), 0)
    by_codec = {bill.codec: bill for bill in plan.bills}
    # 55,296 and 49,152 values a frame, ten frames a clip, two bytes each, and checksums
    assert 0 < by_codec["float16"].clip_bytes - 2 * 10 * (55_296 + 49_152) < 1000
    assert by_codec["int8"].nbytes == 4 * by_codec["int8"].clip_bytes


def test_the_bill_of_all_layers_is_the_extraction_s_own(planned):
    plan = plan_method(*planned, recipe="ave-swin-htsat")
    assert plan.method == "lcd"
    assert plan.bills == tuple(bill for bill in planned[1].bills if bill.layers == "all")


def test_training_holds_sixteen_bytes_a_weight_and_two_batches(planned):
    """For the paper's best AVE row about what is measured: 3.1 to 3.4 GB at batch 16, the process included."""
    plan = plan_method(*planned, recipe="ave-swin-htsat")
    (int8,) = [bill for bill in plan.bills if bill.codec == "int8"]
    assert (plan.batch_size, plan.codec, round(plan.parameters / 1e6, 3)) == (16, "int8", 77.867)
    assert plan.training_bytes == 16 * plan.parameters + 2 * 16 * int8.clip_bytes
    small = plan_method(*planned, recipe="ave-swin-htsat", overrides=["train.batch_size=1"])
    assert plan.training_bytes - small.training_bytes == 2 * 15 * int8.clip_bytes


def test_pooled_grids_stand_beside_the_layers(planned):
    plan = plan_method(*planned, method="lst")
    assert plan.pooled == ("pooled-mean-6x6", "pooled-mean-8x8")
    # all layers but those that are on the grid already, in float16: 22 of Swin, 10 of HTS-AT
    values = 36 * (18_048 - 2 * 1536) + 64 * (4_416 - 2 * 768)
    assert plan.pooled_bytes == pytest.approx(4 * 10 * 2 * values, rel=1e-3)


def test_a_late_bundle_counts_as_a_file_of_the_last_block(planned):
    plan = plan_method(*planned, method="sherl")
    assert len(plan.layers) == 23 + 11
    # docs/methods.md, "SHERL": 28.36 M and 7.10 M parameters, kept in float32
    assert plan.companions["late-visual.safetensors"] == pytest.approx(4 * 28.36e6, rel=0.01)
    assert plan.companions["late-audio.safetensors"] == pytest.approx(4 * 7.10e6, rel=0.01)
    assert {name.split("-")[1] for name in plan.pooled} == {"mean", "max"}


def test_layers_that_the_extraction_leaves_out_are_named(root, planned):
    config = ExtractConfig(dataset="ave", root=root, layers="stages")
    plan = plan_method(config, planned[1], method="layermean")
    assert len(plan.missing) == 36 - 8
    (note,) = plan.notes()
    assert note.startswith("layermean needs visual/s1b01, visual/s2b01, visual/s3b01, visual/s3b02 and 24 more")
    assert note.endswith("would not store: --layers all")


@pytest.mark.parametrize(
    ("overrides", "missing"),
    [
        ((), ()),
        (("head.lcd_levels=[4]",), ()),
        # the head counts levels from the last one, so those between are there, too
        (("head.lcd_levels=[1,4]",), ("audio/s1b02", "audio/s2b02", "audio/s3b06")),
    ],
)
def test_placements_of_table_12_say_what_the_default_layers_lack(tmp_path, overrides, missing):
    write_s4(tmp_path / "AVS")
    config = ExtractConfig(dataset="avs-s4", root=tmp_path / "AVS")
    plan = plan_method(config, make_plan(config, measure=False), overrides=overrides)
    assert (plan.missing, plan.unselected) == (missing, missing)
    notes = list(plan.notes())
    assert [note.partition(": ")[2] for note in notes] == (
        ["--layers pyramid", "train with --set layers=pyramid"] if missing else []
    )
    if missing:
        assert notes[0].startswith(f"lcd needs {', '.join(missing)}, which this extraction would not store")
        assert notes[1].startswith(f"the recipe avs-s4-swin-htsat selects no {', '.join(missing)}")
        assert plan.bills == tuple(bill for bill in plan.bills if bill.layers == "pyramid")


@pytest.mark.parametrize(
    "selection",
    ["all", "stages", "last:1", "last:6", "visual", "visual/stages,audio/last:1", "visual/s3b05,audio/last:2"],
)
def test_a_selection_is_said_as_it_was_made(selection):
    assert selection_of(select_layers(LAYERS, selection), LAYERS) == selection


@pytest.mark.parametrize("selection", ["pyramid", "visual/s2,audio/s3b01", "visual/s1b01,visual/s4", "audio"])
def test_what_is_said_selects_the_same(selection):
    layers = select_layers(LAYERS, selection)
    assert select_layers(LAYERS, selection_of(layers, LAYERS)) == layers


def test_what_is_refused(root, planned):
    config, report = planned
    with pytest.raises(ConfigError, match="method = 'nosuch': no method is called so"):
        plan_method(config, report, method="nosuch")
    with pytest.raises(UsageError, match="recipe llp-small is for avvp, which does not take the data set 'ave'"):
        plan_method(config, report, recipe="llp-small")
    with pytest.raises(UsageError, match="there is no recipe called"):
        load_method_recipe(config, method=None, recipe="nosuch", overrides=())


def test_the_command_adds_the_method_to_the_plan(root, capsys):
    command = ["plan", "--dataset", "ave", "--root", str(root), "--no-measure", "--method", "direct"]
    assert run([*command, "--layers", "visual"]) in (0, 1)
    out = capsys.readouterr().out
    assert "direct (recipe ave-swin-htsat) needs 2 layers: --layers last:1" in out
    assert "missing    direct needs audio/s4b02, which this extraction would not store: --layers last:1" in out
    assert run([*command, "--json"]) in (0, 1)
    document = json.loads(capsys.readouterr().out)
    assert document["method"]["layers"] == ["visual/s4b02", "audio/s4b02"]
    assert run(["plan", "--dataset", "ave", "--root", str(root), "--no-measure", "--json"]) in (0, 1)
    assert "method" not in json.loads(capsys.readouterr().out)
    assert run([*command[:-1], "nosuch"]) == 2
    assert "no method is called so" in capsys.readouterr().err
