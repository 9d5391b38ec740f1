"""Segmentation and question answering of media, against evaluation's own predictions of the same clips."""

import json
import shutil

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from PIL import Image

from mettle_cache.cli.main import run as command
from mettle_cache.datasets.media.pictures import choose_frames
from mettle_cache.pipelines.evaluate.evaluation import evaluate
from mettle_cache.pipelines.extract.run import extract
from mettle_cache.pipelines.predict.predictor import Predictor
from mettle_cache.pipelines.train.recipe import load_recipe
from mettle_cache.pipelines.train.training import train
from mettle_cache.store import TokenStore
from tests.datasets.avqa_files import QUESTIONS, write_questions
from tests.datasets.avsbench_files import write_s4
from tests.pipelines.extraction import tiny

CNN = {"visual": "test_efficientnet@64=random", "audio": "shared"}


def trained(root, folder, dataset, recipe, *overrides):
    extract(tiny(root, folder / "store.zarr", dataset=dataset, **CNN))
    train(TokenStore.open(folder / "store.zarr"), recipe=load_recipe(recipe, overrides), out=folder / "run")
    evaluate(folder / "run")
    shutil.move(folder / "store.zarr", folder / "gone.zarr")
    return folder / "run"


def test_masks_are_those_of_evaluation(tmp_path, capsys):
    data = write_s4(tmp_path / "AVSBench_data", waves=False) / "Single-source" / "s4_data"
    small = ("head.width=8", 'method="linear"', "train.epochs=1")
    run = trained(tmp_path / "AVSBench_data", tmp_path, "avs-s4", "avs-s4-small", *small)
    video = "_dddddddddd_3000_8000"
    (frames,) = data.glob(f"visual_frames/test/*/{video}")
    (sound,) = data.glob(f"audio_wav/test/*/{video}.wav")
    out = tmp_path / "answers"
    assert command(["predict", str(run), str(frames), "--sound", str(sound), "--out", str(out), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["answered"]
    for second in range(5):
        ours = np.asarray(Image.open(out / row["name"] / "masks" / f"{second:06d}.png"))
        theirs = np.asarray(Image.open(run / "artefacts-test" / "masks" / f"{video}_{second + 1}.png"))
        assert np.array_equal(ours, theirs)
        assert row["foreground"][second] == pytest.approx((ours > 0).mean(), abs=1e-6)
    with av.open(str(out / f"{row['name']}.mp4")) as container:
        assert [len(container.streams.video), len(container.streams.audio)] == [1, 1]


def write_avqa(root):
    """Twelve seconds a video: a picture a second, and sound."""
    write_questions(root)
    rng = np.random.default_rng(5)
    (root / "raw_audio").mkdir()
    for clip in {question[0] for split in QUESTIONS.values() for question in split}:
        (root / "video_frames" / clip).mkdir(parents=True)
        for number in range(12):
            picture = Image.fromarray(rng.integers(0, 256, (48, 64, 3), np.uint8))
            picture.save(root / "video_frames" / clip / f"{number + 1:04d}.jpg")
        soundfile.write(root / "raw_audio" / f"{clip}.wav", 0.1 * rng.standard_normal(12 * 16_000), 16_000)
    return root


def test_answers_are_those_of_evaluation_and_say_where_they_looked(tmp_path):
    root = write_avqa(tmp_path / "AVQA")
    small = ('method="linear"', "head.dim=16", "train.epochs=1", "train.batch_size=2", "head.negative_videos=2")
    run = trained(root, tmp_path, "music-avqa", "music-avqa-small", *small)
    predictor = Predictor.load(run)
    (expected,) = [
        row for row in pq.read_table(run / "predictions-test.parquet").to_pylist() if row["clip"] == "00000045"
    ]
    answer = predictor(
        root / "video_frames" / "00000045", question=expected["question"], sound=root / "raw_audio" / "00000045.wav"
    )
    (row,) = answer.rows()
    assert row["answer"] == expected["prediction"]
    names = predictor.head.origin.vocabulary["answers"]
    scores = {one["answer"]: one["probability"] for one in row["answers"]}
    np.testing.assert_allclose([scores[name] for name in names], expected["scores"], atol=1e-5)
    assert [one["second"] for one in row["looked"]] == choose_frames(12, 10)
    for share in ("seen", "heard"):
        assert sum(one[share] for one in row["looked"]) == pytest.approx(1, abs=1e-5)
