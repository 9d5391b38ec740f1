"""``mettle recode``: the document, the lines and the exit codes."""

from mettle_cache.cli.main import run
from mettle_cache.store import describe_store
from tests.store.tiny import make_spec, write_store


def test_a_store_is_recoded_and_then_there_is_nothing_to_do(mettle, tmp_path, capsys):
    old, new = tmp_path / "a.zarr", tmp_path / "b.zarr"
    write_store(old, make_spec("float16"), failed=[1])
    code, document, said = mettle("recode", old, "--codec", "int4", "--out", new)
    assert code == 0
    assert (document["written"], document["failed"], document["finished"]) == (3, 1, True)
    assert "recode float16 to int4: 3 clips" in said
    assert describe_store(new)["codec"] == "int4"
    assert run(["recode", str(old), "--codec", "int4", "--out", str(new)]) == 0
    lines = capsys.readouterr().out
    assert "int4 from float16" in lines
    assert "4: 0 written, 3 were there, 1 failed" in lines
    assert f"mettle train --from-cache {new}" in lines


def test_wrong_use_is_told_apart(mettle, tmp_path):
    store = tmp_path / "a.zarr"
    write_store(store, make_spec("int4"))
    for words, message in [
        (("int8", "--out", tmp_path / "b.zarr"), "is in int4, which has lost too much"),
        (("int4", "--out", store), "is the store itself"),
        (("int4", "--out", tmp_path / "b.zarr", "--part", "2/1"), "--part 2/1"),
    ]:
        code, document, _ = mettle("recode", store, "--codec", *words)
        assert code == 2
        assert message in document["error"]["message"]


def test_a_place_with_other_things_is_refused_before_the_pilot(mettle, tmp_path):
    write_store(tmp_path / "a.zarr", make_spec("float16"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    code, document, err = mettle("recode", tmp_path / "a.zarr", "--codec", "klt2", "--out", tmp_path / "mine")
    assert code == 1
    assert "mine holds other things and is not a token store: notes.txt" in document["error"]["message"]
    assert "look at frames" not in err
