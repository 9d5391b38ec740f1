"""Birds: ``birds.csv`` (id, split, species), a picture a second in ``pictures/<id>/``, a song in ``songs/<id>.wav``."""

import csv
from pathlib import Path

import pyarrow as pa

from mettle_cache.datasets.media.places import Layout, Place
from mettle_cache.datasets.media_dataset import MediaDataset, media_dataset
from mettle_cache.datasets.protocol import SAMPLE_COLUMNS, DatasetInfo
from mettle_cache.datasets.textfile import Problems, id_problem
from mettle_cache.errors import DatasetError

SEGMENTS = 4
SCHEMA = pa.schema([*SAMPLE_COLUMNS, ("species", pa.string())])
LAYOUT = Layout(frames=(Place("pictures"),), audio=(Place("songs", ".wav"),))


def open_birds(root: Path) -> MediaDataset:
    """The birds below ``root``. Raises DatasetError with every problem of the table."""
    table = root / "birds.csv"
    if not table.is_file():
        raise DatasetError(f"there is no birds.csv in {root}", hint="give its folder with --root")
    problems = Problems()
    rows = []
    with table.open(newline="", encoding="utf-8") as lines:
        for number, row in enumerate(csv.DictReader(lines), start=2):
            problem = id_problem(row.get("id") or "")
            if problem:
                problems.add(f"{table}:{number}: {problem}")
            rows.append(row)
    problems.raise_if_any(root)
    columns = {
        "row": list(range(len(rows))),
        "clip": [row["id"] for row in rows],
        "split": [row["split"] for row in rows],
        "species": [row["species"] for row in rows],
    }
    return media_dataset(
        name=BIRDS.name,
        root=root,
        segments=SEGMENTS,
        samples=pa.table(columns, schema=SCHEMA),
        vocabulary={"species": sorted(set(columns["species"]))},
        layout=LAYOUT,
    )


BIRDS = DatasetInfo(
    name="birds",
    title="Birds by picture and song",
    segments=SEGMENTS,
    default_root=Path("data/birds"),
    layouts=("birds.csv, pictures/<id>/%04d.jpg and songs/<id>.wav",),
    open=open_birds,
)
