"""The error of half precision: measured on the same weights and inputs, kept beside the store, and no part of it."""

import json
import shutil
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from mettle_cache.backbones import create_backbone, shared_audio
from mettle_cache.cli.main import run
from mettle_cache.datasets import open_dataset
from mettle_cache.errors import StoreKeyError, UsageError
from mettle_cache.pipelines.extract.config import default_store_path
from mettle_cache.pipelines.extract.extractor import build_extractor, store_spec
from mettle_cache.pipelines.extract.precision import chosen_clips, precision_record
from mettle_cache.pipelines.extract.run import extract
from mettle_cache.pipelines.progress import Silent
from mettle_cache.store import describe_store, verify_store
from mettle_cache.store.precision_record import PRECISION, find_precision
from tests.pipelines.extraction import tiny, tree, write_clips


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("precision") / "AVE", train=1)


@pytest.fixture(scope="module")
def extracted(root, tmp_path_factory):
    out = tmp_path_factory.mktemp("stores") / "half.zarr"
    config = tiny(root, out, precision="bfloat16", audio="shared=mean", layers="last:2")
    return config, extract(config)


def plain_errors(dataset, clips, precision):
    """By layer, from backbones made apart and sums of numpy in double precision."""
    visual = [create_backbone("test_vit@64", weights="random", precision=one) for one in ("float32", precision)]
    backbones = {"visual": visual, "audio": [shared_audio(one) for one in visual]}
    sums = {}
    for clip in (clip for clip in dataset.clips if clip.id in clips):
        for modality, (exact, half) in backbones.items():
            media = (
                dataset.load_frames(clip) if modality == "visual" else dataset.load_waveform(clip, exact.sample_rate)
            )
            x = exact.preprocess(media, dataset.segments)
            reference, tokens = exact.forward_tokens(x), half.forward_tokens(x)
            for name in reference:
                a, b = (one[name].numpy().astype(np.float64) for one in (tokens, reference))
                for one, (p, q) in enumerate([(a, b), (standardised(a), standardised(b))]):
                    old = sums.setdefault((name, one), np.zeros(2))
                    old += [((p - q) ** 2).sum(), (q**2).sum()]
    return {key: np.sqrt(difference / squares) for key, (difference, squares) in sums.items()}


def standardised(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)


def test_the_record_is_what_other_code_finds_on_the_clips_that_it_names(extracted, root):
    config, report = extracted
    record = report.precision
    assert record == find_precision(config.out, describe_store(config.out)["key_digest"])
    assert (record.precision, len(record.clips)) == ("bfloat16", 3)
    expected = plain_errors(open_dataset("ave", root), record.clips, "bfloat16")
    assert len(record.layers) == 4
    for name, error in record.layers.items():
        assert error.tokens == pytest.approx(expected[name, 0], rel=2e-3)
        assert error.normalised == pytest.approx(expected[name, 1], rel=2e-3)
    assert f"at most {record.layers[record.worst].tokens:.2%}" in record.summary()


def test_the_stores_bytes_do_not_depend_on_the_record(extracted, root, tmp_path):
    """Taken away it comes back the same; it's of no other store, and float32 has none."""
    config, _ = extracted
    before = tree(config.out)
    name = f"companions/{PRECISION}"
    copy = shutil.copytree(config.out, tmp_path / "copy.zarr")
    (copy / name).unlink()
    assert describe_store(copy)["precision"] is None
    report = extract(replace(config, out=copy))
    assert (report.written, report.precision) == (0, find_precision(copy, describe_store(copy)["key_digest"]))
    assert tree(copy) == before
    (copy / name).write_bytes(before[name][:-9])
    assert describe_store(copy)["precision"] is None
    assert [problem.file for problem in verify_store(copy).problems] == [name]
    assert extract(replace(config, out=copy)).precision == report.precision
    assert tree(copy) == before


def test_precisions_are_not_mixed(extracted):
    config, _ = extracted
    with pytest.raises(StoreKeyError, match=r'compute\.precision: "bfloat16" -> "float32"'):
        extract(replace(config, precision="float32"))
    plain, half = (default_store_path(replace(config, precision=one)).name for one in ("float32", "float16"))
    assert (plain.count("float"), half.count("-float16-")) == (0, 1)


def test_clips_are_chosen_by_their_ids_alone():
    ids = [f"clip{number}" for number in range(100)]
    order, wanted = chosen_clips(ids, 10)
    assert wanted == 4
    assert chosen_clips(reversed(ids), 10) == (order, 4)
    assert order != sorted(ids)
    assert sorted(order) == sorted(ids)
    assert (chosen_clips(ids, 1)[1], chosen_clips(ids, 60)[1]) == (40, 2)


def test_float16_that_overflows_is_refused_before_a_store_is_begun(root, tmp_path):
    config = tiny(root, tmp_path / "half.zarr", precision="float16", audio="shared=mean", layers="last:1")
    extractor = build_extractor(config, open_dataset("ave", root))
    with torch.no_grad():
        extractor.backbones[0].trunk.network.blocks[2].mlp.fc2.bias.fill_(1e6)
    with pytest.raises(
        UsageError, match=r"--precision float16, clip .*: float16 overflows .* first in stored block 3 of 6"
    ):
        precision_record(extractor, store_spec(extractor, config), config.out, (), Silent())
    assert not config.out.exists()


def test_clips_that_cannot_be_read_are_passed_over(root, tmp_path):
    copy = shutil.copytree(root, tmp_path / "AVE")
    config = tiny(copy, tmp_path / "half.zarr", precision="bfloat16", audio="shared=mean", layers="last:1")
    extractor = build_extractor(config, open_dataset("ave", copy))
    spec = store_spec(extractor, config)
    first = chosen_clips([clip.id for clip in extractor.dataset.clips], 10)[0][0]
    record = precision_record(extractor, spec, config.out, {first}, Silent())
    assert first not in record.clips
    notes = []
    told = Silent()
    told.note = notes.append
    everything = {clip.id for clip in extractor.dataset.clips}
    assert precision_record(extractor, spec, config.out, everything, told) is None
    assert "none of 0 clips could be read" in notes[0]


def test_info_shows_every_layer(extracted, capsys):
    config, report = extracted
    assert run(["info", str(config.out)]) == 0
    shown = capsys.readouterr().out
    assert "precision  bfloat16, compared with float32 on 3 clips" in " ".join(shown.split("\n"))
    for name, error in report.precision.layers.items():
        assert any(line.split()[:2] == [name, f"{error.tokens:.2%}"] for line in shown.splitlines())
    assert run(["info", str(config.out), "--json"]) == 0
    layers = json.loads(capsys.readouterr().out)["precision"]["layers"]
    assert layers == {name: asdict(error) for name, error in report.precision.layers.items()}
