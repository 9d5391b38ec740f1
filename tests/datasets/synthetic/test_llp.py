from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mettle_cache.datasets import open_dataset
from mettle_cache.datasets.synthetic.llp import CATEGORIES, write_demo_llp
from mettle_cache.errors import UsageError


def _files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_the_seed_decides_every_byte(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_demo_llp(tmp_path / name, train=1, val=1, test=2, seed=seed)
    assert _files(tmp_path / "a") == _files(tmp_path / "b")
    assert _files(tmp_path / "a") != _files(tmp_path / "c")


def test_an_event_is_seen_and_heard_in_its_own_seconds_and_in_no_other(tmp_path: Path) -> None:
    write_demo_llp(tmp_path / "AVVP", train=2, val=12, test=12)
    dataset = open_dataset("llp", tmp_path / "AVVP")
    assert dataset.problems(deep=True) == []
    kinds: Counter[tuple[bool, bool]] = Counter()
    for row, clip in zip(dataset.samples.to_pylist()[2:], dataset.clips[2:], strict=True):
        expected = np.zeros((2, 10), bool)
        for place, modality in enumerate(("audio", "visual")):
            for start, end in zip(row[f"{modality}_starts"], row[f"{modality}_ends"], strict=True):
                expected[place, start:end] = True
        shape, _ = CATEGORIES[row["labels"][0]]
        frames = np.stack(dataset.load_frames(clip)).astype(int)
        close = (np.abs(frames - np.array(shape.colour)).max(axis=-1) < 40).sum(axis=(1, 2))
        np.testing.assert_array_equal(close > 200, expected[1])
        sound = dataset.load_waveform(clip, 16_000).reshape(10, 16_000)
        np.testing.assert_array_equal(np.sqrt((sound[:, 2000:-2000] ** 2).mean(axis=1)) > 0.03, expected[0])
        kinds[tuple(expected.any(axis=1))] += 1
    assert kinds == {(True, True): 8, (True, False): 8, (False, True): 8}


def test_requests_that_would_overwrite_or_leave_a_split_empty_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least one video"):
        write_demo_llp(tmp_path / "AVVP", val=0)
    (tmp_path / "mine").write_text("x")
    with pytest.raises(UsageError, match="is there already"):
        write_demo_llp(tmp_path)
