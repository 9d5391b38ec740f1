"""Annotation files of every data set, damaged at random: samples with ids that are safe, or an error that can be shown.

The seed is fixed: a failure comes again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from mettle_cache.datasets import open_dataset
from mettle_cache.datasets.textfile import id_problem
from mettle_cache.errors import DatasetError
from tests.datasets.avqa_files import write_questions
from tests.datasets.avsbench_files import MS3_ROWS, S4_ROWS
from tests.datasets.conftest import ROWS
from tests.datasets.test_llp import FILES

TURNS = 60
INSERTED = (
    b"\0",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\r",
    b"\xe9",
    b"../x",
    b"/etc/passwd",
    b"\x1b[31m",
    b"9" * 5000,
    b"[" * 3000,
    b'"',
    b",,,,",
    b"\t",
    b"&",
    b"\xe2\x80\xae",
    b"NaN",
)


def _ave(root: Path) -> list[str]:
    (root / "Annotations.txt").write_text("\n".join(ROWS) + "\n")
    for split, members in {"train": ROWS[:3], "val": ROWS[3:4], "test": ROWS[4:]}.items():
        (root / f"{split}Set.txt").write_text("\n".join(members) + "\n")
    (root / "categories.txt").write_text("\n".join(dict.fromkeys(row.split("&")[0] for row in ROWS)))
    return ["Annotations.txt", "valSet.txt", "categories.txt"]


def _ave_orders(root: Path) -> list[str]:
    (root / "Annotations.txt").write_text("\n".join(ROWS) + "\n")
    for split, members in {"train": [0, 1, 2], "val": [3], "test": [4, 5]}.items():
        with h5py.File(root / f"{split}_order.h5", "w") as file:
            file["order"] = np.array(members)
    return ["train_order.h5"]


def _folder(root: Path) -> list[str]:
    rows = ["id,split,label,start,end", "a_1,train,Dog,2,7", 'b-2,val,"Rain, heavy",,', "c,test,background,,"]
    (root / "clips.csv").write_text("\n".join(rows) + "\n")
    return ["clips.csv"]


def _llp(root: Path) -> list[str]:
    for name, lines in FILES.items():
        (root / name).write_text("\n".join(lines) + "\n")
    features = root / "LLP_dataset/feats/r2plus1d_18/aaaaaaaaaa1.npy"
    features.parent.mkdir(parents=True)
    np.save(features, np.ones((10, 512), np.float32))
    return [*FILES, "LLP_dataset/feats/r2plus1d_18/aaaaaaaaaa1.npy"]


def _avqa(root: Path) -> list[str]:
    write_questions(root)
    return ["json_update/avqa-train.json", "json_update/avqa-test.json"]


def _s4(root: Path) -> list[str]:
    (root / "Single-source").mkdir()
    lines = ["name,start,category,split", *(",".join(map(str, row)) for row in S4_ROWS)]
    (root / "Single-source/s4_meta_data.csv").write_text("\n".join(lines) + "\n")
    return ["Single-source/s4_meta_data.csv"]


def _ms3(root: Path) -> list[str]:
    (root / "Multi-sources").mkdir()
    (root / "Multi-sources/ms3_meta_data.csv").write_text("\n".join(",".join(row) for row in MS3_ROWS))
    return ["Multi-sources/ms3_meta_data.csv"]


def _damage(content: bytes, turn: int, rng: np.random.Generator) -> bytes:
    """Bits flipped, an end cut off, two pieces swapped, or something inserted that no such file should hold."""
    changed, length = bytearray(content), len(content)
    first, second = sorted(int(place) for place in rng.integers(0, length, 2))
    if turn % 4 == 0:
        for place in rng.integers(0, length, 3):
            changed[place] ^= 1 << int(rng.integers(8))
    elif turn % 4 == 1:
        del changed[first:]
    elif turn % 4 == 2:
        piece = min(40, length - second)
        changed[first : first + piece], changed[second : second + piece] = (
            content[second : second + piece],
            content[first : first + piece],
        )
    else:
        changed[first:first] = INSERTED[int(rng.integers(len(INSERTED)))]
    return bytes(changed)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("ave", _ave),
        ("ave", _ave_orders),
        ("folder", _folder),
        ("llp", _llp),
        ("music-avqa", _avqa),
        ("avs-s4", _s4),
        ("avs-ms3", _ms3),
    ],
    ids=["ave", "ave-orders", "folder", "llp", "music-avqa", "avs-s4", "avs-ms3"],
)
def test_damaged_annotations_give_safe_ids_or_an_error_that_can_be_shown(
    tmp_path: Path, name: str, write: Callable[[Path], list[str]], capfd: pytest.CaptureFixture[str]
) -> None:
    files = write(tmp_path)
    wholes = {file: (tmp_path / file).read_bytes() for file in files}
    clips = len(open_dataset(name, tmp_path).clips)
    rng, refused = np.random.default_rng(list(write.__name__.encode())), 0
    for turn in range(TURNS):
        file = files[turn // 4 % len(files)]
        (tmp_path / file).write_bytes(_damage(wholes[file], turn, rng))
        shown, opened = "", None
        try:
            opened = open_dataset(name, tmp_path)
        except DatasetError as error:
            refused += 1
            shown = error.message
        assert all(line.isprintable() for line in shown.split("\n"))
        assert opened is None or not any(id_problem(clip.id) for clip in opened.clips)
        (tmp_path / file).write_bytes(wholes[file])
    assert len(open_dataset(name, tmp_path).clips) == clips
    assert refused > TURNS // 5
    assert capfd.readouterr() == ("", "")
