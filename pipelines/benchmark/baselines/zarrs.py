"""zarrs: zarr-python's API over a codec pipeline in Rust."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mettle_cache.pipelines.benchmark.baselines.protocol import Source
from mettle_cache.pipelines.benchmark.baselines.zarr_python import ZarrSession, open_arrays


@dataclass(frozen=True)
class Zarrs:
    name: str = "zarrs"
    module: str = "zarrs"
    package: str = "zarrs"
    how: str = "array[clip] through ZarrsCodecPipeline, on the same store"
    own_files: bool = False

    def write(self, source: Source) -> None:
        """Nothing: it reads the store itself."""

    @contextmanager
    def open(self, source: Source) -> Iterator[ZarrSession]:
        import zarr
        import zarrs  # noqa: F401 - registers the pipeline

        choice = {"codec_pipeline.path": "zarrs.ZarrsCodecPipeline", "threading.max_workers": source.threads}
        with zarr.config.set(choice):
            yield open_arrays(source)
