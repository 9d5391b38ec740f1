"""What each codec costs heads on five composed sets with two pretrained backbones: the table of the README.

Run with ``make study``, or one set with ``pytest -m study -s -k "s4 and efficientnet"``. Everything is kept under
``build/study`` (or the folder that ``METTLE_STUDY`` names): a second run goes on where the first one stopped. Prints
one table. The scenes are composed and the heads are small, so no figure may be compared with a published one.
"""

import json
import os
from pathlib import Path

import pytest

from tests.integration.composed import GROUPS, SETS, compose_set
from tests.integration.conftest import ROOT, extract_set, mettle

pytestmark = [pytest.mark.study, pytest.mark.realdata]

CODECS = "int8,int4,klt2,klt1.5"
SEEDS = 5
BACKBONES = {
    "efficientnet": ("tf_efficientnet_lite0", "tf_efficientnet_lite0.safetensors"),
    "vit": ("vit_small_patch14_dinov2@224", "vit_small_patch14_dinov2_saliency.safetensors"),
}
# all twelve blocks of a ViT would be 32 GB of AVE in float16, of which the heads read two
LAYERS = {("ave", "vit"): ("--layers", "last:2"), ("llp", "vit"): ("--layers", "last:2")}
VARIANTS = {"": (), "trained W_g": ("lcd.pretrained_branch=linear",)}
CASES = [
    *((dataset, backbone, "") for backbone in BACKBONES for dataset in SETS),
    *(("ave", backbone, "trained W_g") for backbone in BACKBONES),
]


@pytest.fixture(scope="module")
def folder():
    return Path(os.environ.get("METTLE_STUDY", ROOT / "build" / "study"))


@pytest.fixture(scope="module")
def report_of(realdata, folder):
    """The comparison's document of a set, a backbone and a variant of the head."""

    def report(dataset, backbone, variant):
        made, root = SETS[dataset], folder / "sets" / dataset
        if not (root / GROUPS).exists():
            compose_set(realdata, made, root)
        store = folder / "stores" / f"{dataset}-{backbone}.zarr"
        if not (store / "READY").exists():
            name, weights = BACKBONES[backbone]
            model = f"{name}={realdata / 'weights' / weights}"
            extract_set(dataset, root, model, "float16", store, *LAYERS.get((dataset, backbone), ()))
        out = folder / "heads" / "-".join(filter(None, (dataset, backbone, variant.replace(" ", "-"))))
        switches = [word for key in (*made.heads, *VARIANTS[variant]) for word in ("--set", key)]
        options = ("--codecs", CODECS, "--seeds", SEEDS, "--groups", root / GROUPS, "--out", out)
        document = mettle("compare-codecs", store, *options, *switches)
        (out / "report.json").write_text(json.dumps(document, indent=2))
        return document

    return report


@pytest.mark.parametrize(("dataset", "backbone", "variant"), CASES)
def test_what_codecs_cost(report_of, dataset, backbone, variant):
    report = report_of(dataset, backbone, variant)
    print_table(report, " ".join(filter(None, (dataset, backbone, variant))))
    rows = {row["codec"]: row for row in report["rows"]}
    # what int8 loses is below what anyone resolves, and below what a mean token loses where that can be seen at all
    assert rows["int8"]["difference"]["high"] > -1
    if report["judges_klt"]:
        assert rows["klt0"]["difference"]["mean"] < rows["int8"]["difference"]["mean"]
    assert rows["clipmean"]["changed"] > rows["int8"]["changed"]


def print_table(report, name):
    grouped = ", ".join(f"{count} by {column}" for column, count in report["groups"].items())
    print(f"\n{name}: {report['samples']} test samples ({grouped}), {report['seeds']} seeds, {report['epochs']} epochs")  # noqa: T201
    print(f"| codec | bytes a clip | {report['metric']} | less float16 | 95 % interval | changed |")  # noqa: T201
    print("|---|---|---|---|---|---|")  # noqa: T201
    for row in report["rows"]:
        size, one = "-" if row["clip_bytes"] is None else f"{row['clip_bytes']:,}", row["difference"]
        differing = f"{one['mean']:+.2f} | {one['low']:+.2f} to {one['high']:+.2f}" if one else "- | -"
        score = f"{row['score']:.2f} ± {row['spread']:.2f}"
        print(f"| {row['codec']} | {size} | {score} | {differing} | {100 * row['changed']:.1f} % |")  # noqa: T201
    print(f"judges klt: {report['judges_klt']}, judges at all: {report['judges']}")  # noqa: T201
