"""Small extractions for tests: real media, real (tiny, random) backbones, and a store's files as bytes."""

from __future__ import annotations

from pathlib import Path

from mettle_cache.datasets.synthetic import write_demo_ave
from mettle_cache.pipelines.extract.config import ExtractConfig

VISUAL, AUDIO = "test_vit@64=random", "test_efficientnet@64=random"


def write_clips(root: Path, *, train: int = 4, val: int = 1, test: int = 1) -> Path:
    write_demo_ave(root, train=train, val=val, test=test, seed=3, layout="mixed")
    return root


def tiny(root: Path, out: Path, **changes: object) -> ExtractConfig:
    return ExtractConfig(**{"dataset": "ave", "root": root, "out": out, "visual": VISUAL, "audio": AUDIO, **changes})


def tree(store: Path) -> dict[str, bytes]:
    """Every file of a store by its relative path."""
    return {str(path.relative_to(store)): path.read_bytes() for path in sorted(store.rglob("*")) if path.is_file()}
