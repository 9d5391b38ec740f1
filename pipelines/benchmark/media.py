"""Media files for the extraction bench: pictures of the size of a video's, and recordings."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from mettle_cache.datasets.synthetic import write_demo_ave

# what clips of the published data sets have, so that decoding costs what it would
PICTURE = (640, 360)
# a clip's ten pictures and its recording, with room to spare
CLIP_BYTES = 2 << 20


def write_media(root: Path, clips: int) -> None:
    """Write at least ``clips`` clips of AVE in frames/ and wave/: JPEG pictures and 16-bit WAV files."""
    write_demo_ave(root, train=max(1, clips - 2), val=1, test=1, layout="frames")
    for path in sorted((root / "frames").glob("*/*.jpg")):
        with Image.open(path) as picture:
            large = picture.resize(PICTURE, Image.Resampling.BICUBIC)
        large.save(path, quality=90)
