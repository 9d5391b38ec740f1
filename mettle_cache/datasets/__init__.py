"""What users have on disk, as clips to decode and samples to learn from."""

from mettle_cache.datasets.media_dataset import MediaDataset
from mettle_cache.datasets.protocol import Clip, Dataset, DatasetInfo, MediaProblem
from mettle_cache.datasets.registry import dataset_info, default_root, list_datasets, open_dataset

__all__ = [
    "Clip",
    "Dataset",
    "DatasetInfo",
    "MediaDataset",
    "MediaProblem",
    "dataset_info",
    "default_root",
    "list_datasets",
    "open_dataset",
]
