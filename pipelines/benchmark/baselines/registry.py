"""The baselines, in the order of the table. A new one is a file here, and a line in ``BASELINES``."""

from __future__ import annotations

from importlib.util import find_spec

from mettle_cache.pipelines.benchmark.baselines.h5py import H5py
from mettle_cache.pipelines.benchmark.baselines.mosaicml import Mosaicml
from mettle_cache.pipelines.benchmark.baselines.numpy_memmap import NumpyMemmap
from mettle_cache.pipelines.benchmark.baselines.protocol import Baseline
from mettle_cache.pipelines.benchmark.baselines.safetensors import Safetensors
from mettle_cache.pipelines.benchmark.baselines.tensordict import Tensordict
from mettle_cache.pipelines.benchmark.baselines.tensorstore import Tensorstore
from mettle_cache.pipelines.benchmark.baselines.zarr_python import ZarrPython
from mettle_cache.pipelines.benchmark.baselines.zarrs import Zarrs

BASELINES: tuple[Baseline, ...] = (
    ZarrPython(),
    Zarrs(),
    Tensorstore(),
    H5py(),
    Safetensors(),
    Tensordict(),
    Mosaicml(),
    NumpyMemmap(),
)


def is_installed(baseline: Baseline) -> bool:
    """Whether the library can be imported here."""
    return find_spec(baseline.module) is not None
