"""What methods cost is counted on real models; what cannot be built says why and does not hide the others."""

import re
from pathlib import Path

import pytest

from mettle_cache.errors import UsageError
from mettle_cache.layers import LayerSpec, select_layers
from mettle_cache.methods.lcd import LCDOptions
from mettle_cache.methods.protocol import MethodKind
from mettle_cache.methods.registry import METHODS
from mettle_cache.pipelines.report.methods import (
    accepting_tasks,
    backbone_layers,
    layers_in_words,
    methods_report,
    parse_backbones,
)
from mettle_cache.registry import MethodRow

OURS = ("lcd", "linear", "direct", "layermean")


def refuse(layers, options):
    raise UsageError("it takes no layers at all")


REFUSING = MethodKind(LCDOptions, refuse)


@pytest.fixture
def row():
    """``row(target)`` registers a method called ``other`` without a word about it, as an older package does."""
    yield lambda target: METHODS.register(MethodRow("other", target))
    METHODS.unregister("other")


@pytest.fixture(scope="module")
def report():
    return {info.name: info for info in methods_report(OURS).methods}


def test_parameters_are_those_of_the_published_setting(report):
    # docs/protocols/avel.md, "Parameter accounting": 67,640,064 + 9,811,404
    assert report["lcd"].parameters == 67_640_064 + 9_811_404
    assert report["lcd"].head == pytest.approx(77.867e6, abs=500)
    assert report["linear"].parameters == 1536 * 256 + 256 + 768 * 256 + 256
    assert (report["direct"].parameters, report["direct"].head) == (0, report["linear"].head)
    assert report["layermean"].parameters > report["linear"].parameters


def test_layers_and_tasks_are_in_words(report):
    assert report["lcd"].layers == report["layermean"].layers == "all (24 + 12)"
    assert report["direct"].layers == "the last (1 + 1)"
    assert "avs" in report["lcd"].tasks
    assert accepting_tasks("direct") == report["direct"].tasks
    assert {"avel", "avvp"} <= set(report["direct"].tasks)
    assert all(info.summary and info.source and not info.problem for info in report.values())


def test_a_method_that_replays_a_block_is_counted_without_one():
    (sherl,) = methods_report(["sherl"]).methods
    assert sherl.parameters == pytest.approx(16.22e6, rel=1e-3)
    assert sherl.layers == "all but the last (23 + 11)"
    assert sherl.presets == ("official", "matched", "tiny")
    assert sherl.companions == ("late-visual.safetensors", "late-audio.safetensors")
    (maps,) = methods_report(["sherl"], backbones=("resnext101", "htsat")).methods
    assert "the backbone of visual/s4b01 has no attention block to replay" in maps.problem


def test_another_task_and_shared_backbones():
    report = methods_report(["lcd"], task="avvp", backbones=("swinv2_l", "shared"))
    (info,) = report.methods
    assert (report.recipe, info.layers) == ("llp-swin-htsat", "all (4 + 4)")
    assert [doc.key for doc in report.options["lcd"]][:2] == ["dim", "k_visual"]


def test_segmentation_counts_whole_heads():
    (info,) = methods_report(["lcd"], task="avs").methods
    assert (info.parameters, info.problem) == (None, "")
    assert info.head == pytest.approx(30.58e6, abs=5e3)  # as test_lists has it of mettle params


def test_a_method_of_a_package_needs_no_words_of_its_own(row):
    row("tests.pipelines.mean_method:KIND")
    (info,) = methods_report(["other"]).methods
    assert (info.summary, info.source, info.problem) == ("", "", "")
    assert info.parameters == 1536 * 12 + 12 + 768 * 12 + 12


@pytest.mark.parametrize(
    ("target", "problem"),
    [(f"{__name__}:REFUSING", "it takes no layers at all"), ("nosuch:KIND", "which cannot be loaded")],
)
def test_what_cannot_be_built_says_why(row, target, problem):
    row(target)
    by_name = {info.name: info for info in methods_report().methods}
    assert problem in by_name["other"].problem
    assert (by_name["other"].parameters, by_name["other"].head) == (None, None)
    assert by_name["direct"].head is not None


@pytest.mark.parametrize(
    ("selection", "words"),
    [
        ("all", "all (4 + 4)"),
        ("last:1", "the last (1 + 1)"),
        ("last:3", "the last 3 (3 + 3)"),
        ("stages", "stages (2 + 2)"),
        ("visual/s1", "2 + 0"),
        ("visual/s1,visual/s2b01,audio/s1,audio/s2b01", "all but the last (3 + 3)"),
    ],
)
def test_selections_in_words(selection, words):
    layers = [
        LayerSpec(modality=modality, stage=stage, block=block, grid=(1, 2), tokens=2, width=4)
        for modality in ("visual", "audio")
        for stage in (1, 2)
        for block in (1, 2)
    ]
    assert layers_in_words(select_layers(layers, selection), layers) == words


def test_backbones_are_two_names():
    assert parse_backbones("swinv2_l, shared") == ("swinv2_l", "shared")
    assert len(backbone_layers("swinv2_l", "shared")) == 48
    for text in ("swinv2_l", "a,b,c", "a,", ""):
        with pytest.raises(UsageError, match="must be two names, of pictures and of sound"):
            parse_backbones(text)


def test_the_table_of_the_documentation_is_this_report():
    text = (Path(__file__).parents[3] / "docs" / "methods.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \| ([\d.]+) \| (all|AVE, LLP) \|$", text, flags=re.MULTILINE)
    names = [name for name, *_ in rows]
    assert set(names) == set(METHODS.names())
    for (name, layers, millions, tasks), info in zip(rows, methods_report(names).methods, strict=True):
        assert info.name == name
        assert info.layers.removesuffix(", pooled") == layers
        assert info.parameters / 1e6 == pytest.approx(float(millions), abs=5e-4)
        assert ("avs" in info.tasks) == (tasks == "all")
