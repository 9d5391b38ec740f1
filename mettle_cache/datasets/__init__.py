"""What users have on disk, as clips to decode and samples to learn from."""

from mettle_cache.datasets.media_dataset import MediaDataset
from mettle_cache.datasets.protocol import Clip, Dataset, DatasetInfo, DatasetOption, MediaProblem
from mettle_cache.datasets.registry import (
    DATASETS,
    dataset_folder,
    dataset_info,
    default_root,
    list_datasets,
    open_dataset,
    resolve_options,
)

__all__ = [
    "DATASETS",
    "Clip",
    "Dataset",
    "DatasetInfo",
    "DatasetOption",
    "MediaDataset",
    "MediaProblem",
    "dataset_folder",
    "dataset_info",
    "default_root",
    "list_datasets",
    "open_dataset",
    "resolve_options",
]
