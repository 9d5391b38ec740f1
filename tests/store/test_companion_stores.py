"""What lies in a store's folder of companions, what is wrong with it, and whom it concerns."""

import json
import shutil

import pyarrow as pa
import pytest
import zarr

from mettle_cache.pipelines.recode import RecodeConfig, recode
from mettle_cache.store import TokenStore, describe_store, repair_store, verify_store
from mettle_cache.store.companion_stores import pooled_from
from mettle_cache.store.format.metadata import load_metadata
from mettle_cache.store.verify import clips_to_verify
from tests.store.tiny import contents, make_spec, write_store

CLIPS = 4
NAME = "pooled-mean-2x2-0123abcd"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A store with a companion of its own bytes, which is as good as any."""
    path = tmp_path_factory.mktemp("stores") / "s.zarr"
    write_store(path, make_spec("int8", CLIPS))
    store = TokenStore.open(path)
    origin = {
        "how": "mean",
        "grid": [2, 2],
        "codec": "int8",
        "store": store.key_digest,
        "content": store.content_digest,
    }
    empty = pa.table({"clip": pa.array([], pa.string())})
    spec = make_spec("float16", CLIPS, samples=empty, vocabulary={}, key={"pooled": origin})
    write_store(path / "companions" / NAME, spec)
    return path


@pytest.fixture
def store(original, tmp_path):
    return shutil.copytree(original, tmp_path / "s.zarr")


def states(store):
    return {one["name"]: one["state"] for one in describe_store(store)["companions"]}


def test_they_are_listed_with_their_bytes(store):
    folder = store / "companions"
    (folder / "late-htsat.bin").write_bytes(bytes(123))
    (folder / "notes").mkdir()
    (folder / "pooled-mean-9x9-0123abcd").mkdir()
    (folder / ".lock").write_text("")
    assert states(store) == {
        "late-htsat.bin": "other",
        "notes": "other",
        NAME: "finished",
        "pooled-mean-9x9-0123abcd": "unfinished",
    }
    sizes = {one["name"]: one["nbytes"] for one in describe_store(store)["companions"]}
    assert sizes["late-htsat.bin"] == 123
    assert sizes[NAME] == sum(file.stat().st_size for file in (folder / NAME).rglob("*") if file.is_file())
    assert verify_store(store, deep=True).ok


def test_of_a_store_that_is_being_extracted_again_it_may_still_be(store):
    report = verify_store(store)
    repair_store(type(report)(**{**vars(report), "problems": ("one",), "damaged": (0,), "pooled": ()}))
    assert states(store) == {NAME: "finished"}
    write_store(store, make_spec("int8", CLIPS))
    assert states(store) == {NAME: "finished"}


@pytest.mark.parametrize("field", ["store", "content"])
def test_one_of_other_tokens_is_outdated_and_nobody_s_problem(store, field):
    shutil.rmtree(store / "companions")
    origin = dict(zip(("store", "content"), pooled_from(_key_of_other_tokens(store, field)), strict=True))
    spec = make_spec("float16", CLIPS, key={"pooled": origin})
    write_store(store / "companions" / NAME, spec)
    (store / "companions" / NAME / "visual/s1/c.0.0.0").unlink()
    assert states(store) == {NAME: "outdated"}
    report = verify_store(store, deep=True)
    assert (report.ok, report.pooled) == (True, ())


def _key_of_other_tokens(store, field):
    opened = TokenStore.open(store)
    origin = {"store": opened.key_digest, "content": opened.content_digest}
    return {"pooled": origin | {field: "0" * 32}}


def test_damage_names_companion_clip_layer_and_file_and_repair_leaves_the_store_alone(store):
    shard = store / "companions" / NAME / "visual/s1/c.0.0.0"
    data = bytearray(shard.read_bytes())
    data[3] ^= 1
    shard.write_bytes(data)
    assert verify_store(store).ok
    checked = []
    report = verify_store(store, deep=True, advance=lambda n, nbytes: checked.append(n))
    assert sum(checked) == 2 * CLIPS == clips_to_verify(load_metadata(store))
    assert (report.ok, report.state, report.problems, report.damaged) == (False, "damaged", (), ())
    (problem,) = report.all_problems
    assert str(problem) == (
        f"clip clip-0, visual/s1b01: companions/{NAME}/visual/s1/c.0.0.0: the codes are not those that were committed"
    )
    document = json.loads(json.dumps(report.to_json()))
    assert (document["state"], document["problems"]) == ("damaged", [])
    assert document["pooled"][0]["problems"][0]["clip"] == "clip-0"
    before = contents(store)
    assert repair_store(report) == 0
    assert {name for name in before if not name.startswith("companions")} <= {*contents(store)}
    assert (store / "READY").exists()
    assert states(store) == {NAME: "unfinished"}
    after = verify_store(store, deep=True)
    assert (after.ok, after.pooled[0].state, after.pooled[0].pending) == (True, "unfinished", 1)


def test_root_metadata_that_are_damaged_cost_the_companion_alone(store):
    (store / "companions" / NAME / "zarr.json").write_text("{}")
    assert states(store) == {NAME: "damaged"}
    report = verify_store(store)
    (problem,) = report.all_problems
    assert problem.file == f"companions/{NAME}/zarr.json"
    assert repair_store(report) == 0
    assert clips_to_verify(load_metadata(store)) == CLIPS


def test_a_recoded_store_has_none_of_them(store, tmp_path):
    recode(RecodeConfig(store=store, codec="float16", out=tmp_path / "f.zarr"))
    assert describe_store(tmp_path / "f.zarr")["companions"] == []
    recode(RecodeConfig(store=store, codec="int8", out=tmp_path / "copy.zarr"))
    assert not (tmp_path / "copy.zarr" / "companions").exists()


def test_zarr_s_view_has_none_of_them(store):
    group = TokenStore.open(store).to_zarr()
    assert isinstance(group, zarr.Group)
    assert sorted(name for name, _ in group.members()) == ["audio", "visual"]


def test_a_link_is_no_companion(store, tmp_path):
    moved = tmp_path / "elsewhere"
    (store / "companions").rename(moved)
    (store / "companions").symlink_to(moved)
    assert describe_store(store)["companions"] == []
    (store / "companions").unlink()
    (store / "companions").mkdir()
    (store / "companions" / NAME).symlink_to(moved / NAME)
    assert states(store) == {NAME: "other"}
