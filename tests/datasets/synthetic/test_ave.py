from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from mettle_cache.datasets import open_dataset
from mettle_cache.datasets.synthetic import write_demo_ave
from mettle_cache.datasets.synthetic.ave import CATEGORIES
from mettle_cache.errors import UsageError

SMALL = {"train": 5, "val": 2, "test": 3}


def _files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("layout", ["frames", "mp4", "mixed"])
def test_the_seed_decides_every_byte(tmp_path: Path, layout) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_demo_ave(tmp_path / name, train=1, val=1, test=2, seed=seed, layout=layout)
    assert _files(tmp_path / "a") == _files(tmp_path / "b")
    assert _files(tmp_path / "a") != _files(tmp_path / "c")


def test_splits_are_as_asked_for_and_balanced(tmp_path: Path) -> None:
    write_demo_ave(tmp_path / "AVE", train=10, val=5, test=5)
    samples = open_dataset("ave", tmp_path / "AVE").samples
    for split, count in {"train": 10, "val": 5, "test": 5}.items():
        categories = [row["category"] for row in samples.to_pylist() if row["split"] == split]
        assert len(categories) == count
        assert {categories.count(name) for name in CATEGORIES} == {count // 5}


@pytest.mark.parametrize("layout", ["frames", "mp4"])
def test_the_event_is_seen_and_heard_in_its_seconds_and_in_no_other(tmp_path: Path, layout) -> None:
    write_demo_ave(tmp_path / "AVE", **SMALL, seed=4, layout=layout)
    dataset = open_dataset("ave", tmp_path / "AVE")
    by_id = {clip.id: clip for clip in dataset.clips}
    for row in dataset.samples.to_pylist():
        inside = np.zeros(10, bool)
        inside[row["start"] : row["end"]] = True
        shape, _ = CATEGORIES[row["category"]]
        frames = np.stack(dataset.load_frames(by_id[row["clip"]])).astype(int)
        close = (np.abs(frames - np.array(shape.colour)).max(axis=-1) < 40).sum(axis=(1, 2))
        np.testing.assert_array_equal(close > 200, inside)
        sound = dataset.load_waveform(by_id[row["clip"]], 16_000)[:160_000].reshape(10, 16_000)
        np.testing.assert_array_equal(np.sqrt((sound[:, 2000:-2000] ** 2).mean(axis=1)) > 0.03, inside)


def test_sounds_of_different_categories_can_be_told_apart(tmp_path: Path) -> None:
    """A nearest neighbour on the mean spectrum of the event gets all of them: the demo is there to be learned."""
    write_demo_ave(tmp_path / "AVE", train=10, val=5, test=5, seed=9)
    dataset = open_dataset("ave", tmp_path / "AVE")
    by_id = {clip.id: clip for clip in dataset.clips}
    spectra: dict[str, list[np.ndarray]] = {"train": [], "test": [], "val": []}
    names: dict[str, list[str]] = {"train": [], "test": [], "val": []}
    for row in dataset.samples.to_pylist():
        sound = dataset.load_waveform(by_id[row["clip"]], 16_000)[16_000 * row["start"] : 16_000 * row["end"]]
        power = np.log(np.abs(np.fft.rfft(sound.reshape(-1, 400) * np.hanning(400))).mean(axis=0) + 1e-3)
        spectra[row["split"]].append(power)
        names[row["split"]].append(row["category"])
    distance = np.linalg.norm(np.stack(spectra["test"])[:, None] - np.stack(spectra["train"])[None], axis=-1)
    assert [names["train"][index] for index in distance.argmin(axis=1)] == names["test"]


def test_eight_clips_take_a_second_and_megabytes(tmp_path: Path) -> None:
    for layout, megabytes in (("frames", 4), ("mp4", 1.6)):
        started = time.process_time()
        write_demo_ave(tmp_path / layout, train=5, val=1, test=2, layout=layout)
        assert time.process_time() - started < 1.6
        assert sum(len(content) for content in _files(tmp_path / layout).values()) < megabytes * 1e6


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="is there already"):
        write_demo_ave(tmp_path)
    assert _files(tmp_path) == {"thesis.tex": b"years of work"}
    with pytest.raises(UsageError, match="is there already"):
        write_demo_ave(tmp_path / "thesis.tex")


def test_requests_that_make_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="each split of the demo data needs at least one clip"):
        write_demo_ave(tmp_path / "AVE", val=0)
    with pytest.raises(UsageError, match=r"unknown layout 'zip'\n  next: one of: frames, mp4, mixed"):
        write_demo_ave(tmp_path / "AVE", layout="zip")  # type: ignore[arg-type]
    assert not (tmp_path / "AVE").exists()


def test_an_interrupted_writer_leaves_nothing_that_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mettle_cache.datasets.synthetic import ave
    from mettle_cache.errors import DatasetError

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ave, "_write_annotations", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_demo_ave(tmp_path / "AVE", train=1, val=1, test=1)
    with pytest.raises(DatasetError, match=r"there is no Annotations.txt"):
        open_dataset("ave", tmp_path / "AVE")
