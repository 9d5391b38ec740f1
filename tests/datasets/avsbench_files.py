"""A small AVSBench on disk, in both published layouts; pictures and sounds are random, masks are rectangles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

SIDE = 224
S4_ROWS = (
    ("aaaaaaaaaaa_0_5000", 0, "dog_barking", "train"),
    ("bbbbbbbbbbb_1000_6000", 1, "horse_clip-clop", "train"),
    ("-cccccccccc_2000_7000", 2, "dog_barking", "val"),
    ("_dddddddddd_3000_8000", 3, "dog_barking", "test"),
)
MS3_ROWS = (("eeeeeeeeeee", "train"), ("fffffffffff", "val"), ("ggggggggggg", "test"))


def rectangle(seed: int) -> np.ndarray:
    """A mask that every seed has for itself; every fifth is empty."""
    mask = np.zeros((SIDE, SIDE), bool)
    if seed % 5 != 4:
        mask[10 + seed : 100, 20 : 60 + seed] = True
    return mask


def save_picture(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def sound(seed: int) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(160_000)).astype(np.float32)


def save_waves(path: Path, waves: dict[str, np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.array(waves, dtype=object), allow_pickle=True)


def write_s4(root: Path, *, waves: bool = True) -> Path:
    """``root`` as AVSBench's S4; the sound in AVS.npy or in audio_wav."""
    data = root / "Single-source" / "s4_data"
    found: dict[Path, dict[str, np.ndarray]] = {}
    for seed, (video, _, category, split) in enumerate(S4_ROWS):
        rng = np.random.default_rng(seed)
        for k in range(1, 6):
            place = f"{split}/{category}/{video}/{video}_{k}.png"
            save_picture(data / "visual_frames" / place, rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8))
            if split != "train" or k == 1:
                save_picture(data / "gt_masks" / place, rectangle(10 * seed + k).astype(np.uint8) * 255)
        if waves:
            found.setdefault(data / "wave" / split / category / "AVS.npy", {})[f"{video}.wav"] = sound(seed)
        else:
            save_wav(data / "audio_wav" / split / category / f"{video}.wav", sound(seed))
    for path, content in found.items():
        save_waves(path, content)
    lines = ["name,start,category,split", *(",".join(map(str, row)) for row in S4_ROWS)]
    (root / "Single-source" / "s4_meta_data.csv").write_text("\n".join(lines) + "\n")
    return root


def write_ms3(root: Path, *, waves: bool = True) -> Path:
    """``root`` as AVSBench's MS3: no split folder for frames, and .mp4 in their names."""
    data = root / "Multi-sources" / "ms3_data"
    for seed, (video, split) in enumerate(MS3_ROWS):
        rng = np.random.default_rng(seed)
        for k in range(1, 6):
            frame = data / "visual_frames" / video / f"{video}.mp4_{k}.png"
            save_picture(frame, rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8))
            mask = rectangle(10 * seed + k).astype(np.uint8) * 255
            save_picture(data / "gt_masks" / split / video / f"{video}_{k}.png", mask)
        if waves:
            save_waves(data / "wave" / split / "AVS.npy", {f"{video}.wav": sound(seed)})
        else:
            save_wav(data / "audio_wav" / split / f"{video}.wav", sound(seed))
    lines = ["name,split", *(",".join(row) for row in MS3_ROWS)]
    (root / "Multi-sources" / "ms3_meta_data.csv").write_text("\n".join(lines) + "\n")
    return root


def save_wav(path: Path, samples: np.ndarray) -> None:
    """A stereo file at 16 kHz whose channels differ."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.stack([samples[::2], 0.5 * samples[::2]], 1), 16_000)
