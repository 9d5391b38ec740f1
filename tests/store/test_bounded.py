"""What a store declares takes no memory and no time before its bytes bear it out; measured in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mettle_cache.store.format.digests import digest
from tests.store.tiny import make_spec, rewrite_metadata, write_store

ROOT = Path(__file__).parents[2]
BUDGET = 1 << 30
CHECK = """
import sys
from pathlib import Path
from mettle_cache.errors import MettleError
from mettle_cache.store.catalog import describe_store, find_stores
from mettle_cache.store.verify import verify_store

path = Path(sys.argv[1])
find_stores(path.parent)
for entrance in (verify_store, lambda path: verify_store(path, deep=True), describe_store):
    try:
        print(getattr(entrance(path), "state", "taken"))
    except MettleError as error:
        print(len(error.message), error.message[:300])
# the peak of this process alone; what getrusage tells begins with that of its parent
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def many_clips(path):
    """As many clips as a store may have, in a list of ids that is there, and no records."""
    ids = json.dumps([f"c{number}" for number in range(1 << 21)], separators=(",", ":")).encode()
    (path / "clips.json").write_bytes(ids)
    rewrite_metadata(path, lambda head: head["key"].update(clips={"count": 1 << 21, "digest": digest(ids)}))


def lists_for_ids(path):
    ids = b"[" + b"[]," * (16 << 20) + b'"a"]'
    (path / "clips.json").write_bytes(ids)
    rewrite_metadata(path, lambda head: head["key"].update(clips={"count": (16 << 20) + 1, "digest": digest(ids)}))


def many_ids_for_few(path):
    ids = b"[" + b'"a",' * (12 << 20) + b'"a"]'
    (path / "clips.json").write_bytes(ids)
    rewrite_metadata(path, lambda head: head["key"].update(clips={"count": 2, "digest": digest(ids)}))


def large_shards(path):
    """A layer of 4 GB a clip, in files without content."""

    def change(head):
        for layer in head["key"]["layers"]:
            layer.update(tokens=1 << 14, width=1 << 16)

    rewrite_metadata(path, change)
    for shard in path.rglob("c.*"):
        with shard.open("r+b") as file:
            file.truncate((1 << 32) + 28)


def samples(path, table, **options):
    pq.write_table(table, path / "samples.parquet", **{"compression": "none", "use_dictionary": False, **options})
    content = (path / "samples.parquet").read_bytes()
    rewrite_metadata(
        path, lambda head: (head["key"]["samples"].update(rows=table.num_rows), head.update(samples=digest(content)))
    )


def rows_without_values(path):
    samples(path, pa.table({"clip": pa.nulls(19_000_000, pa.string())}))


def a_list_without_values(path):
    samples(path, pa.table({"clip": ["clip-0"], "labels": pa.array([[None] * 3_000_000], pa.list_(pa.string()))}))


def many_columns(path):
    samples(path, pa.table({f"c{number}": ["clip-0"] for number in range(20_000)}))


def dictionary(path):
    samples(path, pa.table({"clip": ["x" * 100_000] * 10_000}), compression="zstd", use_dictionary=True)


def a_long_number(path):
    text = (path / "zarr.json").read_text().replace('"format": 1', '"format": ' + "9" * 5000, 1)
    (path / "zarr.json").write_text(text)


def not_a_number(path):
    text = (path / "zarr.json").read_text().replace('"size": 192', '"size": NaN', 1)
    (path / "zarr.json").write_text(text)


def a_deep_root(path):
    (path / "zarr.json").write_text('{"attributes": {"mettle": {"key": ' + "[" * 100_000 + "]" * 100_000 + "}}}")


def a_wide_root(path):
    (path / "zarr.json").write_text('{"attributes": {"mettle": {"key": [' + "[]," * 600_000 + "1]}}}")


def a_huge_root(path):
    (path / "zarr.json").write_text('{"attributes": {"mettle": {"key": [' + "[]," * 20_000_000 + "1]}}}")


def a_name_twice(path):
    text = (path / "zarr.json").read_text().replace('"attributes": {', '"attributes": {"mettle": {},', 1)
    (path / "zarr.json").write_text(text)


def huge_records(path):
    for record in (*path.glob("commits/*"), path / "READY"):
        record.write_text('{"digest": "", "crc32c": [' + "[]," * 10_000_000 + "1]}")


def an_endless_record(path):
    with (path / "READY").open("r+b") as file:
        file.truncate(1 << 40)


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param(many_clips, marks=pytest.mark.slow),
        pytest.param(lists_for_ids, marks=pytest.mark.slow),
        pytest.param(many_ids_for_few, marks=pytest.mark.slow),
        pytest.param(large_shards, marks=pytest.mark.slow),
        rows_without_values,
        pytest.param(a_list_without_values, marks=pytest.mark.slow),
        pytest.param(many_columns, marks=pytest.mark.slow),
        pytest.param(dictionary, marks=pytest.mark.slow),
        pytest.param(a_long_number, marks=pytest.mark.slow),
        not_a_number,
        pytest.param(a_deep_root, marks=pytest.mark.slow),
        pytest.param(a_wide_root, marks=pytest.mark.slow),
        pytest.param(a_huge_root, marks=pytest.mark.slow),
        pytest.param(a_name_twice, marks=pytest.mark.slow),
        pytest.param(huge_records, marks=pytest.mark.slow),
        pytest.param(an_endless_record, marks=pytest.mark.slow),
    ],
)
def test_a_hostile_store_stays_within_the_budget(tmp_path, attack):
    write_store(tmp_path / "s.zarr", make_spec("int8", clips=2))
    if attack not in (huge_records, an_endless_record):
        (tmp_path / "s.zarr" / "READY").unlink()
    attack(tmp_path / "s.zarr")
    command = [sys.executable, "-c", CHECK, str(tmp_path / "s.zarr")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert result.returncode == 0, result.stderr[-2000:]
    *said, peak = result.stdout.splitlines()
    assert int(peak) << 10 < BUDGET
    assert "ok" not in said
    assert all(int(line.split()[0]) < 1000 for line in said if line[0].isdigit())
